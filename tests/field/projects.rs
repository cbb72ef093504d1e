//! Unusual cargo workspaces, configurations, names and files.

mod files;
mod places;
mod system;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use ddp_tests::{Ddp, stdout_of};
use serde_json::Value;
use tempfile::{TempDir, tempdir};

/// `cargo ddp` in a folder, with cargo's own choice of where to build.
fn ddp(dir: &Path, args: &[&str]) -> Ddp {
    let variables = ["CARGO_TARGET_DIR", "CARGO_BUILD_TARGET_DIR", "CARGO_BUILD_TARGET"];
    variables.into_iter().fold(Ddp::new(args), Ddp::env_remove).dir(dir)
}

fn write(path: impl Into<PathBuf>, text: &str) {
    let path = path.into();
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

/// A package whose binaries print their names. It depends on a stub of ddp-runtime, which builds in an instant.
fn package(root: &Path, folder: &str, name: &str, binaries: &[&str], more: &str) {
    write(
        root.join("stand-in/Cargo.toml"),
        "[package]\nname = \"ddp-runtime\"\nversion = \"0.1.0\"\nedition = \"2024\"\n",
    );
    write(root.join("stand-in/src/lib.rs"), "");
    let folder = root.join(folder);
    for binary in binaries {
        let text = format!("fn main() {{ println!(\"this is {binary} of {name}\"); }}\n");
        write(folder.join(format!("src/bin/{binary}.rs")), &text);
    }
    let stand_in = root.join("stand-in");
    let manifest = format!(
        "[package]\nname = {name:?}\nversion = \"0.1.0\"\nedition = \"2024\"\n{more}\n[dependencies]\n\
         ddp-runtime = {{ path = {stand_in:?} }}\n"
    );
    write(folder.join("Cargo.toml"), &manifest);
}

/// A project of one package, with these binaries.
fn project(binaries: &[&str], more: &str) -> TempDir {
    let dir = tempdir().unwrap();
    package(dir.path(), ".", "model", binaries, &format!("{more}\n[workspace]\n"));
    dir
}

/// A workspace with the packages `first` and `second`, which have a binary each.
fn workspace(root: &str, first: (&str, &str), second: (&str, &str)) -> TempDir {
    let dir = tempdir().unwrap();
    for (name, (binary, more)) in [("first", first), ("second", second)] {
        package(dir.path(), name, name, &[binary], more);
    }
    let members = "members = [\"first\", \"second\"]\nexclude = [\"stand-in\"]\nresolver = \"3\"\n";
    write(dir.path().join("Cargo.toml"), &format!("[workspace]\n{members}{root}\n"));
    dir
}

fn host() -> String {
    let text = stdout_of(Command::new("rustc").arg("-vV"));
    text.lines().find_map(|line| line.strip_prefix("host: ")).unwrap().to_owned()
}

fn json(dir: &Path, name: &str) -> Value {
    serde_json::from_str(&fs::read_to_string(dir.join(".vscode").join(name)).unwrap()).unwrap()
}

/// The configuration of this name.
fn configuration(dir: &Path, name: &str) -> Value {
    let launch = json(dir, "launch.json");
    let all = launch["configurations"].as_array().unwrap();
    let found = all.iter().find(|one| one["name"] == name);
    found.unwrap_or_else(|| panic!("no {name:?} in {launch:#}")).clone()
}

fn words(value: &Value) -> Vec<&str> {
    value.as_array().unwrap().iter().map(|word| word.as_str().unwrap()).collect()
}

/// What F5 does with `ddp: BIN, one process`: the task builds, and the configuration's program is started. Returns its
/// output.
fn press_f5(dir: &Path, name: &str, variables: &[(&str, &str)]) -> String {
    let configuration = configuration(dir, name);
    let tasks = json(dir, "tasks.json");
    let task = tasks["tasks"].as_array().unwrap().iter().find(|task| task["label"] == configuration["preLaunchTask"]);
    let args = words(&task.unwrap()["args"]);
    let set = |ddp: Ddp| variables.iter().fold(ddp, |ddp, (name, value)| ddp.env(name, value));
    let built = set(ddp(dir, &args[1..])).run().succeeds().stdout;
    let program = configuration["program"].as_str().unwrap().replace("${workspaceFolder}", dir.to_str().unwrap());
    let printed = stdout_of(&mut Command::new(&program));
    assert_eq!(printed, stdout_of(&mut Command::new(built.trim())), "{program} is not what was built: {built}");
    printed
}
