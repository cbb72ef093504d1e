//! Undisturbed runs, with which disturbed ones are compared.

use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;

use ddp_tests::snapshots;
use tempfile::tempdir;

use crate::round;

/// What a run did: each rank's steps, and the files of its last snapshot.
pub struct Reference {
    pub steps: Steps,
    pub last_step: u64,
    files: Vec<(&'static str, Vec<u8>)>,
}

/// What a rank printed of a step: the samples, the bits of the loss, and more.
pub type Steps = BTreeMap<(usize, u64), String>;

const FILES: [&str; 3] = ["model.safetensors", "optimizer.safetensors", "rng.safetensors"];

/// One per number of ranks, created on first use.
#[derive(Default)]
pub struct References(BTreeMap<usize, Rc<Reference>>);

impl References {
    pub fn for_ranks(&mut self, nproc: usize) -> Rc<Reference> {
        let make = || {
            let dir = tempdir().unwrap();
            let done = round::job(nproc, dir.path(), "undisturbed", "0", &[]).run().succeeds();
            let mut steps = Steps::new();
            add_steps(&mut steps, &done.stdout);
            let last_step = steps.keys().map(|(_, step)| *step).max().unwrap();
            assert_eq!(steps.len(), nproc * usize::try_from(last_step).unwrap(), "each rank prints each step");
            Rc::new(Reference { steps, last_step, files: last_files(&round::snapshots_of(dir.path())) })
        };
        self.0.entry(nproc).or_insert_with(make).clone()
    }
}

impl Reference {
    /// Checks the end of a run: every step and the last snapshot.
    pub fn compare(&self, steps: &Steps, snapshots: &Path) {
        for (at, what) in steps {
            assert_eq!(Some(what), self.steps.get(at), "rank {} did something else in step {}", at.0, at.1);
        }
        for (name, bytes) in last_files(snapshots) {
            let (_, expected) = self.files.iter().find(|(file, _)| *file == name).unwrap();
            assert!(bytes == *expected, "{name} of the last snapshot differs from the undisturbed run's");
        }
    }
}

fn last_files(dir: &Path) -> Vec<(&'static str, Vec<u8>)> {
    let newest = snapshots(dir).into_iter().next().expect("a run that is done has a snapshot");
    ddp_contract::snapshot::verify(&newest).expect("the last snapshot is valid");
    FILES.iter().map(|name| (*name, std::fs::read(newest.join(name)).unwrap())).collect()
}

/// Adds the steps in a run's output. Lines that a kill cut off are skipped.
pub fn add_steps(steps: &mut Steps, stdout: &str) {
    for (_, line) in stdout.lines().filter_map(|line| line.split_once("] step ")) {
        let mut words = line.splitn(3, ' ');
        let mut number = || words.next()?.parse::<u64>().ok();
        let (Some(rank), Some(step)) = (number(), number()) else { continue };
        let Some(what) = words.next().filter(|what| what.ends_with(']')) else { continue };
        let before = steps.insert((usize::try_from(rank).unwrap(), step), what.to_owned());
        assert!(before.is_none_or(|before| before == what), "rank {rank} repeated step {step} with another result");
    }
}
