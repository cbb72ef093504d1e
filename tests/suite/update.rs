//! `cargo ddp update`: what a newer template changes, and what it leaves alone.

use std::fs;
use std::path::{Path, PathBuf};

use ddp_tests::{Ddp, Done};
use tempfile::{TempDir, tempdir};

/// A `bare` project as an older version left it: its README had another line, and it had no build script.
fn older_project() -> (TempDir, PathBuf) {
    let dir = tempdir().unwrap();
    let project = dir.path().join("m");
    Ddp::new(["new", "m", "--template", "bare"]).dir(dir.path()).run().succeeds();
    let readme = fs::read_to_string(project.join("README.md")).unwrap().replace("meet and add up", "met and added up");
    fs::write(project.join("README.md"), &readme).unwrap();
    fs::remove_file(project.join("build.rs")).unwrap();
    let record = fs::read_to_string(project.join(".ddp-template.toml")).unwrap();
    let checksum = format!("{}-{:08x}", readme.len(), crc32c::crc32c(readme.as_bytes()));
    let lines =
        record.lines().filter(|line| !line.starts_with("\"build.rs\"")).map(|line| match line.split_once(" = ") {
            Some(("\"README.md\"", _)) => format!("\"README.md\" = \"{checksum}\"\n"),
            Some(("version", _)) => "version = \"0.0.1\"\n".into(),
            _ => format!("{line}\n"),
        });
    fs::write(project.join(".ddp-template.toml"), lines.collect::<String>()).unwrap();
    (dir, project)
}

fn update(project: &Path, flags: &[&str]) -> Done {
    Ddp::new(["update"].iter().chain(flags)).dir(project).run()
}

#[test]
fn a_new_project_needs_no_update() {
    let dir = tempdir().unwrap();
    for template in ["bare", "linear", "vision", "mingpt"] {
        Ddp::new(["new", template, "--template", template]).dir(dir.path()).run().succeeds();
        let done = update(&dir.path().join(template), &["--check"]).succeeds();
        assert_eq!(done.stdout, "", "{template}");
    }
}

#[test]
fn changes_are_shown_as_a_diff_and_applied_when_told() {
    let (_dir, project) = older_project();
    let checked = update(&project, &["--check"]).ends_with(1).says(&["2 files", "from version 0.0.1"]);
    assert!(checked.stdout.contains("-The ranks of a job met and added up"), "{}", checked.stdout);
    assert!(checked.stdout.contains("+The ranks of a job meet and add up"), "{}", checked.stdout);
    assert!(checked.stdout.contains("--- /dev/null\n+++ b/build.rs"), "{}", checked.stdout);
    update(&project, &[]).ends_with(2).says(&["no terminal to ask on", "--yes"]);
    assert!(!project.join("build.rs").exists(), "nothing was written yet");

    let applied = update(&project, &["--yes"]).succeeds().says(&["Updated 2 files"]);
    assert_eq!(applied.stdout, checked.stdout);
    assert!(project.join("build.rs").exists());
    assert!(fs::read_to_string(project.join("README.md")).unwrap().contains("meet and add up"));
    assert_eq!(update(&project, &["--check"]).succeeds().stdout, "");
}

#[test]
fn what_the_user_edited_stays() {
    let (_dir, project) = older_project();
    let mine = fs::read_to_string(project.join("README.md")).unwrap() + "And mine.\n";
    fs::write(project.join("README.md"), &mine).unwrap();
    fs::write(project.join("src/main.rs"), "fn main() {}\n").unwrap();
    fs::write(project.join("build.rs"), "fn main() { println!(\"mine\"); }\n").unwrap();
    for _ in 0..2 {
        let done = update(&project, &["--yes"]).succeeds().says(&["Kept README.md", "Kept build.rs"]);
        assert!(done.stdout.is_empty() && !done.stderr.contains("main.rs"), "{}{}", done.stdout, done.stderr);
        assert_eq!(fs::read_to_string(project.join("README.md")).unwrap(), mine);
    }
}

#[test]
fn what_is_no_such_project_is_refused() {
    let (dir, project) = older_project();
    update(dir.path(), &[]).ends_with(2).says(&["no .ddp-template.toml", "hint: "]);
    let record = project.join(".ddp-template.toml");
    let text = fs::read_to_string(&record).unwrap();
    fs::write(&record, text.replace("0.0.1", "999.0.0")).unwrap();
    update(&project, &["--yes"]).ends_with(2).says(&["from cargo-ddp 999.0.0"]);
    fs::write(&record, "format =").unwrap();
    update(&project, &["--yes"]).ends_with(2).says(&[".ddp-template.toml: "]);
    assert!(!project.join("build.rs").exists());
}
