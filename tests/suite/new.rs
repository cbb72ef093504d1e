//! `cargo ddp new`: the rules of `cargo new`, and the generated files.

use std::fs;
use std::path::Path;
use std::process::Command;

use ddp_tests::Ddp;
use tempfile::tempdir;

fn new(dir: &Path, args: &[&str]) -> ddp_tests::Done {
    Ddp::new(["new"].iter().chain(args)).dir(dir).run()
}

#[test]
fn new_project_has_all_its_files() {
    let dir = tempdir().unwrap();
    new(dir.path(), &["deep/er/my-model"]).succeeds();
    let project = dir.path().join("deep/er/my-model");
    for name in [
        "Cargo.toml",
        "README.md",
        "build.rs",
        "src/main.rs",
        ".gitignore",
        ".cargo/config.toml",
        ".git/HEAD",
        ".ddp-template.toml",
    ] {
        assert!(project.join(name).exists(), "{name}");
    }
    let manifest = fs::read_to_string(project.join("Cargo.toml")).unwrap();
    assert!(manifest.contains("name = \"my-model\""), "{manifest}");
    assert!(!manifest.contains("[workspace]"), "{manifest}");
    for name in ["launch.json", "tasks.json", "extensions.json", "settings.json"] {
        let text = fs::read_to_string(project.join(".vscode").join(name)).unwrap();
        serde_json::from_str::<serde_json::Value>(&text).unwrap();
        assert!(!text.contains(dir.path().to_str().unwrap()), "{name} holds a path of this machine: {text}");
    }
    let left: Vec<_> = fs::read_dir(project.parent().unwrap()).unwrap().collect();
    assert_eq!(left.len(), 1, "only the project is there: {left:?}");
}

#[test]
fn launch_json_has_each_rank() {
    let dir = tempdir().unwrap();
    new(dir.path(), &["m"]).succeeds();
    let text = fs::read_to_string(dir.path().join("m/.vscode/launch.json")).unwrap();
    let launch: serde_json::Value = serde_json::from_str(&text).unwrap();
    let configurations = launch["configurations"].as_array().unwrap();
    let names: Vec<_> = configurations.iter().map(|c| c["name"].as_str().unwrap()).collect();
    let compound = &launch["compounds"][0];
    let ranks = compound["configurations"].as_array().unwrap().len() - 1;
    assert!(ranks >= 1);
    assert!(names[0].starts_with(&format!("ddp: run m on {ranks} rank")), "{names:?}");
    for rank in 0..ranks {
        let name = format!("ddp: m, rank {rank} of {ranks}");
        let one = configurations.iter().find(|one| one["name"] == name.as_str()).unwrap();
        assert_eq!(one["env"]["DDP_JOIN_RANK"], rank.to_string());
        assert_eq!(one["program"], "${workspaceFolder}/target/debug/m");
    }
}

#[test]
fn new_never_changes_an_existing_folder() {
    let dir = tempdir().unwrap();
    fs::create_dir(dir.path().join("taken")).unwrap();
    fs::write(dir.path().join("taken/mine.txt"), "mine").unwrap();
    new(dir.path(), &["taken"]).ends_with(2).says(&["taken already exists", "hint: "]);
    let files: Vec<_> = fs::read_dir(dir.path().join("taken")).unwrap().collect();
    assert_eq!(files.len(), 1);
    // Neither is a dangling link or a file.
    std::os::unix::fs::symlink("/nowhere", dir.path().join("link")).unwrap();
    new(dir.path(), &["link"]).ends_with(2).says(&["already exists"]);
}

#[test]
fn new_refuses_cargos_invalid_names_before_it_writes() {
    let dir = tempdir().unwrap();
    for name in ["2fast", "fn", "a b", "test", "tch"] {
        new(dir.path(), &["some/where", "--name", name]).ends_with(2).says(&["invalid package name `", "--name"]);
    }
    new(dir.path(), &["2fast"]).ends_with(2).says(&["it starts with a digit"]);
    new(dir.path(), &["x", "--template", "quadratic"])
        .ends_with(2)
        .says(&["unknown template `quadratic` (available: bare, linear, vision, mingpt)"]);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn new_name_flag_sets_the_package_name() {
    let dir = tempdir().unwrap();
    new(dir.path(), &["2024-11-run", "--name", "mlp"]).succeeds();
    let manifest = fs::read_to_string(dir.path().join("2024-11-run/Cargo.toml")).unwrap();
    assert!(manifest.contains("name = \"mlp\""), "{manifest}");
}

#[test]
fn new_project_inside_a_workspace_and_a_repository_is_independent() {
    let dir = tempdir().unwrap();
    fs::create_dir(dir.path().join(".git")).unwrap();
    fs::write(dir.path().join("Cargo.toml"), "[workspace]\n").unwrap();
    new(dir.path(), &["inner"]).succeeds().says(&["inside another workspace"]);
    let inner = dir.path().join("inner");
    assert!(!inner.join(".git").exists());
    let root = Command::new(env!("CARGO"))
        .args(["locate-project", "--workspace", "--message-format=plain"])
        .current_dir(&inner)
        .output()
        .unwrap();
    let root = String::from_utf8(root.stdout).unwrap();
    assert_eq!(Path::new(root.trim()).canonicalize().unwrap(), inner.join("Cargo.toml").canonicalize().unwrap());
    assert_eq!(fs::read_to_string(dir.path().join("Cargo.toml")).unwrap(), "[workspace]\n");
}

#[test]
fn new_leaves_nothing_in_a_folder_that_is_not_writable() {
    let dir = tempdir().unwrap();
    fs::write(dir.path().join("file"), "").unwrap();
    new(dir.path(), &["file/project"]).ends_with(4).says(&["error: can't create "]);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}
