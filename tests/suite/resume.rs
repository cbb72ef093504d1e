//! Runs that are killed, asked to stop, or run out of disk space resume as if nothing had happened.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use ddp_contract::snapshot;
use ddp_tests::{Ddp, Done, SIGKILL, SIGTERM, cargo_ddp, repo, signal_process, snapshots};
use tempfile::tempdir;

const SIGUSR1: i32 = 10;
const PREEMPTED: i32 = 75;
const SAMPLES: usize = 240;

fn run(dir: &Path, nproc: &str, flags: &[&str], epochs: &str, every: &str) -> Ddp {
    run_with(dir, nproc, flags, &[epochs, every])
}

fn run_with(dir: &Path, nproc: &str, flags: &[&str], worker_args: &[&str]) -> Ddp {
    Ddp::worker("resume", &[&["--nproc", nproc], flags].concat(), &[&[dir.to_str().unwrap()], worker_args].concat())
}

/// A rank, and one of its steps.
type Step = (usize, u64);

/// The printed steps; a repeated step must be the same.
fn steps(stdout: &str) -> BTreeMap<Step, String> {
    let mut steps = BTreeMap::new();
    for line in stdout.lines().filter_map(|line| line.split_once("] step ")) {
        let mut words = line.1.splitn(3, ' ');
        let step = (words.next().unwrap().parse().unwrap(), words.next().unwrap().parse().unwrap());
        let what = words.next().unwrap().to_owned();
        let before = steps.insert(step, what.clone());
        assert!(before.is_none_or(|before| before == what), "{step:?} was done again, and came out differently");
    }
    steps
}

/// The samples of all steps, up to some step.
fn samples(stdout: &str, up_to: u64) -> Vec<usize> {
    let lists = steps(stdout).into_iter().filter(|((_, step), _)| *step <= up_to);
    let lists = lists.map(|(_, what)| what.split_once('[').unwrap().1.trim_end_matches(']').to_owned());
    lists.flat_map(|list| list.split(", ").map(|n| n.parse().unwrap()).collect::<Vec<_>>()).collect()
}

/// Random numbers that differ from run to run; a failing test prints their seed.
struct Random(u64);

impl Random {
    fn new() -> Self {
        Self(ddp_tests::seed() | 1)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }
}

#[test]
fn resume_after_twenty_kills_is_identical_to_the_last_bit() {
    let (undisturbed, disturbed) = (tempdir().unwrap(), tempdir().unwrap());
    let epochs = "10"; // of 24 steps
    let expected = run(undisturbed.path(), "2", &["--max-restarts", "0"], epochs, "1").run().succeeds();
    let expected = steps(&expected.stdout);
    assert_eq!(expected.len(), 2 * 240);

    // A snapshot after every step, so that nearly every kill hits a write.
    let mut random = Random::new();
    let job = run(disturbed.path(), "2", &["--max-restarts", "20", "--grace", "5"], epochs, "1").start();
    let mut done = 0;
    for kill in 0..20 {
        let at = done + 1 + random.below(11);
        job.wait_for(&format!("] step 0 {at} "));
        // Somewhere within the next few steps.
        std::thread::sleep(Duration::from_micros(random.below(20_000)));
        signal_process(job.workers()[random.below(2) as usize], SIGKILL);
        let text = job.wait_for(&format!("({} of 20)", kill + 1));
        done = steps(&text).keys().map(|(_, step)| *step).max().unwrap();
        // The next kill is meant for the new workers.
        job.wait_for_count("rank 0 pid ", kill + 2);
    }
    let finished = job.wait().succeeds().leaves_no_process();
    assert_eq!(finished.stderr.matches("was killed by SIGKILL (pid").count(), 20, "{}", finished.stderr);
    assert_eq!(steps(&finished.stdout), expected);
    assert_same_end(undisturbed.path(), disturbed.path());
}

/// The newest snapshots have the same content.
fn assert_same_end(undisturbed: &Path, disturbed: &Path) {
    for file in ["model.safetensors", "optimizer.safetensors", "rng.safetensors", "state.json"] {
        let [expected, found] = [undisturbed, disturbed].map(|dir| fs::read(snapshots(dir)[0].join(file)).unwrap());
        assert!(found == expected, "{file} differs");
    }
}

// Three or more ranks add up a gradient in an order that depends on its place in the reducer's buckets.
#[test]
fn resume_on_four_ranks_ends_like_an_uninterrupted_run() {
    for how in ["", "late", "static", "again"] {
        let (undisturbed, disturbed) = (tempdir().unwrap(), tempdir().unwrap());
        let train = |dir: &Path, epochs| {
            let job = run_with(dir, "4", &["--max-restarts", "0"], &[epochs, "0", how]);
            steps(&job.run().succeeds().stdout)
        };
        let expected = train(undisturbed.path(), "3");
        let mut found = BTreeMap::new();
        for epochs in ["1", "2", "3"] {
            found.extend(train(disturbed.path(), epochs));
        }
        let differs = expected.iter().find(|(step, what)| found.get(step) != Some(what));
        assert_eq!((found.len(), differs), (expected.len(), None), "{how}");
        assert_same_end(undisturbed.path(), disturbed.path());
    }
}

/// Asks a run of two ranks to stop in mid-epoch, and returns its output and the step.
fn stopped(dir: &Path, signal: i32, whom: impl Fn(&ddp_tests::Job) -> u32) -> (Done, u64) {
    let job = run(dir, "2", &[], "40", "0").start();
    job.wait_for("] step 1 28 ");
    signal_process(whom(&job), signal);
    let done = job.wait().ends_with(PREEMPTED).leaves_no_process();
    let last = steps(&done.stdout).keys().map(|(_, step)| *step).max().unwrap();
    let newest = snapshots(dir);
    assert_eq!(newest.len(), 1, "nothing but this was a reason to save");
    assert_eq!(snapshot::verify(&newest[0]).unwrap().step, last, "it is the last step of all ranks");
    (done.says(&["Stopped as asked; run it again to resume from "]), last)
}

#[test]
fn stopped_run_saves_and_resumes_when_started_again() {
    let undisturbed = tempdir().unwrap();
    let expected = steps(&run(undisturbed.path(), "2", &[], "40", "0").run().succeeds().stdout);
    // Through the launcher, and to one rank alone.
    for (signal, to_launcher) in [(SIGTERM, true), (SIGUSR1, true), (SIGUSR1, false)] {
        let dir = tempdir().unwrap();
        let (first, last) = stopped(dir.path(), signal, |job| if to_launcher { job.pid() } else { job.workers()[1] });
        let second = run(dir.path(), "2", &[], "40", "0").run().succeeds().leaves_no_process();
        assert!(second.stdout.contains(&format!("resumed 1 at {last}")), "{}", second.stdout);
        assert_eq!(steps(&(first.stdout + &second.stdout)), expected);
    }
}

#[test]
fn resume_with_another_number_of_ranks_sees_every_sample_of_the_epoch_once() {
    let dir = tempdir().unwrap();
    let job = run(dir.path(), "2", &["--max-restarts", "0"], "2", "6").start();
    job.wait_for("] step 0 44 ");
    signal_process(job.workers()[1], SIGKILL);
    let first = job.wait().ends_with(137).stdout;
    let manifest = snapshot::verify(&snapshots(dir.path())[0]).unwrap();
    assert_eq!((manifest.epoch, manifest.step % 6, manifest.world_size), (1, 0, 2));
    assert_eq!(manifest.samples_in_epoch, (manifest.step - 24) * 10);
    let seen: Vec<_> = samples(&first, manifest.step)[..].to_vec();
    for nproc in ["1", "3", "4"] {
        let copy = tempdir().unwrap();
        let copied = Command::new("cp").arg("-r").arg(dir.path()).arg(copy.path().join("s")).status().unwrap();
        assert!(copied.success());
        let rest = run(&copy.path().join("s"), nproc, &["--max-restarts", "0"], "2", "0").run().succeeds();
        // Both epochs: each of the 240 samples twice.
        let mut all = seen.clone();
        all.extend(samples(&rest.stdout, u64::MAX));
        all.sort_unstable();
        let expected: Vec<_> = (0..SAMPLES).flat_map(|sample| [sample, sample]).collect();
        assert_eq!(all, expected, "{nproc} ranks after 2");
    }
}

#[test]
fn retention_keeps_the_last_and_the_best_snapshots() {
    let dir = tempdir().unwrap();
    run(dir.path(), "2", &["--max-restarts", "0"], "2", "4").run().succeeds();
    // 48 steps, every fourth saved; step 20 has the best metric.
    let steps: Vec<_> = snapshots(dir.path()).iter().map(|folder| snapshot::step_of(folder).unwrap()).collect();
    assert_eq!(steps, [48, 44, 20]);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 3, "nothing else is left");
}

#[test]
fn full_disk_is_reported_and_leaves_the_earlier_snapshots_valid() {
    let (disk, out) = (tempdir().unwrap(), tempdir().unwrap());
    // A separate small file system for the duration of the commands.
    let within = |script: &str| {
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "--mount", "sh", "-ec"]);
        command.arg(format!("mount -t tmpfs -o size=64k none {}\n{script}", disk.path().display()));
        command
    };
    if !within("true").stderr(Stdio::null()).status().is_ok_and(|status| status.success()) {
        ddp_tests::skipped("needs a user namespace in which tmpfs can be mounted");
        return;
    }
    let (disk_path, out_path, program) = (disk.path().display(), out.path().display(), cargo_ddp().display());
    let script = format!(
        "if {program} ddp run -p ddp-tests --bin worker --nproc 2 --max-restarts 0 -- resume {disk_path} 10 5; then exit 9; fi
         cp -r {disk_path}/. {out_path}"
    );
    let output = within(&script).current_dir(repo()).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    assert!(stderr.contains("no space left to write") && stderr.contains("earlier snapshots are complete"), "{stderr}");
    let left = snapshots(out.path());
    assert!(!left.is_empty());
    for folder in &left {
        snapshot::verify(folder).unwrap();
    }
    assert_eq!(fs::read_dir(out.path()).unwrap().count(), left.len(), "what was half written is gone");
}
