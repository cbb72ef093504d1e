//! Checks of rustc, cargo, the linker and the C++ compiler.

use super::{Line, Machine};

/// The oldest Rust that this version builds with.
const NEEDED: &str = env!("CARGO_PKG_RUST_VERSION");

pub(super) fn examine(machine: &Machine) -> Vec<Line> {
    vec![rust(machine, "cargo"), rust(machine, "rustc"), linker(machine), cxx(machine)]
}

fn rust(machine: &Machine, name: &'static str) -> Line {
    let way = format!("install Rust {NEEDED} or newer with rustup: https://rustup.rs");
    // As a subcommand: the cargo that runs this program.
    let asked = if name == "cargo" { machine.variable("CARGO").map(Into::into) } else { None };
    let Some(program) = asked.or_else(|| machine.program(name)) else {
        return Line::error(name, format!("{name} not found on PATH"), way);
    };
    let text = match machine.output(&program, &["--version"], "") {
        Ok(text) => text.trim().to_owned(),
        Err(problem) => return Line::error(name, format!("{} failed: {problem}", program.display()), way),
    };
    match text.split_whitespace().nth(1).and_then(version) {
        Some(found) if version(NEEDED).is_some_and(|needed| found < needed) => {
            Line::error(name, format!("{text}, but {NEEDED} or newer is required"), "rustup update stable")
        }
        Some(_) => Line::ok(name, text),
        None => Line::warning(name, format!("unknown version: {text}"), way),
    }
}

/// `1.91.0-nightly` → (1, 91).
fn version(text: &str) -> Option<(u32, u32)> {
    let mut parts = text.split(['.', '-']);
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

fn linker(machine: &Machine) -> Line {
    match machine.program("cc") {
        Some(program) => Line::ok("linker", format!("called by {}", program.display())),
        None => Line::error("linker", "cc not found on PATH, so rustc can't link", "apt-get install gcc"),
    }
}

/// What our C++ and libtorch's headers ask for.
const SAMPLE: &str = "#include <concepts>\n#include <memory>\n\
    template <std::integral T> T twice(T x) { return 2 * x; }\nint main() { return twice(*std::make_unique<int>(0)); }\n";

fn cxx(machine: &Machine) -> Line {
    let check = "C++ compiler";
    let way = "install one with C++20: `apt-get install g++` (10 or newer), or set CXX";
    let name = machine.variable("CXX").map_or("c++".to_owned(), |name| name.to_string_lossy().into_owned());
    let Some(program) = machine.program(&name) else {
        return Line::error(check, format!("{name} not found on PATH"), way);
    };
    let first_line = |text: String| text.lines().next().unwrap_or_default().to_owned();
    let version = machine.output(&program, &["--version"], "").map(first_line);
    match machine.output(&program, &["-std=c++20", "-fsyntax-only", "-x", "c++", "-"], SAMPLE) {
        Ok(_) => Line::ok(check, version.unwrap_or_else(|_| program.display().to_string())),
        Err(problem) => {
            let version = version.map(|version| format!(" ({version})")).unwrap_or_default();
            Line::error(check, format!("{}{version} does not compile C++20: {problem}", program.display()), way)
        }
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
    fn missing_tools_are_errors() {
        let lines = examine(&Bare::new().machine);
        let found: Vec<_> = lines.iter().map(|line| (line.check, line.level, line.says.as_str())).collect();
        let expected = [
            ("cargo", Level::Error, "cargo not found on PATH"),
            ("rustc", Level::Error, "rustc not found on PATH"),
            ("linker", Level::Error, "cc not found on PATH, so rustc can't link"),
            ("C++ compiler", Level::Error, "c++ not found on PATH"),
        ];
        assert_eq!(found, expected);
        assert!(lines.iter().all(|line| line.hint.is_some()));
    }

    #[test]
    fn old_and_broken_tools_are_distinguished() {
        let bare = Bare::new();
        bare.script("rustc", "echo 'rustc 1.75.0 (82e1608df 2023-12-21)'");
        bare.script("cargo", "echo 'cargo 1.999.0-nightly (x)'");
        bare.script(
            "c++",
            "[ $1 = --version ] && { echo 'g++ 8.5'; exit; }; echo 'error: unrecognized -std=c++20' >&2; exit 1",
        );
        let [cargo, rustc, _, cxx] = <[Line; 4]>::try_from(examine(&bare.machine)).unwrap();
        assert_eq!(cargo.level, Level::Ok);
        assert!(
            rustc.level == Level::Error
                && rustc.says.contains("1.75.0")
                && rustc.says.ends_with("or newer is required")
        );
        assert!(
            cxx.level == Level::Error && cxx.says.contains("g++ 8.5") && cxx.says.contains("unrecognized"),
            "{cxx:?}"
        );
    }

    #[test]
    fn toolchain_lines_match_their_snapshot() {
        let bare = Bare::new();
        let mut lines = examine(&bare.machine);
        bare.script("cc", "");
        bare.script("rustc", "echo 'rustc 1.75.0 (82e1608df 2023-12-21)'");
        bare.script("cargo", "echo 'cargo'");
        bare.script("c++", "echo 'error: unrecognized -std=c++20' >&2; exit 1");
        lines.extend(examine(&bare.machine));
        bare.script("rustc", "echo 'error: no toolchain' >&2; exit 1");
        bare.script("cargo", "echo 'cargo 1.999.0 (x)'");
        bare.script("c++", "echo 'c++ 14.2.0'");
        lines.extend(examine(&bare.machine));
        assert_text!("toolchain", text(&lines, bare.dir.path()));
    }
}
