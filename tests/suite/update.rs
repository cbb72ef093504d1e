//! `cargo ddp update`: which files a newer template changes, and which it leaves alone.

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
fn update_of_a_new_project_changes_nothing() {
    let dir = tempdir().unwrap();
    for template in ["bare", "linear", "vision", "mingpt"] {
        Ddp::new(["new", template, "--template", template]).dir(dir.path()).run().succeeds();
        let done = update(&dir.path().join(template), &["--check"]).succeeds();
        assert_eq!(done.stdout, "", "{template}");
    }
}

#[test]
fn update_prints_a_diff_and_applies_it_on_request() {
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
fn update_keeps_the_users_edits() {
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
fn update_refuses_other_projects() {
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

/// A `linear` project from before the library parsed options: with files that its template no longer has.
fn project_with_copied_settings() -> (TempDir, PathBuf) {
    let dir = tempdir().unwrap();
    let project = dir.path().join("m");
    Ddp::new(["new", "m", "--template", "linear"]).dir(dir.path()).run().succeeds();
    let record = project.join(".ddp-template.toml");
    let mut text = fs::read_to_string(&record).unwrap().replacen("version = \"0.1.0\"", "version = \"0.0.1\"", 1);
    for (path, content) in [("src/settings.rs", "pub fn parse() {}\n"), ("train.toml", "batch_size = 32\n")] {
        fs::write(project.join(path), content).unwrap();
        text += &format!("\"{path}\" = \"{}-{:08x}\"\n", content.len(), crc32c::crc32c(content.as_bytes()));
    }
    fs::write(&record, text).unwrap();
    (dir, project)
}

#[test]
fn file_that_the_template_dropped_is_removed_unless_it_was_edited() {
    let (_dir, project) = project_with_copied_settings();
    fs::write(project.join("train.toml"), "batch_size = 64\n").unwrap();
    let checked = update(&project, &["--check"]).ends_with(1);
    assert!(checked.stdout.contains("--- a/src/settings.rs\n+++ /dev/null"), "{}", checked.stdout);
    assert!(!checked.stdout.contains("train.toml"), "{}", checked.stdout);
    update(&project, &["--yes"]).succeeds().says(&["Updated 1 file"]);
    assert!(!project.join("src/settings.rs").exists());
    assert_eq!(fs::read_to_string(project.join("train.toml")).unwrap(), "batch_size = 64\n");
    assert_eq!(update(&project, &["--check"]).succeeds().stdout, "");
}

#[test]
fn file_that_the_template_dropped_stays_while_edited_code_may_need_it() {
    let (_dir, project) = project_with_copied_settings();
    let main = project.join("src/main.rs");
    let edited = "mod settings;\nfn main() { settings::parse() }\n";
    fs::write(&main, edited).unwrap();
    // The template has changed it, too: the record has the hash of an older file.
    let record = project.join(".ddp-template.toml");
    let text = fs::read_to_string(&record).unwrap();
    let changed = text.lines().map(|line| match line.split_once(" = ") {
        Some(("\"src/main.rs\"", _)) => "\"src/main.rs\" = \"1-00000000\"\n".to_owned(),
        _ => format!("{line}\n"),
    });
    fs::write(&record, changed.collect::<String>()).unwrap();
    update(&project, &["--yes"]).succeeds().says(&["Kept src/main.rs"]);
    assert!(project.join("src/settings.rs").exists() && project.join("train.toml").exists());
    // Once the code is the template's again, they are removed.
    fs::remove_file(&main).unwrap();
    Ddp::new(["new", "other", "--template", "linear", "--name", "m"]).dir(project.parent().unwrap()).run().succeeds();
    fs::copy(project.with_file_name("other").join("src/main.rs"), &main).unwrap();
    update(&project, &["--yes"]).succeeds();
    assert!(!project.join("src/settings.rs").exists() && !project.join("train.toml").exists());
}
