//! Communication hooks in Rust, and PowerSGD.

use std::fs;

use ddp_tests::{CudaTorch, Ddp, Done, repo, stdout_of};
use serde_json::Value;
use tempfile::tempdir;

fn run(name: &str, nproc: &str, args: &[&str]) -> Done {
    let flags = ["--max-restarts", "0", "--nproc", nproc];
    Ddp::worker(name, &flags, args).env("OMP_NUM_THREADS", "1").run()
}

#[test]
fn hooks_replace_the_all_reduce_and_backward_returns_their_errors() {
    for (nproc, ranks) in [("2", 2), ("3", 3)] {
        let done = run("hooks", nproc, &[]).succeeds().leaves_no_process();
        assert_eq!(done.stdout.matches("hooks are right").count(), ranks, "{}", done.stdout);
    }
}

#[test]
fn hook_that_fails_on_one_rank_is_the_cause_that_is_reported() {
    let done = run("hooks", "2", &["fail"]).ends_with(1).leaves_no_process();
    let line = done.stderr.lines().find(|line| line.starts_with("error: ")).unwrap_or_default();
    assert!(line.starts_with("error: rank 1 "), "{}", done.stderr);
    done.says(&["no bandwidth"]);
}

#[test]
fn power_sgd_continues_from_its_saved_state_bit_for_bit() {
    let dir = tempdir().unwrap();
    for (nproc, ranks) in [("2", 2), ("3", 3)] {
        let done = run("power_sgd", nproc, &["continues", dir.path().join(nproc).to_str().unwrap()]).succeeds();
        assert_eq!(done.stdout.matches("PowerSGD continues").count(), ranks, "{}", done.stdout);
    }
}

/// Losses by case, rank and step, from lines such as `[rank 1] rank 2, epsilon: 1 7 3e5b5908`.
fn losses(stdout: &str) -> Vec<(String, f32)> {
    let lines = stdout.lines().filter_map(|line| {
        let line = line.strip_prefix('[').and_then(|line| line.split_once("] ")).map_or(line, |(_, line)| line);
        let (place, bits) = line.rsplit_once(' ')?;
        Some((place.to_owned(), f32::from_bits(u32::from_str_radix(bits, 16).ok()?)))
    });
    let mut losses: Vec<_> = lines.collect();
    losses.sort_by(|a, b| a.0.cmp(&b.0));
    losses
}

fn power_sgd_losses() -> Vec<(String, f32)> {
    let golden = repo().join("tests/golden/power_sgd.json");
    losses(&run("power_sgd", "2", &["losses", golden.to_str().unwrap()]).succeeds().stdout)
}

#[test]
fn power_sgd_losses_match_python_to_the_last_bit() {
    let Some(torch) = CudaTorch::find() else { return };
    let mut python = torch.torchrun();
    python.arg(repo().join("tests/golden/power_sgd.py")).arg(repo().join("tests/golden/power_sgd.json"));
    assert_eq!(power_sgd_losses(), losses(&stdout_of(&mut python)));
}

/// Across processors, kernels may round differently in the last bits, which grow from step to step.
#[test]
fn power_sgd_losses_match_the_golden_ones() {
    let golden: Value =
        serde_json::from_str(&fs::read_to_string(repo().join("tests/golden/power_sgd.json")).unwrap()).unwrap();
    let ours = power_sgd_losses();
    assert_eq!(ours.len(), 7 * 2 * 12);
    for (place, ours) in ours {
        let (case, rest) = place.split_once(": ").unwrap();
        let (rank, step) = rest.split_once(' ').unwrap();
        let bits = &golden["losses"][case][rank.parse::<usize>().unwrap()][step.parse::<usize>().unwrap()];
        let theirs = f32::from_bits(u32::from_str_radix(bits.as_str().unwrap(), 16).unwrap());
        assert!((ours - theirs).abs() <= 1e-3 * theirs.abs().max(1e-2), "{place}: {ours} for {theirs}");
    }
}
