//! How runs end: with everything still open, by an error, in a timeout, next to a rank that waits forever.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use ddp_contract::snapshot;
use ddp_tests::{Ddp, Done, worker};
use serde_json::Value;
use tempfile::tempdir;

use crate::nvml::stand_in;

fn teardown(log_dir: &Path, flags: &[&str], args: &[&str]) -> Ddp {
    let own = ["--nproc", "2", "--max-restarts", "0", "--log-dir", log_dir.to_str().unwrap()];
    Ddp::worker("teardown", &[&own, flags].concat(), args)
}

/// The run's own folder.
fn run_dir(log_dir: &Path) -> PathBuf {
    log_dir.join("1")
}

fn is_complete(snapshots: &Path) -> bool {
    snapshot::newest_valid(snapshots).unwrap().valid.is_some_and(|found| found.manifest.step == 1)
}

fn says_the_cause(done: Done, rank: usize) -> Done {
    let cause = format!("error: rank {rank} ended with exit code 1 (pid ");
    done.says(&[&cause, "message: told to fail with everything open"]).leaves_no_process()
}

#[test]
fn failing_rank_is_the_cause_whatever_resources_it_has_open() {
    for rank in [0, 1] {
        let dir = tempdir().unwrap();
        let done = teardown(dir.path(), &[], &["fail", &rank.to_string()]).run().ends_with(1);
        let done = says_the_cause(done, rank);
        // Rank 0's last snapshot is complete, even if rank 0 fails.
        assert!(is_complete(&run_dir(dir.path()).join("snapshots")), "{}", done.stderr);
        assert!(!done.stderr.contains("metrics mismatch"), "{}", done.stderr);
    }
}

#[test]
fn successful_run_finishes_open_snapshots_and_metrics() {
    let (dir, snapshots) = (tempdir().unwrap(), tempdir().unwrap());
    let done = teardown(dir.path(), &[], &["succeed", snapshots.path().to_str().unwrap()]).run().succeeds();
    assert!(is_complete(snapshots.path()), "{}", done.stderr);
    let metrics = fs::read_to_string(run_dir(dir.path()).join("metrics.jsonl")).unwrap();
    assert!(metrics.contains("0.5") && metrics.contains("\"end\""), "{metrics}");
    done.says(&["warning: ddp-data-0 is still loading an unneeded batch"]).leaves_no_process();
}

#[test]
fn context_can_be_created_again_after_a_drop() {
    for nproc in ["1", "3"] {
        let flags = ["--max-restarts", "0", "--nproc", nproc];
        let done = Ddp::worker("teardown", &flags, &["again"]).run().succeeds().leaves_no_process();
        let last = format!("context 3: {nproc} ranks");
        assert_eq!(done.stdout.matches(&last).count().to_string(), nproc, "{}", done.stdout);
    }
}

#[test]
fn rank_that_waits_forever_after_a_failure_is_not_waited_for() {
    let dir = tempdir().unwrap();
    let done = teardown(dir.path(), &["--grace", "800"], &["stuck", "1"]).run().ends_with(1);
    let done = says_the_cause(done, 1).says(&["afterwards: rank 0 ended with exit code 143"]);
    assert!(is_complete(&run_dir(dir.path()).join("snapshots")), "{}", done.stderr);
}

#[test]
fn list_of_collectives_is_written_when_one_times_out() {
    let dir = tempdir().unwrap();
    let log_dir = dir.path().to_str().unwrap();
    Ddp::toy(&["--nproc", "2", "--max-restarts", "0", "--log-dir", log_dir], &["late", "1"]).run().ends_with(1);
    let list = run_dir(dir.path()).join("attempt-0/collectives-rank-0");
    assert!(fs::read(&list).unwrap().starts_with(&[0x80, 2]), "a pickle, for Python's tools");
    let list: Value = serde_json::from_slice(&fs::read(list.with_extension("json")).unwrap()).unwrap();
    let last = list["entries"].as_array().unwrap().last().unwrap();
    // The ranks compare their calls first. The second name of the group is PyTorch's for that of all ranks.
    assert_eq!(
        (&last["profiling_name"], &last["process_group"][1]),
        (&"gloo:all_gather".into(), &"default_pg".into()),
        "{list}"
    );
}

#[test]
fn worker_with_gpus_but_without_cuda_is_an_error() {
    let nvml = stand_in();
    let flags = ["--max-restarts", "0", "--gpus", "2,3"];
    let done =
        Ddp::worker("reducer", &flags, &[]).env("LD_LIBRARY_PATH", nvml.path()).run().ends_with(1).leaves_no_process();
    done.says(&[
        "CUDA_VISIBLE_DEVICES=2,3 names GPUs, but this program was built with a libtorch without CUDA",
        "hint: run `cargo ddp setup --cuda` and build again; set CUDA_VISIBLE_DEVICES= (empty) to train on the CPU",
    ]);
}

#[test]
fn ddp_that_is_dropped_before_backward_leaves_no_dangling_pointer() {
    if Command::new("valgrind").arg("--version").output().is_err() {
        assert!(std::env::var_os("CI").is_none(), "CI runs this: valgrind must be installed");
        ddp_tests::skipped("needs valgrind");
        return;
    }
    // (libtorch's kernels read bytes that they have not written, so those are not checked.)
    let flags = ["-q", "--error-exitcode=9", "--undef-value-errors=no"];
    let mut valgrind = Command::new("valgrind");
    valgrind.args(flags).arg(worker("reducer")).arg("dropped").env("OMP_NUM_THREADS", "1");
    let output = valgrind.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
