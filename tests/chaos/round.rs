//! One disturbed run.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::OnceLock;
use std::time::Duration;

use ddp_tests::{Ddp, Done, Job, worker};
use serde_json::Value;
use tempfile::{TempDir, tempdir};

use crate::reference::{Reference, Steps, add_steps};

/// Epochs of a run, and steps between its snapshots.
const EPOCHS: &str = "40";
const EVERY: &str = "3";
const MAX_RESTARTS: &str = "20";
/// How long processes of a killed launcher may survive it.
const BOUND: Duration = Duration::from_secs(30);

/// SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014).
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64, round: u64) -> Self {
        let mut random = Self(seed);
        Self(random.next() ^ round.wrapping_mul(0xD1B5_4A32_D192_ED03))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    pub fn pick<T: Copy>(&mut self, list: &[T]) -> T {
        list[usize::try_from(self.below(list.len() as u64)).unwrap()]
    }

    /// Sleeps for up to this many milliseconds.
    pub fn sleep(&mut self, milliseconds: u64) {
        std::thread::sleep(Duration::from_micros(self.below(milliseconds * 1000)));
    }
}

/// A job in `dir`, whose report and logs are called `name`, with the worker behind `wrapper`, if there is one.
pub fn job(nproc: usize, dir: &Path, name: &str, max_restarts: &str, wrapper: &[&str]) -> Ddp {
    static WORKER: OnceLock<PathBuf> = OnceLock::new();
    let worker = WORKER.get_or_init(|| worker("resume"));
    let (nproc, report, logs) = (nproc.to_string(), dir.join(format!("{name}.json")), dir.join(name));
    let flags = ["launch", "--nproc", &nproc, "--max-restarts", max_restarts, "--backoff", "0"];
    let mut args: Vec<&OsStr> = flags.map(OsStr::new).to_vec();
    args.extend([OsStr::new("--report"), report.as_os_str(), OsStr::new("--log-dir"), logs.as_os_str()]);
    args.push(OsStr::new("--"));
    args.extend(wrapper.iter().map(OsStr::new));
    let snapshots = snapshots_of(dir);
    args.extend([worker.as_os_str(), snapshots.as_os_str()]);
    args.extend([EPOCHS, EVERY].map(OsStr::new));
    // Not in the user's registry of jobs, where another program could stop it.
    Ddp::new(args).env("XDG_CACHE_HOME", dir.join("cache"))
}

pub fn snapshots_of(dir: &Path) -> PathBuf {
    dir.join("snapshots")
}

pub struct Round {
    pub nproc: usize,
    pub random: Random,
    reference: Rc<Reference>,
    dir: Option<TempDir>,
    steps: Steps,
}

impl Round {
    pub fn new(nproc: usize, random: Random, reference: Rc<Reference>) -> Self {
        Self { nproc, random, reference, dir: Some(tempdir().unwrap()), steps: Steps::new() }
    }

    fn dir(&self) -> &Path {
        self.dir.as_ref().expect("it is there until the round has failed").path()
    }

    pub fn snapshots(&self) -> PathBuf {
        snapshots_of(self.dir())
    }

    /// Keeps the files of the round.
    pub fn keep(&mut self) -> PathBuf {
        self.dir.take().map(TempDir::keep).unwrap_or_default()
    }

    pub fn start(&self) -> Job {
        self.start_behind(&[])
    }

    /// Starts the job with its workers behind a wrapper.
    pub fn start_behind(&self, wrapper: &[&str]) -> Job {
        job(self.nproc, self.dir(), "first", MAX_RESTARTS, wrapper).start()
    }

    /// Another job with the same snapshots, and its own report and logs.
    pub fn second_job(&self) -> Ddp {
        job(self.nproc, self.dir(), "second", "0", &[])
    }

    /// Waits for a random step after `after`, and then up to 20 ms; gives the step.
    pub fn wait_for_a_step(&mut self, job: &Job, after: u64) -> u64 {
        let last = self.reference.last_step - 12;
        let step = after + 1 + self.random.below((last - after).min(200));
        job.wait_for(&format!("] step 0 {step} "));
        self.random.sleep(20);
        step
    }

    pub fn random_rank(&mut self) -> usize {
        usize::try_from(self.random.below(self.nproc as u64)).unwrap()
    }

    /// Adds the steps that the job has printed.
    fn note(&mut self, done: &Done) {
        add_steps(&mut self.steps, &done.stdout);
    }

    /// Waits for the end of a job that is to be disturbed, and that may leave no process.
    pub fn ends_with(&mut self, job: Job, code: i32) -> Done {
        let done = job.wait().ends_with(code).leaves_no_process();
        self.note(&done);
        done
    }

    /// Waits for the end of a job whose launcher is killed.
    pub fn is_killed(&mut self, job: Job) {
        let done = job.wait();
        self.note(&done);
        done.leaves_no_process_after(BOUND);
    }

    /// Finishes the run, and compares all of it.
    pub fn finish(&mut self) -> Done {
        let job = self.start();
        let done = self.ends_with(job, 0);
        self.compare();
        done
    }

    /// Compares a run that is done.
    pub fn compare(&self) {
        self.reference.compare(&self.steps, &self.snapshots());
    }

    pub fn report(&self) -> Value {
        serde_json::from_slice(&std::fs::read(self.dir().join("first.json")).unwrap()).unwrap()
    }

    /// Ranks and signals that the report names as the causes of restarts.
    pub fn causes(&self) -> Vec<(usize, String)> {
        let report = self.report();
        let cause = |restart: &Value| {
            let cause = &restart["cause"];
            let rank = usize::try_from(cause["rank"].as_u64().unwrap()).unwrap();
            (rank, cause["signal"].as_str().unwrap_or_default().to_owned())
        };
        report["restarts"].as_array().unwrap().iter().map(cause).collect()
    }
}

/// Signals a process; returns whether it was still alive.
pub fn signal(pid: u32, signal: i32) -> bool {
    let pid = i32::try_from(pid).unwrap();
    // SAFETY: a system call.
    unsafe { libc::kill(pid, signal) == 0 }
}
