//! F5 and `run` start what cargo builds, wherever that is, and take the settings of the package that it belongs to.

use std::fs;

use tempfile::tempdir;

use super::*;

const TRAIN: &str = "ddp: train, one process";

#[test]
fn f5_uses_the_target_and_target_dir_of_cargos_configuration() {
    let host = host();
    let by_target = format!("[build]\ntarget = {host:?}\n");
    for config in [
        by_target.clone(),
        format!("[build]\ntarget = [{host:?}]\ntarget-dir = \"out\"\n"),
        "[build]\ntarget = \"host-tuple\"\n".to_owned(),
        "[build]\ntarget-dir = \"../elsewhere\"\n".to_owned(),
    ] {
        let dir = tempdir().unwrap();
        let root = dir.path().join("project");
        package(&root, ".", "model", &["train"], "[workspace]\n");
        ddp(&root, &["vscode", "--nproc", "2"]).run().succeeds();
        assert_eq!(press_f5(&root, TRAIN, &[]), "this is train of model\n");
        // The check and the task notice a configuration that is added later: otherwise F5 would start the old program.
        write(root.join(".cargo/config.toml"), &config);
        ddp(&root, &["vscode", "--check"]).run().ends_with(1).says(&[".vscode/launch.json"]);
        ddp(&root, &["build", "--bin", "train"]).run().ends_with(1).says(&[
            "cargo built ",
            ".vscode/launch.json starts ",
            "hint: run `cargo ddp vscode`",
        ]);
        ddp(&root, &["vscode"]).run().succeeds();
        write(root.join("src/bin/train.rs"), "fn main() { println!(\"new\"); }\n");
        assert_eq!(press_f5(&root, TRAIN, &[]), "new\n", "{config}");
        ddp(&root, &["vscode", "--check"]).run().succeeds();
        let ran = ddp(&root, &["run", "--nproc", "1"]).run().succeeds().stdout;
        assert!(ran.contains("new"), "{ran}");
    }
    // A file in a parent folder counts as well, also for a new project.
    let dir = tempdir().unwrap();
    write(dir.path().join(".cargo/config.toml"), &by_target);
    ddp(dir.path(), &["new", "m"]).run().succeeds();
    let program = configuration(&dir.path().join("m"), "ddp: m, one process")["program"].clone();
    assert_eq!(program, format!("${{workspaceFolder}}/target/{host}/debug/m"));
}

#[test]
fn f5_starts_the_new_program_after_a_build_with_other_variables() {
    let (dir, host, other) = (project(&["train"], ""), host(), tempdir().unwrap());
    let root = dir.path();
    let target = [("CARGO_BUILD_TARGET", host.as_str())];
    ddp(root, &["vscode", "--nproc", "2"]).run().succeeds();
    press_f5(root, TRAIN, &[]);
    write(root.join("src/bin/train.rs"), "fn main() { println!(\"second\"); }\n");
    assert_eq!(press_f5(root, TRAIN, &target), "second\n");
    write(root.join("src/bin/train.rs"), "fn main() { println!(\"third\"); }\n");
    let folder = [("CARGO_TARGET_DIR", other.path().to_str().unwrap())];
    assert_eq!(press_f5(root, TRAIN, &folder), "third\n");
    // cargo continues with its own folder afterwards.
    write(root.join("src/bin/train.rs"), "fn main() { println!(\"fourth\"); }\n");
    assert_eq!(press_f5(root, TRAIN, &[]), "fourth\n");

    ddp(root, &["vscode", "--check"]).env("CARGO_BUILD_TARGET", &host).run().ends_with(1);
    ddp(root, &["vscode"])
        .env("CARGO_BUILD_TARGET", &host)
        .run()
        .succeeds()
        .says(&["CARGO_BUILD_TARGET sets the target"]);
    let program = configuration(root, TRAIN)["program"].clone();
    assert_eq!(program, format!("${{workspaceFolder}}/target/{host}/debug/train"));
    // The configuration's program is built without the variable, too.
    assert_eq!(press_f5(root, TRAIN, &[]), "fourth\n");
}

#[test]
fn f5_starts_the_new_program_with_a_task_that_names_the_target() {
    let (host, other) = (host(), tempdir().unwrap());
    let one = format!("[build]\ntarget = {host:?}\n");
    let several = format!("[build]\ntarget = [{host:?}, \"wasm32-wasip1\"]\n");
    for (config, variables) in [(&one[..], vec![]), (&several, vec![]), ("", vec![("CARGO_BUILD_TARGET", &host[..])])] {
        let dir = project(&["train"], "");
        let root = dir.path();
        write(root.join(".cargo/config.toml"), config);
        let vscode = ddp(root, &["vscode", "--nproc", "2"]);
        variables.iter().fold(vscode, |ddp, (name, value)| ddp.env(name, value)).run().succeeds();
        assert_eq!(press_f5(root, TRAIN, &[]), "this is train of model\n");
        for (name, printed) in [("CARGO_TARGET_DIR", "second\n"), ("CARGO_BUILD_TARGET_DIR", "third\n")] {
            write(root.join("src/bin/train.rs"), &format!("fn main() {{ println!({:?}); }}\n", printed.trim()));
            assert_eq!(press_f5(root, TRAIN, &[(name, other.path().to_str().unwrap())]), printed, "{config}");
        }
        // A folder in cargo's configuration, which the task reads, and launch.json does not have yet.
        let text = format!("build.target-dir = \"out\"\n{}", config.replace("[build]\ntarget", "build.target"));
        write(root.join(".cargo/config.toml"), &text);
        let task = ["build", "--bin", "train", "--target", &host];
        ddp(root, &task).run().ends_with(1).says(&["cargo built ", "/out/", "hint: run `cargo ddp vscode`"]);
        // F5 does not start programs for another platform.
        write(root.join(".cargo/config.toml"), "");
        ddp(root, &["vscode"]).run().succeeds();
        ddp(root, &task).run().succeeds();
    }
}

#[test]
fn task_options_that_move_the_program_are_noticed() {
    let dir = project(&["train"], "");
    let root = dir.path();
    ddp(root, &["vscode", "--nproc", "2"]).run().succeeds();
    press_f5(root, TRAIN, &[]);
    let tasks = root.join(".vscode/tasks.json");
    let generated = fs::read_to_string(&tasks).unwrap();
    for more in ["\"-r\"", "\"--target-dir\", \"out\"", "\"-pmodel\""] {
        let edited = generated.replace("\"--bin\", \"train\"", &format!("\"--bin\", \"train\", {more}"));
        assert_ne!(edited, generated);
        fs::write(&tasks, edited).unwrap();
        ddp(root, &["vscode", "--check"]).run().ends_with(1).says(&["tasks.json"]);
        ddp(root, &["vscode"]).run().succeeds();
        assert_eq!(fs::read_to_string(&tasks).unwrap(), generated);
    }
    write(root.join("src/bin/train.rs"), "fn main() { println!(\"new\"); }\n");
    ddp(root, &["build", "--bin", "train", "--target-dir", "out"]).run().succeeds();
    assert_eq!(stdout_of(&mut Command::new(root.join("target/debug/train"))), "new\n");
}

#[test]
fn member_with_its_own_cargo_configuration_can_be_built() {
    let dir = workspace("", ("one", ""), ("two", ""));
    let (root, second) = (dir.path(), dir.path().join("second"));
    write(second.join(".cargo/config.toml"), "[build]\ntarget-dir = \"mine\"\n");
    ddp(root, &["vscode", "--nproc", "2"]).run().succeeds();
    let done = ddp(&second, &["build", "--bin", "two"]).run().succeeds().says(&["Note", "target/debug/two"]);
    assert!(done.stdout.contains("second/mine/debug/two"), "{}", done.stdout);
    assert_eq!(press_f5(root, "ddp: two, one process", &[]), "this is two of second\n");
    // A stale configuration is an error here, too.
    write(root.join(".cargo/config.toml"), "[build]\ntarget-dir = \"out\"\n");
    ddp(&second, &["build", "--bin", "two"]).run().ends_with(1).says(&["hint: run `cargo ddp vscode`"]);
}

#[test]
fn build_for_several_targets_is_refused_before_the_build() {
    let (dir, host) = (project(&["train"], ""), host());
    write(dir.path().join(".cargo/config.toml"), &format!("[build]\ntarget = [{host:?}, \"wasm32-wasip1\"]\n"));
    ddp(dir.path(), &["run", "--nproc", "1"])
        .run()
        .ends_with(2)
        .says(&["several build targets: ", "hint: choose one with --target"]);
    assert!(!dir.path().join("target").exists());
    let ran = ddp(dir.path(), &["run", "--nproc", "1", "--target", &host]).run().succeeds().stdout;
    assert!(ran.contains("this is train"), "{ran}");
    ddp(dir.path(), &["vscode"]).run().succeeds().says(&["2 targets"]);
    assert_eq!(press_f5(dir.path(), TRAIN, &[]), "this is train of model\n");
}

#[test]
fn target_that_needs_features_gets_them() {
    let bin = |features: &str| format!("[[bin]]\nname = \"train\"\nrequired-features = {features}\n");
    let features = "[features]\ndefault = [\"base\"]\nbase = []\ncuda = []\nfast = []\n";
    let manifest = |features_of_train: &str| format!("{}{features}", bin(features_of_train));
    let dir = project(&["train", "eval"], &manifest("[\"base\"]"));
    let root = dir.path();
    ddp(root, &["vscode", "--nproc", "2"]).run().succeeds();
    assert_eq!(press_f5(root, TRAIN, &[]), "this is train of model\n");
    let before = fs::read_to_string(root.join(".vscode/tasks.json")).unwrap();
    assert!(!before.contains("--features"), "{before}");

    package(root, ".", "model", &["train", "eval"], &format!("{}\n[workspace]\n", manifest("[\"cuda\", \"fast\"]")));
    ddp(root, &["vscode", "--check"]).run().ends_with(1).says(&["launch.json", "tasks.json"]);
    ddp(root, &["vscode"]).run().succeeds();
    let run = configuration(root, "ddp: run train on 2 ranks");
    assert_eq!(words(&run["args"])[..6], ["ddp", "run", "--bin", "train", "--features", "cuda,fast"]);
    assert_eq!(press_f5(root, TRAIN, &[]), "this is train of model\n");
    ddp(root, &["vscode", "--check"]).run().succeeds();
    // A selection that does not name it is as ambiguous as for cargo, which would silently build the other one.
    ddp(root, &["run", "--nproc", "1"])
        .run()
        .ends_with(2)
        .says(&["could not determine which binary to run (available: eval, train)"]);
    ddp(root, &["run", "--nproc", "1", "--bin", "train"]).run().ends_with(101).says(&["requires the features"]);
}

#[test]
fn needed_feature_that_was_renamed_leaves_the_task() {
    let needs = |feature: &str| {
        format!("[[bin]]\nname = \"train\"\nrequired-features = [{feature:?}]\n[features]\n{feature} = []\nmine = []\n")
    };
    let dir = project(&["train"], &needs("cuda"));
    let root = dir.path();
    ddp(root, &["vscode", "--nproc", "2"]).run().succeeds();
    let tasks = root.join(".vscode/tasks.json");
    let mine = fs::read_to_string(&tasks).unwrap().replace("\"cuda\"]", "\"cuda\", \"-F\", \"mine\"]");
    fs::write(&tasks, mine).unwrap();
    let task = || {
        let args = json(root, "tasks.json")["tasks"][0]["args"].clone();
        words(&args)[2..].join(" ")
    };
    assert_eq!(task(), "--bin train --features cuda -F mine");
    package(root, ".", "model", &["train"], &format!("{}\n[workspace]\n", needs("gpu")));
    ddp(root, &["vscode", "--check"]).run().ends_with(1);
    ddp(root, &["vscode"]).run().succeeds();
    assert_eq!(task(), "--bin train --features gpu -F mine");
    assert_eq!(press_f5(root, TRAIN, &[]), "this is train of model\n");
    package(root, ".", "model", &["train"], "[features]\nmine = []\n[workspace]\n");
    ddp(root, &["vscode"]).run().succeeds();
    assert_eq!(task(), "--bin train -F mine");
    assert_eq!(press_f5(root, TRAIN, &[]), "this is train of model\n");
}

#[test]
fn ambiguous_binary_is_refused_before_the_build() {
    let dir = project(&["train", "eval"], "");
    ddp(dir.path(), &["run", "--nproc", "1"])
        .run()
        .ends_with(2)
        .says(&["could not determine which binary to run (available: eval, train)", "--bin NAME"]);
    ddp(dir.path(), &["build"]).run().ends_with(2);
    assert!(!dir.path().join("target").exists(), "something was built");
    // Also before setup.
    let ambiguous = ddp(dir.path(), &["run", "--nproc", "1"]).env("LIBTORCH", "/nowhere").run();
    ambiguous.ends_with(2).says(&["could not determine which binary to run"]);
    let dir = project(&["train", "eval"], "default-run = \"eval\"");
    let ran = ddp(dir.path(), &["run", "--nproc", "1"]).run().succeeds().stdout;
    assert!(ran.contains("this is eval"), "{ran}");
    let dir = workspace("", ("train", ""), ("train", ""));
    ddp(dir.path(), &["run", "--bin", "train"])
        .run()
        .ends_with(2)
        .says(&["train (package first), train (package second)"]);
    let ran = ddp(dir.path(), &["run", "--nproc", "1", "-p", "second"]).run().succeeds().stdout;
    assert!(ran.contains("this is train of second"), "{ran}");
}

#[test]
fn settings_are_read_from_the_package_that_runs() {
    let settings = |nproc| format!("[package.metadata.ddp]\nnproc = {nproc}\n");
    let dir = workspace("", ("one", &settings(1)), ("two", &settings(3)));
    let root = dir.path();
    let workers = |args: &[&str]| {
        let done = ddp(root, &[&["run", "--dry-run"], args].concat()).run().succeeds();
        let line = done.stdout.lines().find(|line| line.starts_with("workers:")).unwrap().to_owned();
        line.rsplit(' ').next().unwrap().parse::<usize>().unwrap()
    };
    for (args, expected) in [
        (&["--bin", "two"][..], 3),
        (&["--bin", "one"], 1),
        (&["-p", "second"], 3),
        (&["-p", "second@0.1.0"], 3),
        (&["--manifest-path", "second/Cargo.toml"], 3),
        (&["--bin", "two", "--nproc", "2"], 2),
    ] {
        assert_eq!(workers(args), expected, "{args:?}");
    }
    let members = fs::read_to_string(root.join("Cargo.toml")).unwrap();
    write(root.join("Cargo.toml"), &format!("{members}default-members = [\"second\"]\n"));
    assert_eq!(workers(&[]), 3);

    ddp(root, &["vscode"]).run().succeeds();
    configuration(root, "ddp: run one on 1 rank");
    configuration(root, "ddp: run two on 3 ranks");
}

#[test]
fn package_id_with_blanks_means_its_package() {
    let dir = tempdir().unwrap();
    let root = dir.path().join("two é");
    package(&root, "first", "first", &["one"], "");
    package(&root, "second", "second", &["two", "three"], "default-run = \"two\"\n[package.metadata.ddp]\nnproc = 3\n");
    write(
        root.join("Cargo.toml"),
        "[workspace]\nmembers = [\"first\", \"second\"]\nexclude = [\"stand-in\"]\nresolver = \"3\"\n",
    );
    let mut cargo = Command::new("cargo");
    let metadata = stdout_of(cargo.args(["metadata", "--no-deps", "--format-version", "1"]).current_dir(&root));
    let metadata: Value = serde_json::from_str(&metadata).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    let id = packages.iter().find(|package| package["name"] == "second").unwrap()["id"].as_str().unwrap();
    assert!(id.contains("two%20%C3%A9"), "{id}");
    let planned = ddp(&root, &["run", "--dry-run", "-p", id]).run().succeeds().stdout;
    assert!(planned.contains("workers: 3\n") && planned.contains("debug/two"), "{planned}");
}

#[test]
fn package_and_target_patterns_are_refused_before_the_build() {
    let dir = workspace("", ("one", ""), ("two", ""));
    for (args, option) in [
        (["-p", "sec*", "--bin", "two"], "--package: `sec*`"),
        (["-p", "second", "--bin", "t?o"], "--bin: `t?o`"),
        (["-p", "second", "--example", "[ab]"], "--example: `[ab]`"),
    ] {
        for command in [&["run", "--nproc", "1"][..], &["build"]] {
            ddp(dir.path(), &[command, &args].concat()).run().ends_with(2).says(&[option, "is a pattern"]);
        }
    }
    assert!(!dir.path().join("target").exists(), "something was built");
}

#[test]
fn vscode_with_all_gpus_in_settings_needs_no_gpu() {
    let dir = project(&["train"], "[package.metadata.ddp]\ngpus = \"all\"\n");
    ddp(dir.path(), &["vscode"]).run().succeeds();
    let args = json(dir.path(), "launch.json")["configurations"][0]["args"].clone();
    assert!(words(&args).ends_with(&["--gpus", "all"]), "{args}");
    ddp(dir.path(), &["vscode", "--check"]).run().succeeds();
}

#[test]
fn binaries_with_equal_names_have_their_own_entries() {
    let dir = workspace("", ("train", ""), ("train", ""));
    let root = dir.path();
    write(root.join("first/examples/train.rs"), "fn main() { println!(\"the example\"); }\n");
    ddp(root, &["vscode", "--nproc", "2"]).run().succeeds().says(&["F5 debugs train (first), train (second)"]);
    for name in ["first", "second", "first"] {
        let printed = press_f5(root, &format!("ddp: train ({name}), one process"), &[]);
        assert_eq!(printed, format!("this is train of {name}\n"));
    }
    ddp(root, &["vscode", "--bin", "train", "-p", "second"]).run().succeeds().says(&["up to date"]);
    ddp(root, &["vscode", "--bin", "train"]).run().succeeds();
    assert_eq!(press_f5(root, "ddp: train (first example), one process", &[]), "the example\n");
    ddp(root, &["vscode", "--check"]).run().succeeds();
}

#[test]
fn binary_with_an_existing_name_does_not_get_the_users_arguments() {
    let dir = workspace("", ("train", ""), ("eval", ""));
    let root = dir.path();
    ddp(root, &["vscode", "--nproc", "2"]).run().succeeds();
    let launch = root.join(".vscode/launch.json");
    let mine = fs::read_to_string(&launch).unwrap().replacen(
        "\"--nproc\", \"2\"]",
        "\"--nproc\", \"2\", \"--\", \"mine\"]",
        1,
    );
    assert!(mine.contains("mine"), "{mine}");
    fs::write(&launch, mine).unwrap();
    write(root.join("second/src/bin/train.rs"), "fn main() {}\n");
    ddp(root, &["vscode"]).run().succeeds();
    assert!(fs::read_to_string(&launch).unwrap().contains("mine"));
    assert_eq!(press_f5(root, "ddp: train (first), one process", &[]), "this is train of first\n");
}

#[test]
fn root_package_is_named_where_cargo_builds_others_by_default() {
    let dir = tempdir().unwrap();
    package(dir.path(), "inner", "inner", &["eval"], "");
    package(
        dir.path(),
        ".",
        "model",
        &["train"],
        "[workspace]\nmembers = [\"inner\"]\ndefault-members = [\"inner\"]\n",
    );
    ddp(dir.path(), &["vscode", "--nproc", "2"]).run().succeeds();
    assert_eq!(press_f5(dir.path(), TRAIN, &[]), "this is train of model\n");
    assert_eq!(press_f5(dir.path(), "ddp: eval, one process", &[]), "this is eval of inner\n");
}

/// What `cargo run` prints, and what a worker of `cargo ddp run` does.
fn both_print(root: &Path, variables: &[(&str, &str)]) -> (String, String) {
    let mut cargo = Command::new("cargo");
    for name in ["CARGO_TARGET_DIR", "CARGO_BUILD_TARGET_DIR", "CARGO_BUILD_TARGET"] {
        cargo.env_remove(name);
    }
    let by_cargo = stdout_of(cargo.args(["run", "-q"]).current_dir(root).envs(variables.iter().copied()));
    let run = variables.iter().fold(ddp(root, &["run", "--nproc", "1"]), |ddp, (name, value)| ddp.env(name, value));
    (by_cargo, run.run().succeeds().stdout.replace("[rank 0] ", ""))
}

#[test]
fn workers_are_started_with_cargos_runner() {
    let (dir, host) = (project(&["train"], ""), host());
    let root = dir.path();
    write(root.join("tools/run"), "#!/bin/sh\necho by $0 \"$1\"\nshift\nexec \"$@\"\n");
    let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(root.join("tools/run"), executable).unwrap();
    let words = r#"["sh", "-c", "echo by sh; exec \"$0\" \"$@\""]"#;
    for (config, by) in [
        (format!("target.{host}.runner = \"tools/run fast\""), "tools/run fast"),
        (format!("target.{host}.runner = {words}"), "by sh"),
        (format!("target.'cfg(unix)'.runner = {words}"), "by sh"),
        (format!("target.'cfg(all(target_os = \"linux\", not(windows)))'.runner = {words}"), "by sh"),
        (format!("build.target = {host:?}\ntarget.{host}.runner = {words}\n"), "by sh"),
        (format!("target.'cfg(unix)'.runner = \"false\"\ntarget.{host}.runner = {words}\n"), "by sh"),
        ("target.'cfg(windows)'.runner = \"false\"".to_owned(), "this is train"),
    ] {
        write(root.join(".cargo/config.toml"), &config);
        let (by_cargo, by_us) = both_print(root, &[]);
        assert!(by_cargo.contains(by) && by_cargo == by_us, "{config}: {by_cargo}{by_us}");
    }
    let variable = format!("CARGO_TARGET_{}_RUNNER", host.to_uppercase().replace('-', "_"));
    let (by_cargo, by_us) = both_print(root, &[(&variable, "tools/run variable")]);
    assert!(by_cargo.contains("tools/run variable") && by_cargo == by_us, "{by_cargo}{by_us}");

    let run = || ddp(root, &["run", "--nproc", "1"]).run();
    write(root.join(".cargo/config.toml"), "target.'cfg(unix)'.runner = 'a'\ntarget.'cfg(not(windows))'.runner = 'b'");
    run().ends_with(2).says(&[".cargo/config.toml", "target.'cfg(unix)'.runner", "both apply"]);
    write(root.join(".cargo/config.toml"), "target.'cfg(unix)'.runner = 'no-such-runner -v'");
    run().ends_with(127).says(&["no-such-runner"]);
}
