//! Launch options from flags, DDP_ variables and Cargo.toml; colors; the launcher's log.

use std::fs;
use std::path::Path;

use ddp_tests::{Ddp, Done};
use serde_json::Value;
use tempfile::{TempDir, tempdir};

fn launch(dir: &Path, flags: &[&str], script: &str) -> Ddp {
    Ddp::new(["launch"].iter().chain(flags).chain(&["--", "sh", "-c", script])).dir(dir)
}

/// The line of `--dry-run` with the number of workers.
fn planned(done: Done) -> String {
    let stdout = done.succeeds().stdout;
    stdout.lines().find(|line| line.starts_with("workers:")).unwrap_or_default().to_owned()
}

/// A workspace with one package that prints its WORLD_SIZE.
fn workspace(package: &str, workspace: &str) -> TempDir {
    let dir = tempdir().unwrap();
    let member = dir.path().join("member");
    fs::create_dir_all(member.join("src")).unwrap();
    let main = "fn main() { println!(\"{}\", std::env::var(\"WORLD_SIZE\").unwrap()) }";
    fs::write(member.join("src/main.rs"), main).unwrap();
    let manifest = format!("[package]\nname = \"settled\"\nedition = \"2024\"\n{package}");
    fs::write(member.join("Cargo.toml"), manifest).unwrap();
    let root = format!("[workspace]\nmembers = [\"member\"]\nresolver = \"3\"\n{workspace}");
    fs::write(dir.path().join("Cargo.toml"), root).unwrap();
    dir
}

#[test]
fn variables_set_options_of_every_launcher_and_errors_name_them() {
    let dir = tempdir().unwrap();
    let dry_run = |flags: &[&str]| launch(dir.path(), &[&["--dry-run"], flags].concat(), "true");
    assert_eq!(planned(dry_run(&[]).env("DDP_NPROC", "3").run()), "workers: 3");
    assert_eq!(planned(dry_run(&["--nproc", "2"]).env("DDP_NPROC", "3").run()), "workers: 2");
    assert_eq!(planned(dry_run(&["--nproc-per-node=2"]).env("DDP_GPUS", "0-7").run()), "workers: 2");
    for (name, value, message) in [
        ("DDP_NPROC", "0", "error: DDP_NPROC: invalid value `0`: expected a number from 1 to 4096"),
        ("DDP_QUIET", "maybe", "error: DDP_QUIET: invalid value `maybe`: expected 1, true, 0 or false"),
        ("DDP_SHOW", "7", "error: DDP_SHOW: rank 7 not found"),
        ("DDP_NODE_RANK", "1", "error: DDP_NODE_RANK: requires --nnodes"),
        ("DDP_MASTER_PORT", "65536", "error: DDP_MASTER_PORT: invalid value `65536`: 65536 is not in 1..=65535"),
    ] {
        dry_run(&[]).env(name, value).run().ends_with(2).says(&[message, "hint: "]);
    }
}

#[test]
fn flag_turns_off_what_a_variable_turns_on() {
    let dir = tempdir().unwrap();
    let run = |flags: &[&str]| launch(dir.path(), &[&["--nproc", "1"], flags].concat(), "echo hi").env("DDP_JSON", "1");
    assert!(run(&[]).run().succeeds().stdout.starts_with("{"));
    assert_eq!(run(&["--no-json"]).run().succeeds().stdout, "[rank 0] hi\n");
    assert!(run(&["--no-json", "--json"]).run().succeeds().stdout.starts_with("{"));
}

#[test]
fn workers_inherit_ddp_log_but_not_the_launchers_options() {
    let dir = tempdir().unwrap();
    let report = dir.path().join("report.json");
    let done = launch(dir.path(), &[], "env | grep ^DDP_ | sort")
        .env("DDP_NPROC", "1")
        .env("DDP_REPORT", &report)
        .env("DDP_PRESET", "x")
        .env("DDP_LOG", "warn")
        .run()
        .succeeds();
    assert!(report.exists());
    for name in ["DDP_NPROC", "DDP_REPORT", "DDP_PRESET"] {
        assert!(!done.stdout.contains(name), "{}", done.stdout);
    }
    assert!(done.stdout.contains("DDP_LOG=warn") && done.stdout.contains("DDP_RUN_DIR="), "{}", done.stdout);
}

#[test]
fn package_wins_over_workspace_and_a_preset_over_both() {
    let package = "[package.metadata.ddp]\nnproc = 2\n[package.metadata.ddp.preset.big]\nnproc = 3\n";
    let everything =
        "[workspace.metadata.ddp]\nnproc = 5\nquiet = true\n[workspace.metadata.ddp.preset.one]\nnproc = 1\n";
    let dir = workspace(package, everything);
    let run = |flags: &[&str]| Ddp::new(["run"].iter().chain(flags)).dir(dir.path());
    let world_size = |ddp: Ddp| {
        let done = ddp.run().succeeds();
        assert!(!done.stderr.contains("Running"), "quiet: {}", done.stderr);
        done.stdout.lines().count()
    };
    assert_eq!(world_size(run(&[])), 2);
    assert_eq!(world_size(run(&["--preset", "big"])), 3);
    assert_eq!(world_size(run(&[]).env("DDP_PRESET", "one")), 1);
    assert_eq!(world_size(run(&["--preset", "big", "--nproc", "1"])), 1);
    run(&["--nproc", "1", "--no-quiet"]).run().succeeds().says(&["Running 1 worker"]);
    run(&["--preset", "bag"]).run().ends_with(2).says(&["error: --preset bag: unknown preset; did you mean `big`?"]);
}

#[test]
fn settings_are_parsed_like_flags() {
    for (setting, message) in [
        ("nproc = 0", "nproc: invalid value `0`: expected a number from 1 to 4096"),
        ("nnodes = 0", "nnodes: invalid value `0`: 0 is not in 1..=4096"),
        ("master-port = 65536", "master-port: invalid value `65536`: 65536 is not in 1..=65535"),
        ("nproc = true", "nproc: expected an integer or a string"),
        ("node-rank = 0", "node-rank: cannot be set in Cargo.toml, as it is different on each node: pass --node-rank"),
        ("dry-run = true", "dry-run: cannot be set in Cargo.toml"),
        ("show = \"5\"", "show: rank 5 not found"),
        ("vscode = 1", "vscode: expected a boolean"),
        ("xyz = 1", "unknown key `xyz`, expected one of gpus, nproc, "),
    ] {
        let dir = workspace(&format!("[package.metadata.ddp]\n{setting}\n"), "");
        let message = format!("error: Cargo.toml [package.metadata.ddp]: {message}");
        Ddp::new(["run"]).dir(dir.path()).run().ends_with(2).says(&[&message, "hint: "]);
    }
}

#[test]
fn help_shows_variables_and_short_help_hides_opposites() {
    let help = |flag| Ddp::new(["launch", flag]).run().succeeds().stdout;
    let (short, long) = (help("-h"), help("--help"));
    for text in [&short, &long] {
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(text.contains("[env: DDP_MAX_RESTARTS]") && text.contains("--nproc-per-node"), "{text}");
    }
    assert!(!short.contains("--no-quiet") && long.contains("--no-quiet"), "{short}");
}

#[test]
fn color_flag_and_variables_decide_every_byte() {
    let dir = tempdir().unwrap();
    let run = |flags: &[&str]| {
        let all = [&["--nproc", "1", "--max-restarts", "0"], flags].concat();
        launch(dir.path(), &all, "echo out").env_remove("CARGO_TERM_COLOR").env_remove("NO_COLOR")
    };
    let is_colored = |done: Done| {
        let done = done.succeeds();
        let (plain, colored) = ("[rank 0] out\n", "\u{1b}[36m[rank 0]\u{1b}[0m out\n");
        assert!([plain, colored].contains(&&*done.stdout), "{:?}", done.stdout);
        let status =
            if done.stdout == colored { "\u{1b}[1;32m     Running\u{1b}[0m 1 worker" } else { "     Running 1 worker" };
        assert!(done.stderr.contains(status), "{:?}", done.stderr);
        done.stdout == colored
    };
    assert!(!is_colored(run(&[]).run()), "a pipe is no terminal");
    assert!(is_colored(run(&["--color", "always"]).run()));
    assert!(is_colored(run(&["--color=always"]).env("CARGO_TERM_COLOR", "never").env("NO_COLOR", "1").run()));
    assert!(is_colored(run(&[]).env("CARGO_TERM_COLOR", "always").env("NO_COLOR", "1").run()));
    assert!(!is_colored(run(&["--color", "never"]).env("CARGO_TERM_COLOR", "always").run()));
    run(&[]).env("CARGO_TERM_COLOR", "blue").run().ends_with(2).says(&["CARGO_TERM_COLOR", "auto, always or never"]);
    run(&["--color", "blue"]).run().ends_with(2).says(&["blue", "auto, always or never"]);
    // clap's own message.
    for (choice, escaped) in [("always", true), ("never", false)] {
        let help = Ddp::new(["launch", "--help", "--color", choice]).run().succeeds().stdout;
        assert_eq!(help.contains("\u{1b}["), escaped, "{help:?}");
        let wrong = Ddp::new(["--color", choice, "launch", "--no-such-flag"]).run().ends_with(2).stderr;
        assert_eq!(wrong.contains("\u{1b}["), escaped, "{wrong:?}");
    }
}

#[test]
fn log_is_off_by_default_and_its_variable_wins() {
    let dir = tempdir().unwrap();
    let run = |flags: &[&str]| {
        launch(dir.path(), &[&["--nproc", "1", "--color", "never"], flags].concat(), "true").env_remove("DDP_LOG")
    };
    assert!(!run(&[]).run().succeeds().stderr.contains("DEBUG"));
    assert!(run(&["-v"]).run().succeeds().stderr.contains("launching plan="));
    assert!(!run(&["-vv"]).env("DDP_LOG", "warn").run().succeeds().stderr.contains("DEBUG"));
    assert!(run(&[]).env("DDP_LOG", "cargo_ddp=debug").run().succeeds().stderr.contains("launching plan="));
    let json = run(&["-v"]).env("DDP_LOG_FORMAT", "json").run().succeeds().stderr;
    let events: Vec<Value> = json.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    assert!(events.iter().any(|event| event["level"] == "DEBUG" && event["message"] == "launching"), "{json}");
    run(&[]).env("DDP_LOG", "cargo_ddp=loud").run().ends_with(2).says(&["error: invalid DDP_LOG `cargo_ddp=loud`: "]);
    run(&[])
        .env("DDP_LOG_FORMAT", "xml")
        .run()
        .ends_with(2)
        .says(&["error: invalid DDP_LOG_FORMAT `xml`: expected text or json"]);
}

#[test]
fn nproc_accepts_torchruns_keywords() {
    let dir = tempdir().unwrap();
    let cores = std::thread::available_parallelism().unwrap();
    let dry_run = |nproc: &str| launch(dir.path(), &["--dry-run", "--nproc-per-node", nproc], "true").run();
    assert_eq!(planned(dry_run("cpu")), format!("workers: {cores}"));
    dry_run("gpus").ends_with(2).says(&["invalid value 'gpus' for '--nproc <N>'", "expected a number from 1 to 4096"]);
}
