//! How a dataset's panic is reported, and means over ranks with different numbers of samples.

use ddp_tests::{Ddp, Done};

fn run(nproc: &str, action: &str, workers: &str) -> Done {
    let flags = ["--max-restarts", "0", "--nproc", nproc];
    Ddp::worker("loader", &flags, &[action, workers]).env("RUST_BACKTRACE", "0").run().leaves_no_process()
}

#[test]
fn dataset_panic_that_is_skipped_prints_nothing_from_the_panic_hook() {
    for workers in ["0", "2"] {
        let done = run("1", "go-on", workers).succeeds();
        let skipped = "skipped: sample 9: panicked at tests/workers/loader.rs:";
        assert_eq!(done.stdout.matches(skipped).count(), 2, "{}\n{}", done.stdout, done.stderr);
        assert_eq!(done.stdout.matches(": the picture is torn").count(), 2, "{}", done.stdout);
        assert_eq!(done.stdout.matches("had 2 batches").count(), 2, "{}", done.stdout);
        assert!(!done.stderr.contains("torn"), "{}", done.stderr);
    }
}

#[test]
fn dataset_panic_that_ends_training_is_the_reported_error() {
    for workers in ["0", "2"] {
        let done = run("1", "fail", workers).ends_with(1);
        done.says(&[
            "error: rank 0 ended with exit code 1 (pid ",
            "message: sample 9: panicked at tests/workers/loader.rs:",
            ": the picture is torn",
        ]);
    }
}

#[test]
fn later_error_is_reported_instead_of_a_skipped_dataset_panic() {
    let failed = run("1", "fail-later", "2").ends_with(1).says(&["message: the disk is full"]);
    assert!(!failed.stderr.contains("torn"), "{}", failed.stderr);
    let panicked = run("1", "panic-later", "0").ends_with(101);
    panicked.says(&["message: panic: the model is gone", "at tests/workers/loader.rs:"]);
}

#[test]
fn mean_counts_each_sample_once_however_they_are_distributed() {
    let done = run("3", "mean", "2").succeeds();
    assert_eq!(done.stdout.matches("all means are right").count(), 3, "{}\n{}", done.stdout, done.stderr);
}
