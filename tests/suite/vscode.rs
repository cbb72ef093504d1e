//! `cargo ddp vscode`: which files it writes, and which it leaves alone.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use ddp_tests::{Ddp, Done, repo};
use serde_json::Value;
use tempfile::{TempDir, tempdir};

/// A package with such binaries. Only its manifest is looked at, so nothing is built.
fn package(dir: &Path, name: &str, binaries: &[&str], more: &str) {
    fs::create_dir_all(dir.join("src/bin")).unwrap();
    for binary in binaries {
        fs::write(dir.join(format!("src/bin/{binary}.rs")), "fn main() {}\n").unwrap();
    }
    let manifest = format!("[package]\nname = \"{name}\"\nversion = \"0.1.0\"\nedition = \"2024\"\n{more}");
    fs::write(dir.join("Cargo.toml"), manifest).unwrap();
}

const TRAINS: &str = "[dependencies]\nddp-runtime = \"0.1.0\"\n";

pub(crate) fn project() -> TempDir {
    let dir = tempdir().unwrap();
    package(dir.path(), "m", &["train", "eval"], TRAINS);
    fs::create_dir(dir.path().join("examples")).unwrap();
    fs::write(dir.path().join("examples/show.rs"), "fn main() {}\n").unwrap();
    dir
}

pub(crate) fn vscode(dir: &Path, args: &[&str]) -> Done {
    Ddp::new(["vscode"].iter().chain(args)).dir(dir).env_remove("CARGO_TARGET_DIR").run()
}

pub(crate) fn path(dir: &Path, name: &str) -> PathBuf {
    dir.join(".vscode").join(name)
}

pub(crate) fn json(dir: &Path, name: &str) -> Value {
    serde_json::from_str(&fs::read_to_string(path(dir, name)).unwrap()).unwrap()
}

fn names(dir: &Path) -> Vec<String> {
    let launch = json(dir, "launch.json");
    let all = ["configurations", "compounds"].map(|key| launch[key].as_array().unwrap().clone());
    all.into_iter().flatten().map(|one| one["name"].as_str().unwrap().to_owned()).collect()
}

fn texts(dir: &Path) -> Vec<String> {
    let names = ["launch.json", "tasks.json", "extensions.json", "settings.json"];
    names.map(|name| fs::read_to_string(path(dir, name)).unwrap()).into()
}

#[test]
fn vscode_writes_its_files_and_a_second_call_changes_nothing() {
    let dir = project();
    let done =
        vscode(dir.path(), &["--nproc", "2"]).succeeds().says(&["Wrote .vscode/launch.json", "F5 debugs eval, train"]);
    assert_eq!(done.stdout, "");
    let found = names(dir.path());
    assert_eq!(found.len(), 2 * 6 + 1 + 2, "{found:?}");
    for name in ["ddp: run train on 2 ranks", "ddp: eval, one process", "ddp: attach to a running job"] {
        assert!(found.iter().any(|found| found == name), "{name}: {found:?}");
    }
    let tasks = json(dir.path(), "tasks.json");
    assert_eq!(tasks["tasks"][0]["args"], serde_json::json!(["ddp", "build", "--bin", "eval"]));
    let before = texts(dir.path());
    let modified = || fs::metadata(path(dir.path(), "launch.json")).unwrap().modified().unwrap();
    let written = modified();
    vscode(dir.path(), &[]).succeeds().says(&["up to date"]);
    assert_eq!(texts(dir.path()), before);
    assert_eq!(modified(), written);
    // No path of this machine.
    assert!(before.iter().all(|text| !text.contains(dir.path().to_str().unwrap())));
}

#[test]
fn vscode_check_names_stale_files_and_writes_nothing() {
    let dir = project();
    vscode(dir.path(), &["--check"])
        .ends_with(1)
        .says(&[".vscode/launch.json, .vscode/tasks.json", "hint: run `cargo ddp vscode`"]);
    assert!(!dir.path().join(".vscode").exists());
    vscode(dir.path(), &["--debugger", "lldb-dap", "--nproc", "3"]).succeeds();
    vscode(dir.path(), &["--check"]).succeeds().says(&["up to date"]);
    let before = texts(dir.path());
    vscode(dir.path(), &["--check", "--nproc", "4"]).ends_with(1).says(&["error: .vscode/launch.json is out of date"]);
    fs::remove_file(dir.path().join("src/bin/eval.rs")).unwrap();
    vscode(dir.path(), &["--check"]).ends_with(1).says(&[".vscode/launch.json, .vscode/tasks.json"]);
    assert_eq!(texts(dir.path()), before);
    // Both at once make no sense.
    vscode(dir.path(), &["--check", "--print"]).ends_with(2);
}

#[test]
fn vscode_print_shows_the_files_and_writes_nothing() {
    let dir = project();
    let done = vscode(dir.path(), &["--print", "--bin", "train"]).succeeds();
    assert!(!dir.path().join(".vscode").exists());
    vscode(dir.path(), &["--bin", "train"]).succeeds();
    let files = ["launch.json", "tasks.json", "extensions.json", "settings.json"];
    let written = files.iter().zip(texts(dir.path())).map(|(name, text)| format!("// .vscode/{name}\n{text}"));
    assert_eq!(done.stdout, written.collect::<String>());
}

#[test]
fn removed_binary_loses_its_entries_and_the_users_stay() {
    let dir = project();
    fs::create_dir(dir.path().join(".vscode")).unwrap();
    let mine = "// mine\r\n{\r\n\t\"configurations\": [\r\n\t\t{ \"name\": \"mine\", \"type\": \"x\", }, // }\r\n\t],\r\n}\r\n";
    fs::write(path(dir.path(), "launch.json"), mine).unwrap();
    let kept = "// mine\r\n{\r\n\t\"configurations\": [\r\n\t\t{ \"name\": \"mine\", \"type\": \"x\", }, // }\r\n\t";
    vscode(dir.path(), &["--bin", "train", "eval", "show"]).succeeds().says(&["Updated .vscode/launch.json"]);
    let text = |name: &str| fs::read_to_string(path(dir.path(), name)).unwrap();
    let all = text("launch.json");
    assert!(all.starts_with(kept) && all.contains("ddp: run show on"), "{all}");
    assert!(all.contains("\"--example\", \"show\""));
    fs::remove_file(dir.path().join("src/bin/eval.rs")).unwrap();
    vscode(dir.path(), &[]).succeeds();
    let now = text("launch.json");
    assert!(now.starts_with(kept) && !now.contains("eval") && now.contains("ddp: run show on"), "{now}");
    assert!(!text("tasks.json").contains("eval"));
    // Without any training binary, every entry is removed.
    package(dir.path(), "m", &["train"], "");
    vscode(dir.path(), &[]).succeeds().says(&["nothing depends on ddp-runtime anymore"]);
    let last = text("launch.json");
    assert!(last.starts_with(kept) && !last.contains("ddp: "), "{last}");
    vscode(dir.path(), &[]).ends_with(2).says(&["no binary in this project depends on ddp-runtime", "hint: "]);
}

#[test]
fn entries_in_a_workspace_name_the_package() {
    let dir = tempdir().unwrap();
    fs::write(dir.path().join("Cargo.toml"), "[workspace]\nmembers = [\"a\", \"b\", \"c\"]\nresolver = \"3\"\n")
        .unwrap();
    package(&dir.path().join("a"), "first", &["one", "two"], TRAINS);
    package(
        &dir.path().join("b"),
        "second",
        &["three"],
        "[dependencies]\nrt = { package = \"ddp-runtime\", version = \"0.1\" }\n",
    );
    package(&dir.path().join("c"), "third", &["none"], "");
    // From within a member: the files are the workspace's.
    vscode(&dir.path().join("a/src"), &["-p", "second", "--nproc", "1"]).succeeds().says(&["F5 debugs three"]);
    assert_eq!(names(dir.path()).len(), 7);
    let launch = json(dir.path(), "launch.json");
    let args = serde_json::json!(["ddp", "run", "--package", "second", "--bin", "three", "--nproc", "1"]);
    assert_eq!(launch["configurations"][0]["args"], args);
    vscode(dir.path(), &[]).succeeds();
    assert!(names(dir.path()).iter().any(|name| name == "ddp: two, one process"));
    assert!(names(dir.path()).iter().all(|name| !name.contains("none")));
    vscode(dir.path(), &["-p", "third"])
        .ends_with(2)
        .says(&["`third` depends on ddp-runtime (available: first, second"]);
    // A package that opts out: its binaries get entries when they are named, and keep them.
    let off = format!("{TRAINS}[package.metadata.ddp]\nvscode = false\n");
    package(&dir.path().join("c"), "third", &["none"], &off);
    vscode(dir.path(), &["--check"]).succeeds();
    vscode(dir.path(), &["--bin", "none"]).succeeds();
    vscode(dir.path(), &["--check"]).succeeds();
    assert!(names(dir.path()).iter().any(|name| name == "ddp: none, one process"));
    package(&dir.path().join("c"), "third", &["none"], "");
    vscode(dir.path(), &["--bin", "none"])
        .ends_with(2)
        .says(&["`none` depends on ddp-runtime (available: one, two, three"]);
}

#[test]
fn cargo_toml_sets_the_number_of_ranks() {
    let dir = tempdir().unwrap();
    package(dir.path(), "m", &["m"], &format!("[package.metadata.ddp]\nnproc = 3\n{TRAINS}"));
    vscode(dir.path(), &[]).succeeds();
    assert!(names(dir.path()).iter().any(|name| name == "ddp: m, launcher + 3 workers"));
    vscode(dir.path(), &["--gpus", "2,4-6"]).succeeds();
    let launch = json(dir.path(), "launch.json");
    assert_eq!(launch["configurations"][0]["name"], "ddp: run m on 4 ranks");
    assert_eq!(launch["configurations"][0]["args"], serde_json::json!(["ddp", "run", "--bin", "m", "--gpus", "2,4-6"]));
    vscode(dir.path(), &["--check"]).succeeds();
    vscode(dir.path(), &["--gpus", "3-1"]).ends_with(2).says(&["range `3-1` is reversed"]);
    vscode(dir.path(), &["--gpus", "1,0-2"]).ends_with(2).says(&["GPU 1 is listed twice"]);
    vscode(dir.path(), &["--gpus", "1", "--nproc", "2"]).ends_with(2);
    vscode(dir.path(), &["--debugger", "gdb"]).ends_with(2).says(&["codelldb, lldb-dap, cppdbg"]);
}

#[test]
fn invalid_jsonc_is_not_written_and_its_line_is_named() {
    let dir = project();
    fs::create_dir(dir.path().join(".vscode")).unwrap();
    let broken = "{\n  // mine\n  \"configurations\": [}\n";
    fs::write(path(dir.path(), "tasks.json"), broken).unwrap();
    let place = format!("{}:3:22: ", path(dir.path(), "tasks.json").display());
    for flags in [&[][..], &["--check"], &["--print"]] {
        vscode(dir.path(), flags).ends_with(2).says(&[&place, "hint: fix the file"]);
    }
    assert_eq!(fs::read_to_string(path(dir.path(), "tasks.json")).unwrap(), broken);
    assert_eq!(fs::read_dir(dir.path().join(".vscode")).unwrap().count(), 1, "something was written");
    // Neither is a FIFO read, which would block.
    let dir = project();
    fs::create_dir(dir.path().join(".vscode")).unwrap();
    assert!(Command::new("mkfifo").arg(path(dir.path(), "launch.json")).status().unwrap().success());
    vscode(dir.path(), &[]).ends_with(4).says(&["launch.json: it is a FIFO, not a regular file"]);
    // Neither is a path whose parent is a file.
    let dir = project();
    fs::write(dir.path().join(".vscode"), "").unwrap();
    vscode(dir.path(), &[]).ends_with(4).says(&[".vscode/launch.json"]);
    vscode(tempdir().unwrap().path(), &[]).ends_with(2).says(&["no cargo project here"]);
}

#[test]
fn launch_json_with_many_entries_on_one_line_is_fast() {
    let dir = project();
    fs::create_dir(dir.path().join(".vscode")).unwrap();
    let mine: Vec<String> =
        (0..20_000).map(|at| format!("{{\"name\": \"mine {at}\", \"x\": {:?}}}", [7; 50])).collect();
    let text = format!("{{\"configurations\": [{}]}}", mine.join(","));
    fs::write(path(dir.path(), "launch.json"), &text).unwrap();
    let start = Instant::now();
    vscode(dir.path(), &["--nproc", "2"]).succeeds();
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    assert!(fs::read_to_string(path(dir.path(), "launch.json")).unwrap().starts_with(&text[..text.len() - 2]));
}

#[test]
fn new_project_is_up_to_date() {
    let dir = tempdir().unwrap();
    Ddp::new(["new", "m0"]).dir(dir.path()).run().succeeds();
    vscode(&dir.path().join("m0"), &["--check"]).succeeds();
}

#[test]
fn files_of_this_repository_are_up_to_date() {
    vscode(repo(), &["--check"]).succeeds();
    let names = names_with_comments(&fs::read_to_string(path(repo(), "launch.json")).unwrap());
    for name in ["cargo-ddp: run the demo project", "cargo-ddp: a test of the suite", "cargo-ddp: the C++ shim"] {
        assert!(names.contains(&format!("\"name\": \"{name}\"")), "{name}");
    }
    // Their tasks, packages, tests and source functions exist.
    let launch: Value = serde_json::from_str(&names).unwrap();
    let tasks = json(repo(), "tasks.json");
    let labels: Vec<&Value> = tasks["tasks"].as_array().unwrap().iter().map(|task| &task["label"]).collect();
    let all = ["configurations", "compounds"].map(|key| launch[key].as_array().unwrap());
    for entry in all.into_iter().flatten() {
        assert!(entry["preLaunchTask"].is_null() || labels.contains(&&entry["preLaunchTask"]), "{entry:#}");
        let program = entry["program"].as_str().unwrap_or("${workspaceFolder}/.ddp/cargo-ddp");
        let known = ["target/debug/cargo-ddp", "target/debug/examples/by_hand", ".ddp/cargo-ddp"];
        assert!(known.iter().any(|known| program == format!("${{workspaceFolder}}/{known}")), "{program}");
    }
    assert!(repo().join("ddp-runtime/examples/by_hand.rs").exists());
    let test = launch["inputs"][0]["default"].as_str().unwrap();
    assert!(include_str!("vscode.rs").contains(&format!("fn {test}")), "{test}");
    assert!(fs::read_to_string(repo().join("ddp-runtime/csrc/group.cpp")).unwrap().contains("ddp_group_new("));
}

fn names_with_comments(text: &str) -> String {
    text.lines().map(str::trim).filter(|line| !line.starts_with("//")).collect::<Vec<_>>().join("\n")
}

#[test]
fn docs_of_vscode_show_the_generated_entries() {
    let parent = tempdir().unwrap();
    let dir = parent.path().join("my-model");
    package(&dir, "my-model", &["train", "eval"], TRAINS);
    let guide = fs::read_to_string(repo().join("docs/debugging.md")).unwrap();
    let shown: Vec<&str> =
        guide.split("```console\n").skip(1).map(|block| block.split("```").next().unwrap()).collect();
    let mut real = vec![];
    let mut code = 0;
    for block in &shown {
        let mut text = String::new();
        for command in block.lines().filter_map(|line| line.strip_prefix("$ ")) {
            text += &format!("$ {command}\n");
            text += &match command.strip_prefix("cargo ddp vscode") {
                Some(flags) => {
                    let flags: Vec<&str> = flags.split_whitespace().collect();
                    // A machine with GPUs would have other defaults.
                    let done = Ddp::new(["vscode"].iter().chain(&flags)).dir(&dir).env_remove("CARGO_TARGET_DIR");
                    let done = done.env("CUDA_VISIBLE_DEVICES", "").run();
                    code = done.status.code().unwrap();
                    done.stdout + &done.stderr
                }
                None if command == "echo $?" => format!("{code}\n"),
                None => ddp_tests::stdout_of(Command::new("sh").args(["-c", command]).current_dir(&dir)),
            };
        }
        real.push(text.replace(dir.to_str().unwrap(), "/home/me/my-model"));
    }
    assert!(shown.len() >= 5);
    assert_eq!(shown.concat(), real.concat());
}
