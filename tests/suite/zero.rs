//! `ZeroRedundancy` against the same optimizer unsharded, and snapshots that both can load.

use std::fs;
use std::path::Path;

use ddp_tests::{Ddp, Done, snapshots};
use tempfile::tempdir;

fn run(nproc: &str, args: &[&str]) -> Done {
    let flags = ["--max-restarts", "0", "--nproc", nproc];
    Ddp::worker("zero", &flags, args).env("OMP_NUM_THREADS", "1").run().succeeds().leaves_no_process()
}

/// The steps of all ranks, sorted.
fn train(nproc: &str, dir: &Path, kind: &str, steps: &str) -> Vec<String> {
    let stdout = run(nproc, &[dir.to_str().unwrap(), kind, steps]).stdout;
    let mut steps: Vec<_> =
        stdout.lines().filter_map(|line| line.split_once("step ")).map(|line| line.1.to_owned()).collect();
    steps.sort();
    steps
}

#[test]
fn zero_redundancy_matches_the_unsharded_optimizer() {
    for (nproc, ranks) in [("2", 2), ("3", 3)] {
        let done = run(nproc, &[]);
        assert_eq!(done.stdout.matches("sharding is right").count(), ranks, "{}", done.stdout);
    }
}

#[test]
fn zero_redundancy_snapshots_are_complete_and_fit_any_number_of_ranks_and_the_unsharded_optimizer() {
    let dir = tempdir().unwrap();
    let folder = |name: &str| dir.path().join(name);
    let (sharded, full) = (folder("sharded"), folder("full"));
    assert_eq!(train("3", &sharded, "sharded", "6"), train("3", &full, "full", "6"));
    let files = |folder: &Path| {
        let newest = snapshots(folder).remove(0);
        ["model.safetensors", "optimizer.safetensors"].map(|name| fs::read(newest.join(name)).unwrap())
    };
    assert!(files(&sharded) == files(&full), "the snapshots differ");

    for nproc in ["1", "2", "3"] {
        let results = ["sharded", "full"].map(|kind| {
            let resumed = folder(&format!("{kind}-{nproc}"));
            let saved = snapshots(&sharded).remove(0);
            let copy = resumed.join(saved.file_name().unwrap());
            fs::create_dir_all(&copy).unwrap();
            for file in fs::read_dir(&saved).unwrap() {
                let file = file.unwrap();
                fs::copy(file.path(), copy.join(file.file_name())).unwrap();
            }
            let steps = train(nproc, &resumed, kind, "10");
            assert_eq!(steps.len(), 4 * nproc.parse::<usize>().unwrap());
            (steps, files(&resumed))
        });
        assert!(results[0] == results[1], "{nproc} ranks: {:?}, {:?}", results[0].0, results[1].0);
    }
}
