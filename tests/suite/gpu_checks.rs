//! `tests/gpu`, as far as it can be tried without a GPU.

use std::path::Path;
use std::process::Command;

use ddp_tests::{CudaTorch, Ddp, repo, stdout_of};
use tempfile::tempdir;

fn run(bin: &str, nproc: &str, args: &[&str]) -> String {
    let flags = ["run", "-p", "ddp-tests", "--bin", bin, "--max-restarts", "0", "--nproc", nproc, "--"];
    Ddp::new(flags.iter().chain(args)).env("OMP_NUM_THREADS", "1").run().succeeds().leaves_no_process().stdout
}

#[test]
fn gpu_checks_with_two_ranks_pass_on_the_cpu() {
    for action in ["train", "gloo_cuda", "dropped", "subgroup", "leave", "groups", "hidden_sync"] {
        run("gpu_checks", "2", &[action]);
    }
}

#[test]
fn gpu_checks_with_one_rank_pass_on_the_cpu() {
    let dir = tempdir().unwrap();
    for args in [&["seeded"][..], &["loader_overlap"], &["snapshot_race", dir.path().to_str().unwrap()]] {
        run("gpu_checks", "1", args);
    }
}

#[test]
fn gpu_checks_are_listed() {
    let list =
        stdout_of(Command::new("python3").env("PYTHONDONTWRITEBYTECODE", "1").arg(script("run.py")).arg("--list"));
    assert!(list.lines().count() > 50 && list.contains("\nsnapshot_race "), "{list}");
}

fn script(name: &str) -> std::path::PathBuf {
    repo().join("tests/gpu").join(name)
}

/// With small models. If the two programs trained different models, their losses would differ.
#[test]
fn gpu_benchmark_trains_the_models_that_its_python_twin_trains() {
    let Some(torch) = CudaTorch::find() else { return };
    let models = ["--small", "linear", "mlp", "resnet50_bf16", "gpt_bf16"];
    let dir = tempdir().unwrap();
    let [ours, python] = ["ours", "python"].map(|name| dir.path().join(name));
    let write = |path: &Path, lines: String| std::fs::write(path, lines).unwrap();
    write(&ours, run("gpu_steps", "2", &models));
    write(&python, stdout_of(torch.torchrun().arg(script("steps.py")).args(models)));
    let table = stdout_of(Command::new("python3").arg(script("ratios.py")).args([&ours, &python]));
    assert!(table.contains("| gpt_bf16 | none | 2 |") && table.ends_with("The losses agree.\n"), "{table}");
}
