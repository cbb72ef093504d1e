//! Usage errors and failed builds: the documented exit codes, and the messages.

use std::fs;

use ddp_tests::Ddp;
use tempfile::tempdir;

#[test]
fn invalid_flags_exit_with_2() {
    for args in [
        &["run", "--nproc", "0"][..],
        &["run", "--nproc", "two"],
        &["run", "--gpus", "0", "--nproc", "1"],
        &["run", "--grace", "soon"],
        &["new"],
        &["exec"],
        &["no-such-command"],
        &["setup", "--cpu", "--cuda"],
    ] {
        Ddp::new(args).run().ends_with(2).says(&["error: "]);
    }
}

#[test]
fn missing_project_is_reported() {
    let dir = tempdir().unwrap();
    let done = Ddp::new(["run", "--nproc", "1"]).dir(dir.path()).run().ends_with(2);
    done.says(&["error: no cargo project here: could not find `Cargo.toml`", "hint: "]);
}

#[test]
fn failed_build_exits_with_101_and_cargos_message() {
    let dir = tempdir().unwrap();
    fs::create_dir(dir.path().join("src")).unwrap();
    fs::write(dir.path().join("Cargo.toml"), "[package]\nname = \"broken\"\nedition = \"2024\"\n").unwrap();
    fs::write(dir.path().join("src/main.rs"), "fn main() { let x: u32 = \"text\"; }\n").unwrap();
    let done = Ddp::new(["run", "--nproc", "1"]).dir(dir.path()).run().ends_with(101);
    done.says(&["mismatched types", "error: the build failed"]);
}

#[test]
fn several_binaries_need_a_choice() {
    let dir = tempdir().unwrap();
    fs::create_dir_all(dir.path().join("src/bin")).unwrap();
    fs::write(dir.path().join("Cargo.toml"), "[package]\nname = \"two\"\nedition = \"2024\"\n").unwrap();
    for name in ["a", "b"] {
        fs::write(
            dir.path().join(format!("src/bin/{name}.rs")),
            format!("fn main() {{ println!(\"this is {name}\"); }}\n"),
        )
        .unwrap();
    }
    let run = |flags: &[&str]| Ddp::new(["run", "--nproc", "2"].iter().chain(flags)).dir(dir.path()).run();
    run(&[]).ends_with(2).says(&["could not determine which binary to run (available: a, b)", "--bin NAME"]);
    let done = run(&["--bin", "b"]).succeeds();
    assert_eq!(done.stdout.lines().filter(|line| line.ends_with("] this is b")).count(), 2, "{}", done.stdout);
}

#[test]
fn exec_returns_the_exit_code_of_its_command() {
    let done = Ddp::new(["exec", "--", "sh", "-c", "echo $LIBTORCH; exit 9"]).run().ends_with(9);
    assert_eq!(done.stdout.trim(), ddp_tests::repo().join(".ddp/libtorch").to_str().unwrap());
    // Outside of a project, too.
    let dir = tempdir().unwrap();
    let done = Ddp::new(["exec", "--", "sh", "-c", "ls $LIBTORCH/lib"]).dir(dir.path()).run().succeeds();
    assert!(done.stdout.contains("libtorch_cpu.so"), "{}", done.stdout);
    Ddp::new(["exec", "--", "no-such-program"]).run().ends_with(127).says(&["program not found: no-such-program"]);
}

#[test]
fn worker_without_its_variables_names_the_missing_one() {
    let mut worker = std::process::Command::new(ddp_tests::worker("toy"));
    worker.args(["error"]).env_clear().env("RANK", "0").env("WORLD_SIZE", "2").env("LOCAL_RANK", "0");
    let output = worker.env("MASTER_ADDR", "127.0.0.1").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let stderr = String::from_utf8(output.stderr).unwrap();
    let (error, hint) = stderr.trim().split_once('\n').unwrap();
    assert_eq!(error, "error: MASTER_PORT is not set, but RANK is");
    assert!(hint.starts_with("hint: start workers with `cargo ddp run` or torchrun"), "{hint}");
}
