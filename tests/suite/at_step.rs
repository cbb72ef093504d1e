//! `cargo ddp run --at-step N`: a step of an earlier run again, with the same batch, random numbers and weights.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use ddp_contract::snapshot;
use ddp_tests::{Ddp, Done, SIGKILL, SIGTERM, signal_process};
use serde_json::Value;
use tempfile::{TempDir, tempdir};

const PREEMPTED: i32 = 75;

/// A folder for runs and snapshots.
struct Lab(TempDir);

impl Lab {
    fn new() -> Self {
        Self(tempdir().unwrap())
    }

    fn runs(&self) -> PathBuf {
        self.0.path().join("runs")
    }

    fn snapshots(&self) -> PathBuf {
        self.0.path().join("snapshots")
    }

    /// `cargo ddp run` of the worker, with these arguments after the folder of snapshots.
    fn train(&self, flags: &[&str], args: &[&str]) -> Ddp {
        let runs = self.runs();
        let flags = [&["--log-dir", runs.to_str().unwrap(), "--backoff", "0"], flags].concat();
        Ddp::worker("at_step", &flags, &[&[self.snapshots().to_str().unwrap()], args].concat())
    }

    /// `cargo ddp run --at-step STEP`, with nothing but flags.
    fn go_to(&self, step: &str, flags: &[&str]) -> Ddp {
        let (runs, step) = (self.runs(), format!("--at-step={step}"));
        let args = ["run", "-p", "ddp-tests", "--bin", "worker", "--log-dir", runs.to_str().unwrap(), &step];
        Ddp::new(args.iter().chain(flags))
    }

    /// The job file of a run.
    fn job(&self, run: u64) -> Value {
        serde_json::from_slice(&fs::read(self.runs().join(format!("{run}/job.json"))).unwrap()).unwrap()
    }

    /// Every file below the snapshots and the runs up to this one: its content and the time of its last change.
    fn files(&self, last_run: u64) -> BTreeMap<PathBuf, (i64, i64, Vec<u8>)> {
        let mut files = BTreeMap::new();
        let mut folders = vec![self.snapshots()];
        folders.extend((1..=last_run).map(|run| self.runs().join(run.to_string())));
        while let Some(folder) = folders.pop() {
            for path in fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()) {
                let found = fs::symlink_metadata(&path).unwrap();
                let content = if found.is_file() { fs::read(&path).unwrap() } else { vec![] };
                if found.is_dir() {
                    folders.push(path.clone());
                }
                files.insert(path, (found.mtime(), found.mtime_nsec(), content));
            }
        }
        files
    }
}

/// What each rank printed at each step, by step and rank. A repeated step must be the same.
fn steps(stdout: &str) -> BTreeMap<(u64, usize), String> {
    let mut steps = BTreeMap::new();
    for (_, line) in stdout.lines().filter_map(|line| line.split_once("] step ")) {
        let mut words = line.splitn(3, ' ');
        let rank: usize = words.next().unwrap().parse().unwrap();
        let step: u64 = words.next().unwrap().parse().unwrap();
        let what = words.next().unwrap().to_owned();
        let before = steps.insert((step, rank), what.clone());
        assert!(before.is_none_or(|before| before == what), "step {step} was done again, and came out differently");
    }
    steps
}

fn last(steps: &BTreeMap<(u64, usize), String>) -> u64 {
    steps.last_key_value().unwrap().0.0
}

/// The steps of the job that printed this are those of `expected`, and the last is `step`.
#[track_caller]
fn assert_replayed(done: &Done, expected: &BTreeMap<(u64, usize), String>, step: u64) {
    let again = steps(&done.stdout);
    assert_eq!(last(&again), step);
    let ranks = |steps: &BTreeMap<(u64, usize), String>| steps.range((step, 0)..(step + 1, 0)).count();
    assert_eq!(ranks(&again), ranks(expected), "the number of ranks at step {step}");
    for (at, what) in &again {
        assert_eq!(Some(what), expected.get(at), "step and rank {at:?} on the way to {step}");
    }
}

#[test]
fn at_step_repeats_random_steps_of_a_run_with_restarts_and_other_ranks_bit_for_bit() {
    let lab = Lab::new();
    // Two ranks, one of which is killed, until they are asked to stop; then three; then two again.
    let args = ["12", "4", "8"]; // 24 steps in an epoch of two ranks, 16 of three
    let first = lab.train(&["--nproc", "2"], &args).start();
    first.wait_for("] step 0 18 ");
    signal_process(first.workers()[1], SIGKILL);
    first.wait_for("(1 of 3)");
    first.wait_for_count("rank 0 pid ", 2);
    first.wait_for("] step 1 31 ");
    first.signal(SIGTERM);
    let first = first.wait().ends_with(PREEMPTED);
    let mut expected = steps(&first.stdout);
    let mut turns = vec![last(&expected)];
    let second = lab.train(&["--nproc", "3"], &args).start();
    second.wait_for(&format!("] step 0 {} ", turns[0] + 13));
    signal_process(second.workers()[2], SIGKILL);
    second.wait_for("(1 of 3)");
    second.wait_for_count("rank 0 pid ", 2);
    second.wait_for(&format!("] step 1 {} ", turns[0] + 19));
    second.signal(SIGTERM);
    let second = steps(&second.wait().ends_with(PREEMPTED).stdout);
    turns.push(last(&second));
    expected.extend(second);
    let third = steps(&lab.train(&["--nproc", "2"], &args).run().succeeds().stdout);
    turns.push(last(&third));
    expected.extend(third);
    assert!(turns[2] > turns[1] + 10, "{turns:?}");
    assert_eq!([&lab.job(2)["start"]["step"], &lab.job(3)["start"]["step"]], [turns[0], turns[1]]);

    let before = lab.files(3);
    let mut seed = ddp_tests::seed() | 1;
    let mut random = |below: u64| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed % below
    };
    // The steps around each change of the number of ranks, and random ones.
    let mut wanted = vec![1, turns[0], turns[0] + 1, turns[1] + 1, turns[2]];
    while wanted.len() < 20 {
        wanted.push(1 + random(turns[2]));
    }
    for (number, step) in (4..).zip(wanted) {
        let done = lab.go_to(&step.to_string(), &[]).run().succeeds().leaves_no_process();
        assert_replayed(&done, &expected, step);
        let saved = lab.runs().join(format!("{number}/snapshots/{}", snapshot::folder_name(step)));
        assert_eq!(done.stdout.lines().last(), saved.to_str());
        assert_eq!(snapshot::verify(&saved).unwrap().step, step);
        let metrics = fs::read_to_string(lab.runs().join(format!("{number}/metrics.jsonl"))).unwrap();
        assert!(metrics.contains(&format!("\"step\":{step},")), "{metrics}");
        let job = lab.job(number);
        assert_eq!((&job["at_step"], &job["outcome"]), (&step.into(), &"done".into()));
    }
    // (The link `latest` is beside the runs.)
    let after = lab.files(3);
    let changed: Vec<_> = before.iter().filter(|(path, file)| after.get(*path) != Some(file)).collect();
    assert!(changed.is_empty() && after.len() == before.len(), "{changed:?}");
}

#[test]
fn at_step_works_without_snapshots_and_with_a_trainer() {
    let lab = Lab::new();
    let expected = steps(&lab.train(&["--nproc", "2"], &["1", "none", "0"]).run().succeeds().stdout);
    let done = lab.go_to("9", &[]).run().succeeds();
    let done = done.says(&["Replaying steps 1 to 9 of run 1 with 2 workers, from scratch"]);
    assert_replayed(&done, &expected, 9);
    assert_eq!(snapshot::verify(&lab.runs().join("2/snapshots/step-00000009")).unwrap().step, 9);

    let runs = lab.runs();
    let example = ["run", "-p", "ddp-runtime", "--example", "metrics", "--log-dir", runs.to_str().unwrap()];
    let dir = lab.snapshots();
    let args = ["--nproc", "2", "--", "0.1", dir.to_str().unwrap()];
    Ddp::new(example.iter().chain(&args)).run().succeeds();
    let job = lab.job(3);
    let step = job["last_step"].as_u64().unwrap() - 3;
    let done = Ddp::new(example.iter().chain(&["--at-step", &step.to_string()])).run().succeeds();
    let saved = runs.join(format!("4/snapshots/{}", snapshot::folder_name(step)));
    assert_eq!(done.stdout.lines().last(), saved.to_str(), "{}", done.stderr);
    assert_eq!(snapshot::verify(&saved).unwrap().step, step);
}

#[test]
fn at_step_names_the_steps_that_can_be_reached() {
    let lab = Lab::new();
    lab.go_to("3", &[]).run().ends_with(2).says(&["error: no earlier run of `worker` in ", "hint: "]);
    lab.train(&["--nproc", "1"], &["1", "10", "0"]).run().succeeds(); // 48 steps
    lab.go_to("49", &[]).run().ends_with(2).says(&["error: run 1 has no step 49: its last step is 48"]);
    for bad in ["", "0", "x", "-1"] {
        lab.go_to(bad, &[]).run().ends_with(2).says(&["for '--at-step <N>': expected a step such as 1200"]);
    }
    lab.go_to("5", &["--run", "7"]).run().ends_with(2).says(&["error: run `7` not found in "]);
    lab.go_to("5", &["--nnodes", "2"]).run().ends_with(2).says(&["error: --at-step: the job runs on one node"]);
    Ddp::new(["run", "--run", "1"]).run().ends_with(2).says(&["--at-step <N>"]);

    let prune = ["snapshot", "prune", lab.snapshots().to_str().unwrap(), "--keep-last", "1", "--keep-every", "20"]
        .map(str::to_owned);
    let pruned = Ddp::new(prune.iter().map(String::as_str).chain(["--dry-run"])).run().succeeds().stdout;
    let names = |text: &str| text.matches("step-0").count();
    assert!(names(&pruned) == 2 && pruned.contains("step-00000010") && pruned.contains("step-00000030"), "{pruned}");

    // A run that began at a snapshot does not begin from scratch.
    lab.train(&["--nproc", "1"], &["2", "10", "0"]).run().succeeds();
    for step in snapshot::list(&lab.snapshots()).unwrap().iter().filter(|folder| snapshot::step_of(folder) < Some(70)) {
        fs::remove_dir_all(step).unwrap();
    }
    let refused = lab.go_to("60", &[]).run().ends_with(2);
    refused.says(&[
        "can't go to step 60 of run 2: no snapshot before that step is left (steps 71 to 96 can be reached)",
        "keep_every",
    ]);
    let done = lab.go_to("71", &["--run", "latest"]).run().succeeds();
    done.says(&["Replaying step 71 of run 2 with 1 worker, from "]);
    // The first run's own arguments do not lead to a step of the second.
    let other = [lab.snapshots().to_str().unwrap().to_owned(), "1".into(), "10".into(), "0".into()];
    let words: Vec<&str> =
        ["--run", "2", "--", "at_step"].into_iter().chain(other.iter().map(String::as_str)).collect();
    let ended = lab.go_to("72", &words).run().ends_with(2);
    ended.says(&["error: the program ended before step 72: "]);
    let more = lab.go_to("72", &["--run", "2", "--nproc", "2"]).run();
    more.says(&["warning: run 2 had 1 worker at step 72; with 2, the results differ"]);

    // What the lists print, and what they print of a run that went to a step.
    let runs = Ddp::new(["runs", "--log-dir", lab.runs().to_str().unwrap()]).run().succeeds();
    runs.says(&["hint: to debug step 96, run `cargo ddp run --at-step 96 --run 2`"]);
    let one: &Path = &lab.runs().join("1");
    let out = lab.0.path().join("plot.svg");
    let metrics = fs::read(lab.snapshots().join("metrics/metrics.jsonl")).unwrap();
    fs::write(one.join("metrics.jsonl"), metrics).unwrap();
    let all = lab.runs();
    let plot = ["plot", "1", "--log-dir", all.to_str().unwrap(), "--output", out.to_str().unwrap()];
    Ddp::new(plot).run().succeeds().says(&["hint: to debug step 48, run `cargo ddp run --at-step 48 --run 1`"]);
}
