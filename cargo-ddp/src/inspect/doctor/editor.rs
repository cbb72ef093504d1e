//! Checks of VS Code's extensions and of the debuggers on this machine.

use std::collections::BTreeSet;
use std::path::PathBuf;

use super::{Line, Machine};

const RUST_ANALYZER: &str = "rust-lang.rust-analyzer";
/// Either of them debugs all ranks.
const DEBUGGERS: [&str; 2] = ["llvm-vs-code-extensions.lldb-dap", "vadimcn.vscode-lldb"];

pub(super) fn examine(machine: &Machine) -> Vec<Line> {
    let extensions = extensions(machine);
    vec![debugger(machine, extensions.as_ref()), stacks(machine), vs_code(extensions.as_ref())]
}

/// lldb-dap, under one of the names that distributions give it.
fn lldb_dap(machine: &Machine) -> Option<PathBuf> {
    let numbered = (15..=30).rev().map(|version| format!("lldb-dap-{version}"));
    ["lldb-dap".to_owned(), "lldb-vscode".to_owned()]
        .into_iter()
        .chain(numbered)
        .find_map(|name| machine.program(&name))
}

fn debugger(machine: &Machine, extensions: Option<&BTreeSet<String>>) -> Line {
    let check = "debugger";
    if let Some(program) = lldb_dap(machine) {
        return Line::ok(check, program.display().to_string());
    }
    // CodeLLDB includes a debugger.
    if extensions.is_some_and(|extensions| extensions.contains(DEBUGGERS[1])) {
        return Line::ok(check, "included in CodeLLDB");
    }
    let way = "`apt-get install lldb`, or VS Code's extension CodeLLDB (vadimcn.vscode-lldb)";
    Line::warning(check, "neither lldb-dap nor CodeLLDB found, so ranks can't be debugged", way)
}

/// The launcher dumps the stacks of a stalled job with gdb.
fn stacks(machine: &Machine) -> Line {
    let check = "stacks";
    match machine.program("gdb") {
        Some(program) => Line::ok(check, format!("{} dumps the stacks of stalled jobs", program.display())),
        None => {
            Line::warning(check, "gdb not found, so the stacks of stalled jobs can't be dumped", "apt-get install gdb")
        }
    }
}

/// The identifiers of VS Code's extensions, if VS Code is installed: as `code` lists them, or from the names of its folders
/// (`rust-lang.rust-analyzer-0.3.1-linux-x64`).
fn extensions(machine: &Machine) -> Option<BTreeSet<String>> {
    let code = machine.program("code");
    let listed = code.as_ref().and_then(|code| machine.output(code, &["--list-extensions"], "").ok());
    let mut found: BTreeSet<String> =
        listed.iter().flat_map(|text| text.lines()).map(|id| id.trim().to_lowercase()).collect();
    let home = machine.home();
    let folders =
        [".vscode/extensions", ".vscode-server/extensions"].map(|below| home.as_ref().map(|home| home.join(below)));
    let folders: Vec<_> = folders.into_iter().flatten().filter(|folder| folder.is_dir()).collect();
    for folder in &folders {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().to_lowercase();
            let ends = name.match_indices('-').find(|(at, _)| name[at + 1..].starts_with(|c: char| c.is_ascii_digit()));
            found.extend(ends.map(|(at, _)| name[..at].to_owned()));
        }
    }
    (code.is_some() || !folders.is_empty()).then_some(found)
}

fn vs_code(extensions: Option<&BTreeSet<String>>) -> Line {
    let check = "VS Code";
    let Some(extensions) = extensions else { return Line::ok(check, "not found") };
    let has = |id: &str| extensions.contains(id);
    let debugs = DEBUGGERS.iter().find(|id| has(id));
    match (has(RUST_ANALYZER), debugs) {
        (true, Some(debugger)) => Line::ok(check, format!("with {RUST_ANALYZER} and {debugger}")),
        (false, _) => Line::warning(
            check,
            format!("{RUST_ANALYZER} is missing"),
            format!("code --install-extension {RUST_ANALYZER}"),
        ),
        (true, None) => Line::warning(
            check,
            format!("neither {} is installed, so F5 can't debug ranks", DEBUGGERS.join(" nor ")),
            format!("code --install-extension {}", DEBUGGERS[0]),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Level;
    use super::super::line::text;
    use super::super::machine::tests::Bare;
    use super::*;
    use crate::snap::assert_text;

    #[test]
    fn editor_check_names_missing_extensions_and_debuggers() {
        let bare = Bare::new();
        let lines = || examine(&bare.machine);
        let levels = || lines().iter().map(|line| line.level).collect::<Vec<_>>();
        assert_eq!(levels(), [Level::Warning, Level::Warning, Level::Ok], "without VS Code");
        bare.script("gdb", "");
        bare.script("code", "echo Rust-lang.Rust-Analyzer");
        assert!(lines()[2].says.contains("F5 can't debug"), "{:?}", lines());
        // CodeLLDB is there as a folder.
        bare.write("home/.vscode-server/extensions/vadimcn.vscode-lldb-1.11.4-linux-x64/package.json", "{}");
        assert_eq!(levels(), [Level::Ok, Level::Ok, Level::Ok]);
        bare.script("lldb-dap-19", "");
        assert!(lines()[0].says.ends_with("/bin/lldb-dap-19"));
        bare.script("code", "exit 1");
        assert_eq!(lines()[2].says, "rust-lang.rust-analyzer is missing");
    }

    #[test]
    fn editor_lines_match_their_snapshot() {
        let bare = Bare::new();
        let mut lines = examine(&bare.machine);
        bare.script("code", "");
        bare.script("gdb", "");
        lines.extend(examine(&bare.machine));
        bare.script("code", "echo rust-lang.rust-analyzer");
        lines.extend(examine(&bare.machine));
        bare.script("code", "echo rust-lang.rust-analyzer; echo vadimcn.vscode-lldb");
        lines.extend(examine(&bare.machine));
        assert_text!("editor", text(&lines, bare.dir.path()));
    }
}
