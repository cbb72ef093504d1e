//! `Trainer` matches a handwritten loop of its parts, and its runs can be stopped and resumed.

use ddp_tests::Ddp;
use tempfile::tempdir;

fn worker<'a>(args: &'a [&'a str]) -> Ddp {
    Ddp::worker("trainer", &["--max-restarts", "0", "--nproc", "2"], args)
}

#[test]
fn trainer_matches_a_handwritten_loop() {
    let done = worker(&["check"]).run().succeeds().leaves_no_process();
    assert_eq!(done.stdout.matches("the trainer is right").count(), 2, "{}", done.stdout);
}

/// How each rank's run ended: the outcome and the bits of the model.
fn ends(stdout: &str) -> Vec<&str> {
    let mut ends: Vec<_> = stdout.lines().filter(|line| line.contains(" ends with ")).collect();
    ends.sort_unstable();
    assert_eq!(ends.len(), 2, "{stdout}");
    ends
}

#[test]
fn trainer_that_is_stopped_resumes_and_ends_identically() {
    let (undisturbed, stopped) = (tempdir().unwrap(), tempdir().unwrap());
    let expected = worker(&["run", undisturbed.path().to_str().unwrap()]).run().succeeds();
    assert!(expected.stdout.contains("epoch  60  loss "), "{}", expected.stdout);

    let dir = stopped.path().to_str().unwrap();
    let job = worker(&["run", dir]).start();
    job.wait_for("epoch  20  loss ");
    job.signal(10); // SIGUSR1
    job.wait().ends_with(75).leaves_no_process();
    let done = worker(&["run", dir]).run().succeeds();
    assert!(!done.stdout.contains("epoch  20 "), "{}", done.stdout);
    assert_eq!(ends(&done.stdout), ends(&expected.stdout));
    // A finished run stays finished.
    let again = worker(&["run", dir]).run().succeeds();
    assert_eq!(ends(&again.stdout), ends(&expected.stdout));
}
