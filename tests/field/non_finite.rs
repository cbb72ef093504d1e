//! Losses, weights and values that are not finite numbers.

use std::fs;

use ddp_contract::snapshot;
use ddp_tests::{Ddp, Done, snapshots};
use serde_json::Value;
use tempfile::tempdir;

use super::snapshots::{keeper, steps};

/// What each rank printed at its end, without the rank.
fn ends(done: &Done) -> Vec<&str> {
    let ends: Vec<_> =
        done.stdout.lines().filter_map(|line| line.split_once(" ends with ")).map(|(_, end)| end).collect();
    assert_eq!(ends.len(), 2, "{}", done.stdout);
    ends
}

/// `best = f64::INFINITY` was saved as null: the snapshot was valid, and could never be resumed.
#[test]
fn value_that_is_not_finite_is_restored() {
    let dir = tempdir().unwrap();
    keeper(dir.path(), &["steps=1", "every=1"]).run().succeeds();
    let state = fs::read_to_string(dir.path().join("step-00000001/state.json")).unwrap();
    assert_eq!(serde_json::from_str::<Value>(&state).unwrap()["states"]["value.best"], "inf");
    let done = keeper(dir.path(), &["steps=2", "every=1"]).run().succeeds();
    assert_eq!(done.stdout.matches("begins after step 1, best inf").count(), 2, "{}", done.stdout);
    let show = ["snapshot", "show", dir.path().to_str().unwrap()];
    let shown = Ddp::new(show).run().succeeds().stdout;
    assert!(shown.contains("value best: \"inf\""), "{shown}");
}

/// A run whose loss became NaN ended with code 0, and had replaced all healthy snapshots.
#[test]
fn nan_loss_is_reported_once_and_healthy_snapshots_stay() {
    for policy in ["policy=0", "policy=1", "trainer=1"] {
        let dir = tempdir().unwrap();
        let settings = [policy, "steps=9", "every=1", "keep=2", "nan=5", "rank=0"];
        let done = keeper(dir.path(), &settings).run().succeeds();
        assert_eq!(done.stderr.matches("warning: the loss is NaN at step 5").count(), 1, "{}", done.stderr);
        assert_eq!(steps(dir.path()), [9, 8, 4], "{policy}");
        let manifest = |step: &str| snapshot::verify(&dir.path().join(step)).unwrap();
        assert_eq!(manifest("step-00000009").non_finite_since, Some(5));
        // Neither a restart nor `prune` loses it.
        if policy == "policy=0" {
            let done = keeper(dir.path(), &[policy, "steps=12", "every=1", "keep=1"]).run().succeeds();
            done.says(&["was saved after the loss or a weight was not a finite number (step 5)"]);
            assert_eq!(steps(dir.path()), [12, 4]);
        }
        let listed = Ddp::new(["snapshot", "ls", dir.path().to_str().unwrap()]).run().succeeds().stdout;
        assert!(listed.contains("valid (loss not finite since step 5)"), "{listed}");
        Ddp::new(["snapshot", "prune", dir.path().to_str().unwrap(), "--keep-last", "1"]).run().succeeds();
        assert_eq!(steps(dir.path()).last(), Some(&4));
    }
}

#[test]
fn nan_loss_stops_the_run_on_request() {
    for way in ["trainer=0", "trainer=1"] {
        let dir = tempdir().unwrap();
        let settings = [way, "policy=2", "steps=9", "every=1", "keep=1", "nan=5", "rank=1"];
        let done = keeper(dir.path(), &settings).run().ends_with(1).leaves_no_process();
        done.says(&["the loss of rank 1 is not a finite number at step 5"]);
        assert_eq!(steps(dir.path()), [4], "{way}");
    }
}

#[test]
fn nan_loss_on_one_rank_skips_the_step_on_all() {
    for way in ["trainer=0", "trainer=1"] {
        for rank in ["rank=0", "rank=1"] {
            let dir = tempdir().unwrap();
            let settings = [way, rank, "policy=3", "steps=9", "every=1", "keep=1", "nan=5"];
            let done = keeper(dir.path(), &settings).run().succeeds();
            let ends = ends(&done);
            assert_eq!(ends[0], ends[1], "{way} {rank}: the ranks' weights differ");
            assert!(ends[0].starts_with("step 9, finite true, skipped 1, "), "{way} {rank}: {}", ends[0]);
            assert_eq!(done.stderr.matches("all ranks skip this step").count(), 1, "{}", done.stderr);
            assert_eq!(steps(dir.path()), [9]);
            assert_eq!(snapshot::verify(&snapshots(dir.path())[0]).unwrap().non_finite_since, None);
        }
    }
}
