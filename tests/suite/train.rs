//! new → run → trained.

use std::collections::BTreeMap;
use std::fs;

use ddp_tests::{Ddp, fitted, linear_project, snapshots};
use tempfile::tempdir;

#[test]
fn new_project_trains_and_all_ranks_agree() {
    let dir = tempdir().unwrap();
    let args = ["run", "--nproc", "2", "--", "--snapshots", dir.path().to_str().unwrap()];
    let done = Ddp::in_linear(args).run().succeeds().leaves_no_process();
    let fitted = fitted(&done.stdout);
    assert_eq!(fitted.len(), 2, "{}", done.stdout);
    assert_eq!(fitted[0], fitted[1]);
    let numbers: Vec<f64> = fitted[0]
        .split(|c: char| !(c.is_ascii_digit() || c == '.' || c == '-'))
        .filter_map(|word| word.parse().ok())
        .collect();
    for (found, (true_value, index)) in [(-2.0, 0), (3.4, 1), (4.2, 4)].map(|(t, i)| (numbers[i], (t, i))) {
        assert!((found - true_value).abs() < 0.01, "number {index} of {}: {found} for {true_value}", fitted[0]);
    }
    assert_eq!(snapshots(dir.path())[0].file_name().unwrap(), "step-00000640");
}

#[test]
fn training_resumes_where_it_ended() {
    let (whole, parts) = (tempdir().unwrap(), tempdir().unwrap());
    let train = |dir: &std::path::Path, epochs: &str| {
        let args = ["run", "--nproc", "2", "--", "--total-epochs", epochs, "--snapshots", dir.to_str().unwrap()];
        Ddp::in_linear(args).run().succeeds().stdout
    };
    let undisturbed = train(whole.path(), "8");
    train(parts.path(), "3");
    let resumed = train(parts.path(), "8");
    assert!(resumed.contains("resuming from epoch 3 of 8"), "{resumed}");
    assert!(!resumed.contains("epoch   3 "), "{resumed}");
    assert_eq!(fitted(&resumed), fitted(&undisturbed));
    let done = train(parts.path(), "8");
    assert!(!done.contains("loss"), "a finished run trains no more: {done}");
    assert_eq!(fitted(&done), fitted(&undisturbed));
}

#[test]
fn program_without_a_launcher_runs_alone_and_finds_libtorch() {
    let dir = tempdir().unwrap();
    linear_project();
    let program = ddp_tests::kept().join("linear-target/debug/linear");
    let mut alone = std::process::Command::new(program);
    alone.env_clear().args(["--total-epochs", "2", "--snapshots"]).arg(dir.path());
    let stdout = ddp_tests::stdout_of(&mut alone);
    assert!(stdout.contains("epoch   2"), "{stdout}");
    assert_eq!(snapshots(dir.path()).len(), 1);
}

#[test]
fn launcher_uses_little_memory() {
    let dir = tempdir().unwrap();
    let args = ["run", "--nproc", "2", "--", "--total-epochs", "100000", "--snapshots", dir.path().to_str().unwrap()];
    let job = Ddp::in_linear(args).start();
    job.wait_for("epoch  40");
    // It has three processes. Pages of the program's file are large in a debug build (relocations alone are 1 MB each),
    // and are measured in a release build (`tests/bench/launcher.py`).
    let processes = ddp_tests::launcher_processes(job.pid());
    let parts: Vec<_> = processes.iter().map(|pid| heap_and_stack_kb(*pid)).collect();
    job.signal(ddp_tests::SIGTERM);
    job.wait().ends_with(75).leaves_no_process();
    let own_kb: u64 = parts.iter().flat_map(BTreeMap::values).sum();
    assert!(own_kb > 0 && own_kb < 4_000, "the launcher has {own_kb} kB of its own: {parts:?}");
}

/// Memory of a process that is not from a file, by the name of the mapping (`[heap]`, `[stack]`, or none).
fn heap_and_stack_kb(pid: u32) -> BTreeMap<String, u64> {
    let (mut parts, mut name) = (BTreeMap::new(), String::new());
    for line in fs::read_to_string(format!("/proc/{pid}/smaps")).unwrap().lines() {
        let words: Vec<_> = line.split_whitespace().collect();
        if !words[0].ends_with(':') {
            // Addresses, permissions, offset, device, inode, and the name if there is one.
            name = words.get(5).copied().unwrap_or_default().to_owned();
        } else if words[0] == "Anonymous:" && !name.starts_with('/') {
            *parts.entry(name.clone()).or_default() += words[1].parse::<u64>().unwrap();
        }
    }
    parts
}

#[test]
fn memory_does_not_grow_from_two_to_ten_thousand_steps() {
    let done = Ddp::worker("flat", &["--nproc", "2", "--max-restarts", "0"], &[]).run().succeeds();
    let lines: Vec<_> = done.stdout.lines().filter_map(|line| line.split_once("] resident ")).collect();
    assert_eq!(lines.len(), 2, "{}", done.stdout);
    for (_, numbers) in lines {
        let numbers: Vec<i64> = numbers.split(' ').map(|n| n.parse().unwrap()).collect();
        let [_, warm, end] = numbers[..] else { panic!("{numbers:?}") };
        // In KiB. One tensor of 8 numbers kept per step would be some 2 MB.
        assert!(end - warm <= 1024, "{warm} KiB after 2,000 steps, {end} KiB after 10,000");
    }
}

#[test]
fn runtime_examples_run() {
    let dir = tempdir().unwrap();
    for (example, nproc, words) in [
        ("collectives", "3", "3 ranks agree"),
        ("schedulers", "1", "OneCycleLR"),
        ("by_hand", "2", "epoch 6: loss 0."),
        ("from_python", "2", "epoch 4: loss 0."),
    ] {
        let folder = dir.path().join(example);
        let args = ["run", "-p", "ddp-runtime", "--example", example, "--nproc", nproc, "--max-restarts", "0", "--"];
        let done = Ddp::new(args.iter().copied().chain([folder.to_str().unwrap()])).run().succeeds();
        assert!(done.leaves_no_process().stdout.contains(words), "{example}");
    }
}
