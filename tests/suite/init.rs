//! `cargo ddp init`: an existing crate becomes trainable.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use ddp_tests::{Ddp, Done, stdout_of};
use tempfile::tempdir;

fn init(dir: &Path, args: &[&str]) -> Done {
    Ddp::new(["init"].iter().chain(args)).dir(dir).run()
}

const MANIFEST: &str = "\
# A crate of mine.
[package]
name    = \"mine\" # with a name
version = \"0.1.0\"
edition = \"2024\"

[dependencies]
# none yet
";

fn write(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

fn crate_in(folder: &Path) {
    write(&folder.join("Cargo.toml"), MANIFEST);
    write(&folder.join("src/main.rs"), "fn main() {}\n");
}

/// Every file below a folder.
fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => found.extend(files(&path)),
            false => drop(found.insert(path.clone(), fs::read(&path).unwrap())),
        }
    }
    found
}

fn text(path: &Path) -> String {
    fs::read_to_string(path).unwrap()
}

#[test]
fn init_adds_missing_parts_and_a_second_call_changes_nothing() {
    let dir = tempdir().unwrap();
    crate_in(dir.path());
    write(&dir.path().join(".gitignore"), "/target");
    write(&dir.path().join(".cargo/config.toml"), "# mine\n[build]\njobs = 2 # two\n");
    let done = init(dir.path(), &[]).succeeds().says(&["Wrote Cargo.toml: depends on ddp-runtime", "--example train"]);
    let manifest = text(&dir.path().join("Cargo.toml"));
    assert!(manifest.starts_with("# A crate of mine.\n[package]\nname    = \"mine\" # with a name\n"), "{manifest}");
    assert!(manifest.contains("# none yet") && manifest.contains("\nddp-runtime = "), "{manifest}");
    assert!(manifest.contains("\ntch = \"0.26\"\n") && !manifest.contains("[workspace]"), "{manifest}");
    let config = text(&dir.path().join(".cargo/config.toml"));
    assert!(config.contains("# mine\n[build]\njobs = 2 # two\n"), "{config}");
    assert!(config.contains("include = [{ path = \"../.ddp/cargo.toml\", optional = true }]"), "{config}");
    assert_eq!(text(&dir.path().join(".gitignore")), "/target\n/.ddp\n/snapshots\n");
    assert_eq!(text(&dir.path().join("src/main.rs")), "fn main() {}\n");
    let made = files(dir.path());
    for name in ["build.rs", "examples/train.rs", ".vscode/launch.json"] {
        assert!(made.contains_key(&dir.path().join(name)), "{name}");
        assert!(done.stderr.contains(&format!("Wrote {name}")), "{}", done.stderr);
    }

    let again = init(dir.path(), &[]).succeeds().says(&["Unchanged"]);
    assert!(!again.stderr.contains("Wrote"), "{}", again.stderr);
    assert_eq!(files(dir.path()), made);
}

#[test]
fn init_keeps_existing_files() {
    let dir = tempdir().unwrap();
    crate_in(dir.path());
    let own = [
        ("build.rs", "fn main() { println!(\"mine\"); }\n"),
        ("src/main.rs", "use ddp_runtime::Context;\nfn main() {}\n"),
    ];
    own.iter().for_each(|(name, text)| write(&dir.path().join(name), text));
    write(&dir.path().join(".vscode/launch.json"), "{} // mine\n");
    init(dir.path(), &[]).succeeds().says(&["your build script stays unchanged", "ddp_build::link();"]);
    let launch = text(&dir.path().join(".vscode/launch.json"));
    assert!(launch.ends_with("} // mine\n") && launch.contains("ddp: run mine on "), "{launch}");
    for (name, before) in own {
        assert_eq!(text(&dir.path().join(name)), before);
    }
    assert!(!dir.path().join("examples").exists(), "there is a loop already");
}

#[test]
fn init_joins_a_workspace_only_on_request() {
    let dir = tempdir().unwrap();
    let workspace = "# ours\n[workspace]\nmembers = [\"other\"]\nresolver = \"3\"\n";
    write(&dir.path().join("Cargo.toml"), workspace);
    crate_in(&dir.path().join("other"));
    for (name, flags) in [("alone", &[][..]), ("member", &["--workspace"])] {
        let folder = dir.path().join(name);
        crate_in(&folder);
        let manifest = MANIFEST.replace("\"mine\"", &format!("{name:?}"));
        write(&folder.join("Cargo.toml"), &manifest);
        init(&folder, flags).succeeds();
        let mut locate = Command::new(env!("CARGO"));
        locate.args(["locate-project", "--workspace", "--message-format=plain"]).current_dir(&folder);
        let root = PathBuf::from(stdout_of(&mut locate).trim());
        let expected = if name == "alone" { &folder } else { dir.path() };
        assert_eq!(root.parent().unwrap().canonicalize().unwrap(), expected.canonicalize().unwrap(), "{name}");
        assert!(expected.join(".cargo/config.toml").exists());
        init(&folder, flags).succeeds().says(&["Unchanged"]);
    }
    let changed = workspace.replace("[\"other\"]", "[\"other\", \"member\"]");
    assert_eq!(text(&dir.path().join("Cargo.toml")), changed);
}

#[test]
fn init_refuses_unsuitable_folders_and_leaves_them_unchanged() {
    let dir = tempdir().unwrap();
    init(dir.path(), &[]).ends_with(2).says(&["no Cargo.toml in", "hint: "]);
    write(&dir.path().join("Cargo.toml"), "[workspace]\n");
    init(dir.path(), &[]).ends_with(2).says(&["Cargo.toml: no [package]"]);
    write(&dir.path().join("Cargo.toml"), "[package\n");
    init(dir.path(), &[]).ends_with(2).says(&["Cargo.toml: "]);
    write(&dir.path().join("Cargo.toml"), MANIFEST);
    init(dir.path(), &["--workspace"]).ends_with(2).says(&["no folder above it is a workspace", "hint: "]);
    assert_eq!(files(dir.path()).len(), 1);
}

#[test]
fn init_moves_an_older_libtorch_setting_to_the_included_file_and_keeps_the_users() {
    let old = "LIBTORCH = { value = \".ddp/libtorch\", relative = true }";
    let own = "LIBTORCH = \"/opt/libtorch\"";
    let include = "include = [{ path = \"../.ddp/cargo.toml\", optional = true }]";
    for (before, includes) in [
        (format!("[env]\n{old}\n"), true),
        (format!("[env]\nOTHER = \"1\"\n{old}\n"), true),
        (format!("include = [{{ path = \"mine.toml\" }}]\n\n[env]\n{old}\n"), true),
        (format!("[env]\n{own}\n"), false),
        ("include = [\"mine.toml\"]\n".to_owned(), false),
    ] {
        let dir = tempdir().unwrap();
        crate_in(dir.path());
        let path = dir.path().join(".cargo/config.toml");
        write(&path, &before);
        write(&dir.path().join(".cargo/mine.toml"), "");
        init(dir.path(), &[]).succeeds();
        let after = text(&path);
        assert_eq!(after.contains("../.ddp/cargo.toml"), includes, "{after}");
        assert_eq!(after.contains("mine.toml"), before.contains("mine.toml"), "{after}");
        assert_eq!(after.contains(old), !includes && !before.contains(own), "{after}");
        assert_eq!(after.contains(own), before.contains(own), "{after}");
        assert_eq!(after.contains("OTHER"), before.contains("OTHER"), "{after}");
        assert_eq!(after.contains(include), includes && !before.contains("mine"), "{after}");
        init(dir.path(), &[]).succeeds().says(&["Unchanged"]);
        assert_eq!(text(&path), after);
    }
}
