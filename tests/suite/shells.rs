//! Output of `cargo ddp` for shells, man and scripts.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use ddp_tests::{Ddp, cargo_ddp, repo, stdout_of};
use tempfile::tempdir;

fn completions(shell: &str) -> String {
    Ddp::new(["completions", shell]).run().succeeds().stdout
}

/// The completions of bash for a line whose last word is being typed.
fn bash_offers(before: &str, script: &Path, words: &[&str]) -> Vec<String> {
    let quoted: Vec<_> = words.iter().map(|word| format!("'{word}'")).collect();
    let program = format!(
        "set -e\n{before}\nsource {}\nCOMP_WORDS=({})\nCOMP_CWORD={}\n\
         spec=$(complete -p {})\nfunction=$(sed -n 's/.* -F \\([^ ]*\\) .*/\\1/p' <<< \"$spec\")\n\
         set +e\n$function {} '{}' '{}'\nprintf '%s\\n' \"${{COMPREPLY[@]}}\"",
        script.display(),
        quoted.join(" "),
        words.len() - 1,
        words[0],
        words[0],
        words[words.len() - 1],
        words[words.len() - 2],
    );
    let text = stdout_of(Command::new("bash").args(["--norc", "-c", &program]));
    text.split_whitespace().map(str::to_owned).collect()
}

#[test]
fn bash_completes_commands_and_flags() {
    let dir = tempdir().unwrap();
    let script = dir.path().join("completions.bash");
    fs::write(&script, completions("bash")).unwrap();
    stdout_of(Command::new("bash").arg("-n").arg(&script));

    assert_eq!(bash_offers("", &script, &["cargo-ddp", "snap"]), ["snapshot"]);
    assert_eq!(bash_offers("", &script, &["cargo-ddp", "snapshot", "ver"]), ["verify"]);
    // As a subcommand of cargo, next to cargo's earlier completion.
    assert_eq!(bash_offers("", &script, &["cargo", "ddp", "doc"]), ["doctor"]);
    assert_eq!(bash_offers("", &script, &["cargo", "ddp", "run", "--max-r"]), ["--max-restarts"]);
    assert_eq!(bash_offers("", &script, &["cargo", "ddp", "snapshot", "prune", "--keep-l"]), ["--keep-last"]);
    let before = "_cargo() { COMPREPLY=(\"cargos-own-$2\"); }; complete -F _cargo cargo";
    assert_eq!(bash_offers(before, &script, &["cargo", "bui"]), ["cargos-own-bui"]);
    assert_eq!(bash_offers(before, &script, &["cargo", "ddp", "doc"]), ["doctor"]);
    // Sourced twice, it does not call itself.
    let twice = format!("{before}; source {}", script.display());
    assert_eq!(bash_offers(&twice, &script, &["cargo", "ddp", "doc"]), ["doctor"]);
    bash_offers(&twice, &script, &["cargo", "bui"]);
}

#[test]
fn completions_exist_for_every_shell() {
    for (shell, words) in [
        ("zsh", "#compdef cargo-ddp"),
        ("fish", "__fish_seen_subcommand_from ddp"),
        ("powershell", "Register-ArgumentCompleter -Native -CommandName 'cargo-ddp'"),
        ("elvish", "edit:completion:arg-completer[cargo-ddp]"),
    ] {
        let script = completions(shell);
        assert!(script.contains(words) && script.contains("snapshot"), "{shell}: {script}");
    }
    Ddp::new(["completions", "tcsh"]).run().ends_with(2).says(&["possible values: bash"]);
    // Where they are installed, the shells themselves read them.
    for (shell, flag) in [("zsh", "-n"), ("fish", "-n")] {
        let dir = tempdir().unwrap();
        let script = dir.path().join("script");
        fs::write(&script, completions(shell)).unwrap();
        match Command::new(shell).arg(flag).arg(&script).status() {
            Ok(status) => assert!(status.success(), "{shell} does not read its script"),
            Err(_) => ddp_tests::skipped(&format!("there is no {shell}")),
        }
    }
}

#[test]
fn man_prints_a_valid_manual_page() {
    let page = Ddp::new(["man"]).run().succeeds().stdout;
    assert!(page.contains(".TH cargo-ddp 1") && page.contains("Exit codes:"), "{page}");
    let dir = tempdir().unwrap();
    Ddp::new(["man", "--dir", dir.path().to_str().unwrap()]).run().succeeds().says(&["Written"]);
    let pages: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
    for name in ["cargo-ddp.1", "cargo-ddp-run.1", "cargo-ddp-snapshot-prune.1"] {
        assert!(dir.path().join(name).exists(), "{pages:?}");
    }
    for page in &pages {
        let groff = Command::new("groff").args(["-man", "-Tascii", "-ww", "-z"]).arg(page).output();
        let Ok(output) = groff else {
            ddp_tests::skipped("there is no groff");
            return;
        };
        let complaints = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success() && complaints.is_empty(), "{}: {complaints}", page.display());
    }
    let mut groff = Command::new("groff")
        .args(["-man", "-Tascii", "-P-bcou"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    groff.stdin.take().unwrap().write_all(page.as_bytes()).unwrap();
    let read = String::from_utf8(groff.wait_with_output().unwrap().stdout).unwrap();
    assert!(read.contains("NAME") && read.contains("SUBCOMMANDS"), "{read}");
}

#[test]
fn env_prints_the_environment_of_exec() {
    let exec = Ddp::new(["exec", "--", "sh", "-c", "printf %s \"$LIBTORCH\""]).run().succeeds().stdout;
    assert!(Path::new(&exec).join("lib/libtorch.so").exists(), "{exec}");
    let json = Ddp::new(["env", "--json"]).run().succeeds().stdout;
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json, serde_json::json!({ "LIBTORCH": exec }));
    let script = "eval \"$(\"$0\" env)\"; printf %s \"$LIBTORCH\"";
    let mut shell = Command::new("sh");
    let shell = shell.current_dir(repo()).args(["-c", script]).arg(cargo_ddp());
    assert_eq!(stdout_of(shell), exec);
}

#[test]
fn version_names_libtorchs_version() {
    let expected = format!("cargo ddp {} (libtorch 2.13.0)\n", env!("CARGO_PKG_VERSION"));
    let version = |flag| Ddp::new([flag]).run().succeeds().stdout;
    // The tests' own version is not the program's.
    let expected = expected.replace(env!("CARGO_PKG_VERSION"), "0.1.0");
    assert_eq!([version("--version"), version("-V")], [expected.clone(), expected]);
}

#[test]
fn closed_stdout_is_not_a_failure() {
    for command in ["completions bash", "man", "runs", "doctor --json"] {
        // `:` exits before anything is printed.
        let script = format!("{{ sleep 0.3; \"$0\" {command}; }} | :");
        let output = Command::new("sh").current_dir(repo()).args(["-c", &script]).arg(cargo_ddp()).output().unwrap();
        // `runs` prints a hint if there is a run here.
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(stderr.lines().all(|line| line.starts_with("hint: to debug step ")), "{command}: {stderr}");
    }
}
