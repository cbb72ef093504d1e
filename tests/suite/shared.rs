//! Compiled dependencies that projects share: which packages cargo compiles in a second project.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use ddp_tests::{Ddp, Done};
use tempfile::{TempDir, tempdir};

/// Projects of one user, whose cache has only libtorch. Instead of ddp-runtime, they depend on a stub: the C++ is
/// one function, and what cargo does with it is the same.
struct User {
    dir: TempDir,
}

impl User {
    fn new() -> Self {
        let user = Self { dir: tempdir().unwrap() };
        let script = "fn main() {\n    println!(\"cargo::rerun-if-changed=build.rs\");\n    \
            println!(\"cargo::rerun-if-env-changed=LIBTORCH\");\n    \
            let out = std::env::var(\"OUT_DIR\").unwrap();\n    \
            let libtorch = std::env::var(\"LIBTORCH\").unwrap();\n    \
            std::fs::write(format!(\"{out}/libtorch.rs\"), format!(\"pub const LIBTORCH: &str = {libtorch:?};\")).unwrap();\n}\n";
        write(&user.path("runtime/build.rs"), script);
        let manifest = |name: &str, dependencies: &str| {
            format!(
                "[package]\nname = {name:?}\nversion = \"0.1.0\"\nedition = \"2024\"\n\n[dependencies]\n{dependencies}\n"
            )
        };
        let dependencies = "libc = \"0.2\"\nddp-contract = { path = \"../contract\" }";
        write(&user.path("runtime/Cargo.toml"), &manifest("ddp-runtime", dependencies));
        let library = "include!(concat!(env!(\"OUT_DIR\"), \"/libtorch.rs\"));\npub use ddp_contract::STEPS;\n";
        write(&user.path("runtime/src/lib.rs"), library);
        // Its library contains the path of OUT_DIR, as serde's does.
        let script = "fn main() {\n    println!(\"cargo::rerun-if-changed=build.rs\");\n    \
            let out = std::env::var(\"OUT_DIR\").unwrap();\n    \
            std::fs::write(format!(\"{out}/steps.rs\"), \"pub const STEPS: i32 = 3;\").unwrap();\n}\n";
        write(&user.path("contract/build.rs"), script);
        write(&user.path("contract/Cargo.toml"), &manifest("ddp-contract", ""));
        write(&user.path("contract/src/lib.rs"), "include!(concat!(env!(\"OUT_DIR\"), \"/steps.rs\"));\n");
        for name in ["first", "other"] {
            user.libtorch(name);
        }
        user
    }

    fn path(&self, below: &str) -> PathBuf {
        self.dir.path().join(below)
    }

    /// The parts of a libtorch that `cargo ddp setup` checks.
    fn libtorch(&self, name: &str) -> PathBuf {
        let home = self.path("libtorch").join(name);
        let header = "#define TORCH_VERSION_MAJOR 2\n#define TORCH_VERSION_MINOR 13\n#define TORCH_VERSION_PATCH 0\n";
        write(&home.join("include/torch/headeronly/version.h"), header);
        write(&home.join("include/torch/csrc/distributed/c10d/reducer.hpp"), "");
        for library in ["libtorch_cpu.so", "libtorch.so", "libc10.so"] {
            write(&home.join("lib").join(library), "");
        }
        home
    }

    /// A project that is linked to the libtorch `first`.
    fn project(&self, name: &str) -> Project<'_> {
        let project = Project { user: self, root: self.path(name) };
        let manifest = format!(
            "[package]\nname = \"model\"\nversion = \"0.1.0\"\nedition = \"2024\"\n\n[dependencies]\n\
             ddp-runtime = {{ path = {:?} }}\n",
            self.path("runtime")
        );
        write(&project.root.join("Cargo.toml"), &manifest);
        let main = format!("fn main() {{ println!(\"{name} with {{}}\", ddp_runtime::LIBTORCH); }}\n");
        write(&project.root.join("src/main.rs"), &main);
        let include = "include = [{ path = \"../.ddp/cargo.toml\", optional = true }]\n";
        write(&project.root.join(".cargo/config.toml"), include);
        project.link("first");
        project
    }

    fn builds(&self) -> PathBuf {
        self.path("cache/cargo-ddp/builds")
    }
}

struct Project<'a> {
    user: &'a User,
    root: PathBuf,
}

impl Project<'_> {
    /// Like `cargo ddp setup`, which would look for a libtorch in Python first.
    fn link(&self, libtorch: &str) {
        let home = self.user.path("libtorch").join(libtorch).canonicalize().unwrap();
        let link = self.root.join(".ddp/libtorch");
        let _ = fs::remove_file(&link);
        fs::create_dir_all(self.root.join(".ddp")).unwrap();
        std::os::unix::fs::symlink(&home, &link).unwrap();
    }

    fn ddp(&self, args: &[&str]) -> Ddp {
        let variables = ["LIBTORCH", "DDP_LIBTORCH", "DDP_SHARED_BUILD", "CARGO_TARGET_DIR", "CARGO_BUILD_TARGET_DIR"];
        let ddp = variables.into_iter().fold(Ddp::new(args), Ddp::env_remove);
        ddp.dir(&self.root).env("XDG_CACHE_HOME", self.user.path("cache"))
    }

    #[track_caller]
    fn build(&self) -> Done {
        self.ddp(&["build"]).run().succeeds()
    }

    /// The output of the built program.
    fn prints(&self, done: &Done) -> String {
        ddp_tests::stdout_of(&mut Command::new(done.stdout.trim()))
    }
}

fn write(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

#[track_caller]
fn compiled(done: &Done) -> Vec<&str> {
    let compiled = done.stderr.lines().filter_map(|line| line.trim().strip_prefix("Compiling "));
    compiled.map(|line| line.split(' ').next().unwrap()).collect()
}

#[test]
fn second_project_compiles_nothing_but_its_own_code() {
    let user = User::new();
    let first = user.project("one").build();
    assert!(compiled(&first).contains(&"ddp-runtime") && compiled(&first).contains(&"libc"), "{}", first.stderr);
    let two = user.project("two");
    let done = two.build();
    assert_eq!(compiled(&done), ["model"], "{}", done.stderr);
    // They have the same name, so cargo would give the files of their own code the same names.
    let home = user.path("libtorch/first").canonicalize().unwrap();
    assert_eq!(two.prints(&done), format!("two with {}\n", home.display()));
    // For plain cargo with the same configuration, everything is up to date, too.
    let mut cargo = Command::new(env!("CARGO"));
    cargo.arg("build").current_dir(&two.root).env_remove("LIBTORCH").env_remove("CARGO_TARGET_DIR");
    let output = cargo.output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && !stderr.contains("Compiling"), "{stderr}");
}

#[test]
fn projects_are_independent_of_the_store_and_of_each_other() {
    let user = User::new();
    let [one, two] = ["one", "two"].map(|name| user.project(name));
    one.build();
    two.build();
    fs::remove_dir_all(user.builds()).unwrap();
    fs::remove_dir_all(one.root.join("target")).unwrap();
    assert_eq!(compiled(&two.build()), [""; 0], "nothing has changed in it");
    // A recompiled unit of one project changes neither the other project nor the store.
    let done = one.build();
    assert!(compiled(&done).contains(&"ddp-runtime"), "{}", done.stderr);
    let three = user.project("three");
    assert_eq!(compiled(&three.build()), ["model"]);
    assert_eq!(compiled(&two.build()), [""; 0]);
    // `cargo clean` is undone by the store.
    fs::remove_dir_all(one.root.join("target")).unwrap();
    assert_eq!(compiled(&one.build()), ["model"]);
}

#[test]
fn changed_code_of_the_runtime_is_compiled_once_and_never_stale() {
    let user = User::new();
    user.project("one").build();
    let library = user.path("runtime/src/lib.rs");
    let changed = fs::read_to_string(&library).unwrap() + "pub const NEW: i32 = 7;\n";
    fs::write(&library, changed).unwrap();
    let two = user.project("two");
    write(&two.root.join("src/main.rs"), "fn main() { println!(\"{}\", ddp_runtime::NEW); }\n");
    let done = two.build();
    assert_eq!(compiled(&done), ["ddp-runtime", "model"], "{}", done.stderr);
    assert_eq!(two.prints(&done), "7\n");
    assert_eq!(compiled(&user.project("three").build()), ["model"]);
}

/// rustc refuses a crate that was compiled against another compilation of its dependency.
#[test]
fn units_of_several_projects_are_reused_only_if_they_fit_together() {
    let user = User::new();
    let [one, two] = ["one", "two"].map(|name| user.project(name));
    one.build();
    // Compiled for itself, and newer: this is what the store has now.
    two.ddp(&["build"]).env("DDP_SHARED_BUILD", "0").run().succeeds();
    two.build();
    // The newest ddp-runtime, compiled against the first project's ddp-contract.
    let library = user.path("runtime/src/lib.rs");
    let changed = fs::read_to_string(&library).unwrap() + "pub const NEW: i32 = STEPS + 4;\n";
    fs::write(&library, changed).unwrap();
    assert_eq!(compiled(&one.build()), ["ddp-runtime", "model"]);
    let three = user.project("three");
    write(&three.root.join("src/main.rs"), "fn main() { println!(\"{}\", ddp_runtime::NEW); }\n");
    let done = three.build();
    assert_eq!(compiled(&done), ["ddp-runtime", "model"], "{}", done.stderr);
    assert_eq!(three.prints(&done), "7\n");
    // That one fits.
    assert_eq!(compiled(&user.project("four").build()), ["model"]);
}

#[test]
fn store_has_one_build_per_libtorch() {
    let user = User::new();
    let one = user.project("one");
    one.build();
    let two = user.project("two");
    two.link("other");
    let done = two.build();
    assert!(compiled(&done).contains(&"ddp-runtime"), "{}", done.stderr);
    let other = user.path("libtorch/other").canonicalize().unwrap();
    assert_eq!(two.prints(&done), format!("two with {}\n", other.display()));
    // With CUDA now, in the same place.
    write(&other.join("lib/libtorch_cuda.so"), "");
    let three = user.project("three");
    three.link("other");
    let done = three.build();
    assert!(compiled(&done).contains(&"ddp-runtime"), "{}", done.stderr);
    assert_eq!(fs::read_dir(user.builds()).unwrap().flatten().filter(|entry| entry.path().is_dir()).count(), 3);
}

#[test]
fn sharing_can_be_turned_off() {
    let user = User::new();
    let one = user.project("one");
    one.ddp(&["build"]).env("DDP_SHARED_BUILD", "0").run().succeeds();
    assert!(!user.builds().exists(), "it leaves nothing");
    fs::remove_dir_all(one.root.join("target")).unwrap();
    one.build();
    let two = user.project("two");
    let done = two.ddp(&["build"]).env("DDP_SHARED_BUILD", "0").run().succeeds();
    assert!(compiled(&done).contains(&"ddp-runtime"), "{}", done.stderr);
}

#[test]
fn project_with_its_own_libtorch_does_not_use_the_store() {
    let user = User::new();
    let one = user.project("one");
    write(&one.root.join(".cargo/config.toml"), "[env]\nLIBTORCH = { value = \".ddp/libtorch\", relative = true }\n");
    let done = one.build();
    assert!(one.prints(&done).ends_with("one/.ddp/libtorch\n"));
    assert!(!user.builds().exists());
}

#[test]
fn concurrent_builds_and_damaged_stores_succeed() {
    let user = User::new();
    user.project("one").build();
    let projects: Vec<_> = (2..6).map(|n| user.project(&format!("number-{n}"))).collect();
    // Every second one stores its build while others look it up.
    fs::write(user.path("runtime/src/lib.rs"), fs::read(user.path("runtime/src/lib.rs")).unwrap()).unwrap();
    let jobs: Vec<_> = projects.iter().map(|project| project.ddp(&["build"]).start()).collect();
    for (job, project) in jobs.into_iter().zip(&projects) {
        let done = job.wait().succeeds();
        assert!(project.prints(&done).starts_with("number-"));
    }
    // Half of the store's files are gone.
    let mut files = Vec::new();
    collect(&user.builds(), &mut files);
    assert!(files.len() > 10, "{files:?}");
    files.iter().step_by(2).for_each(|file| fs::remove_file(file).unwrap());
    let done = user.project("damaged").build();
    assert!(compiled(&done).contains(&"model"), "{}", done.stderr);
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap().flatten() {
        match entry.path() {
            path if path.is_dir() => collect(&path, files),
            path => files.push(path),
        }
    }
}

/// With the real ddp-runtime, from the cache of the user who runs the tests.
#[test]
fn new_project_of_any_template_reuses_compiled_bindings() {
    ddp_tests::linear_project();
    let dir = tempdir().unwrap();
    for template in ["linear", "mingpt", "bare"] {
        let new = Ddp::new(["new", template, "--template", template]).dir(dir.path());
        let done = new.env_remove("LIBTORCH").run().succeeds();
        done.says(&["Reusing ", "compiled dependencies of earlier projects"]);
        let mut cargo = Command::new(env!("CARGO"));
        cargo.arg("build").current_dir(dir.path().join(template)).env_remove("LIBTORCH").env_remove("CARGO_TARGET_DIR");
        let output = cargo.output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && !stderr.contains("Compiling torch-sys"), "{template}: {stderr}");
        if template != "bare" {
            // Without clap, some of its dependencies have fewer features.
            assert_eq!(stderr.matches("Compiling ").count(), 1, "{template}: {stderr}");
        }
    }
}

/// cargo before 1.94 refuses the configuration that newer ones read.
#[test]
fn older_cargo_gets_a_configuration_that_it_supports() {
    let dir = tempdir().unwrap();
    let old = dir.path().join("old-cargo");
    let script =
        format!("#!/bin/sh\ncase $1 in -V) echo 'cargo 1.93.1 (x)';; *) exec {} \"$@\";; esac\n", env!("CARGO"));
    write(&old, &script);
    fs::set_permissions(&old, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    for (cargo, name, expected) in [
        (old.as_path(), "old", "LIBTORCH = { value = \".ddp/libtorch\", relative = true }"),
        (Path::new(env!("CARGO")), "new", "include = [{ path = \"../.ddp/cargo.toml\", optional = true }]"),
    ] {
        Ddp::new(["new", name]).dir(dir.path()).env("CARGO", cargo).run().succeeds();
        let config = fs::read_to_string(dir.path().join(name).join(".cargo/config.toml")).unwrap();
        assert!(config.contains(expected), "{config}");
        assert_eq!(config.contains("[env]"), name == "old", "{config}");
        let done = Ddp::new(["update", "--check"]).dir(&dir.path().join(name)).env("CARGO", cargo).run().succeeds();
        assert_eq!(done.stdout, "");
    }
    // A newer cargo adds the line to an older project.
    let done = Ddp::new(["update", "--yes"]).dir(&dir.path().join("old")).run().succeeds();
    assert!(done.stdout.contains("+include = "), "{}", done.stdout);
    let linked = dir.path().join("old/.ddp/libtorch").exists();
    assert_eq!(dir.path().join("old/.ddp/cargo.toml").exists(), linked);
}
