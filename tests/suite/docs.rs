//! The guide: its commands, their output, its links and its code are checked.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::Parser;
use clap::error::ErrorKind;
use ddp_tests::{CudaTorch, Ddp, cargo_ddp, repo};
use tempfile::tempdir;

/// Pages whose commands need a special project or machine, which the tests of those commands create.
const ELSEWHERE: [&str; 3] = ["docs/debugging.md", "docs/doctor.md", "docs/snapshots.md"];

/// The pages of the guide, and those in the root.
fn pages() -> Vec<PathBuf> {
    let folders = ["", "docs", "docs/measurements"].map(|name| fs::read_dir(repo().join(name)).unwrap());
    let files = folders.into_iter().flatten().flatten().map(|entry| entry.path());
    let mut pages: Vec<_> = files.filter(|path| path.extension().is_some_and(|end| end == "md")).collect();
    pages.extend(["tests/bench/README.md", "tests/README.md"].map(|name| repo().join(name)));
    pages.sort();
    pages
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap()
}

#[test]
fn docs_commands_after_a_dollar_print_the_shown_output() {
    let dir = tempdir().unwrap();
    let cases = trycmd::TestCases::new();
    cases.register_bin("cargo", cargo_ddp().to_owned());
    // Without the jobs, driver and variables of the user who runs the tests.
    cases.env("XDG_CACHE_HOME", dir.path().to_str().unwrap()).env("NO_COLOR", "1").env("CUDA_VISIBLE_DEVICES", "");
    // Commands write to a temporary folder.
    let sandbox = dir.path().join("page");
    fs::create_dir(&sandbox).unwrap();
    for page in pages() {
        let text = read(&page);
        let is_tested_elsewhere = ELSEWHERE.iter().any(|name| page.ends_with(name));
        if text.contains("```console") && !is_tested_elsewhere {
            fs::write(sandbox.join(page.file_name().unwrap()), text).unwrap();
            // Where trycmd runs the page's commands.
            fs::create_dir(sandbox.join(page.file_stem().unwrap()).with_extension("in")).unwrap();
        }
    }
    cases.case(sandbox.join("*.md").to_str().unwrap());
    cases.run();
}

#[test]
fn docs_links_point_to_existing_pages() {
    let mut dead = Vec::new();
    for page in pages() {
        let text = read(&page);
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if target.starts_with("http") || target.contains(char::is_whitespace) {
                continue;
            }
            let (path, anchor) = target.split_once('#').map_or((target, None), |(path, anchor)| (path, Some(anchor)));
            let path = if path.is_empty() { page.clone() } else { page.parent().unwrap().join(path) };
            let found =
                path.exists() && anchor.is_none_or(|anchor| headings(&read(&path)).contains(&anchor.to_owned()));
            if !found {
                dead.push(format!("{}: {target}", page.display()));
            }
        }
    }
    assert!(dead.is_empty(), "{dead:#?}");
}

/// A page's headings, as links name them.
fn headings(text: &str) -> Vec<String> {
    let lines = text.lines().filter_map(|line| line.trim_start_matches('#').strip_prefix(' '));
    lines
        .map(|heading| {
            let kept = heading.to_lowercase().replace(' ', "-");
            kept.chars().filter(|c| c.is_alphanumeric() || *c == '-' || *c == '_').collect()
        })
        .collect()
}

/// Every `cargo ddp …` in a code block or between back-ticks is a command that the program accepts.
#[test]
fn docs_mention_only_existing_commands() {
    let mut wrong = Vec::new();
    let mut count = 0;
    for page in pages() {
        let text = read(&page);
        let blocks = text.lines().filter_map(|line| line.strip_prefix("    "));
        // In a sentence, a command may lack required arguments.
        let whole = blocks.map(|text| (text, true)).chain(text.split('`').skip(1).step_by(2).map(|text| (text, false)));
        for (words, is_whole) in whole.filter_map(|(text, is_whole)| Some((command(text)?, is_whole))) {
            count += 1;
            let Err(err) = ::cargo_ddp::cli::Cli::try_parse_from(&words) else { continue };
            let fine = match err.kind() {
                ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => true,
                ErrorKind::MissingRequiredArgument | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => !is_whole,
                _ => false,
            };
            if !fine {
                wrong.push(format!("{}: {}: {err}", page.display(), words.join(" ")));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(count > 40, "{count} commands were found");
}

/// The words of a complete command.
fn command(text: &str) -> Option<Vec<String>> {
    let text = text.trim();
    let text = text
        .split("   ")
        .next()?
        .split(" #")
        .next()?
        .split(" > ")
        .next()?
        .split(" && ")
        .find(|part| part.contains("cargo ddp "))?;
    let rest = text.strip_prefix("cargo ddp ")?;
    // Placeholders and lists of choices are not commands.
    if rest.contains(['…', '[', '|', '<', '*']) {
        return None;
    }
    let words = rest.split_whitespace().map(str::to_owned);
    Some(std::iter::once("cargo ddp".to_owned()).chain(words).collect())
}

#[test]
fn line_by_line_page_quotes_both_programs() {
    let page = read(&repo().join("docs/from-python.md"));
    let python = read(&repo().join("docs/from-python/train.py"));
    let rust = read(&repo().join("ddp-runtime/examples/from_python.rs"));
    let table = page.lines().skip_while(|line| !line.starts_with("| Python | Rust |")).skip(2);
    let rows: Vec<_> = table.take_while(|line| line.starts_with('|')).collect();
    assert!(rows.len() > 15);
    for row in rows {
        // In a table, `|` is written `\|`.
        let row = row.replace("\\|", "\u{0}");
        let cells: Vec<_> = row.split('|').map(|cell| cell.trim().trim_matches('`').replace('\u{0}', "|")).collect();
        assert!(python.contains(&cells[1]), "train.py has no line {}", cells[1]);
        assert!(rust.contains(&cells[2]), "from_python.rs has no line {}", cells[2]);
    }
}

#[test]
fn line_by_line_python_program_trains_and_resumes() {
    let Some(torch) = CudaTorch::find() else { return };
    let dir = tempdir().unwrap();
    let script = repo().join("docs/from-python/train.py");
    // Left without Python's own exit, where torch sometimes aborts ("terminate called without an active exception").
    let whole = "import os, runpy, sys; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__'); \
                 sys.stdout.flush(); os._exit(0)";
    let train = |epochs: &str| {
        let worker = ["python3", "-c", whole, script.to_str().unwrap(), epochs, "2"];
        Ddp::new(["launch", "--nproc", "2", "--max-restarts", "0", "--"].into_iter().chain(worker))
            .dir(dir.path())
            .env("PYTHONPATH", torch.home.join("site"))
            .run()
            .succeeds()
            .stdout
    };
    assert!(train("2").contains("[rank 0] epoch 2: loss "));
    let resumed = train("3");
    assert!(resumed.contains("epoch 3: loss ") && !resumed.contains("epoch 2: "), "{resumed}");
}

#[test]
fn help_names_every_exit_code() {
    let output = Command::new(cargo_ddp()).args(["ddp", "--help"]).output().unwrap();
    let help = String::from_utf8(output.stdout).unwrap();
    let source = read(&repo().join("cargo-ddp/src/exit.rs"));
    for row in
        source.lines().filter_map(|line| line.strip_prefix("//! | ")).filter(|row| row.starts_with(char::is_numeric))
    {
        let code = row.split(' ').next().unwrap();
        assert!(
            help.lines().any(|line| line.trim_start().split("  ").next().unwrap().starts_with(code)),
            "{code} is not in:\n{help}"
        );
    }
}
