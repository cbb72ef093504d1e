//! Calls of the real `cargo ddp`: starting, waiting, and checking their output.

use std::ffi::OsStr;
use std::fs;
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::processes::{processes, signal_process};
use super::{WORKER, cargo_ddp, kept, libtorch_of, linear_project, repo};

/// A call that prints nothing for this long hangs. The longest silence of a build is torch-sys.
const PATIENCE: Duration = Duration::from_secs(300);

/// A call of `cargo ddp`, marked so that every process below it can be found.
pub struct Ddp {
    command: Command,
    marker: String,
}

impl Ddp {
    pub fn new(args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let marker = format!("{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let mut command = Command::new(cargo_ddp());
        command.arg("ddp").args(args).env("DDP_TEST_MARKER", &marker);
        // Without the variables that the test runner's cargo sets for its children.
        for name in ["LD_LIBRARY_PATH", "OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "CARGO_MANIFEST_DIR"] {
            command.env_remove(name);
        }
        command.current_dir(repo()).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // Tests that run in the background (`nohup cargo test &`) ignore these, and so would the launcher, rightly.
        let heed_signals = || {
            for signal in [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT] {
                // SAFETY: a system call.
                unsafe { libc::signal(signal, libc::SIG_DFL) };
            }
            Ok(())
        };
        // SAFETY: the closure makes system calls only.
        unsafe { command.pre_exec(heed_signals) };
        Self { command, marker }
    }

    /// In the built `linear` project.
    pub fn in_linear(args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        Self::in_linear_at(linear_project(), args)
    }

    /// In the project at `project`, built in the target folder of `linear`, which outlives the projects.
    pub fn in_linear_at(project: &Path, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        let target = kept().join("linear-target");
        Self::new(args).dir(project).env("CARGO_TARGET_DIR", target).env("LIBTORCH", libtorch_of(project))
    }

    /// `cargo ddp run FLAGS` of a worker of `tests/workers/`.
    pub fn worker(name: &str, flags: &[&str], args: &[&str]) -> Self {
        Self::new(["run", "-p", "ddp-tests", "--bin", WORKER].iter().chain(flags).chain(&["--", name]).chain(args))
    }

    /// `cargo ddp run` of the worker `toy`.
    pub fn toy(flags: &[&str], args: &[&str]) -> Self {
        Self::worker("toy", flags, args)
    }

    pub fn dir(mut self, dir: &Path) -> Self {
        self.command.current_dir(dir);
        self
    }

    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// In a network namespace (`ip netns`).
    pub fn in_namespace(mut self, name: &str) -> Self {
        let namespace = fs::File::open(Path::new("/run/netns").join(name)).unwrap();
        let enter = move || {
            rustix::thread::move_into_link_name_space(
                std::os::fd::AsFd::as_fd(&namespace),
                Some(rustix::thread::LinkNameSpaceType::Network),
            )
            .map_err(Into::into)
        };
        // SAFETY: the closure makes a system call only.
        unsafe { self.command.pre_exec(enter) };
        self
    }

    pub fn env_remove(mut self, name: &str) -> Self {
        self.command.env_remove(name);
        self
    }

    pub fn run(self) -> Done {
        self.start().wait()
    }

    pub fn start(mut self) -> Job {
        let mut child = self.command.spawn().unwrap();
        let stdout = Collector::start(child.stdout.take().unwrap());
        let stderr = Collector::start(child.stderr.take().unwrap());
        Job { child, marker: self.marker, stdout: Some(stdout), stderr: Some(stderr) }
    }
}

/// A stream that is read as it arrives.
struct Collector {
    text: std::sync::Arc<Mutex<String>>,
    thread: std::thread::JoinHandle<()>,
}

impl Collector {
    fn start(mut stream: impl Read + Send + 'static) -> Self {
        let text = std::sync::Arc::new(Mutex::new(String::new()));
        let shared = text.clone();
        let thread = std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(n @ 1..) = stream.read(&mut buffer) {
                shared.lock().unwrap().push_str(&String::from_utf8_lossy(&buffer[..n]));
            }
        });
        Self { text, thread }
    }

    fn now(&self) -> String {
        self.text.lock().unwrap().clone()
    }

    fn all(self) -> String {
        self.thread.join().unwrap();
        self.text.lock().unwrap().clone()
    }
}

/// A call in progress.
pub struct Job {
    child: Child,
    marker: String,
    /// `None` after its end.
    stdout: Option<Collector>,
    stderr: Option<Collector>,
}

impl Job {
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// All of stderr, then all of stdout, until now.
    pub fn printed(&self) -> String {
        [&self.stderr, &self.stdout].into_iter().flatten().map(Collector::now).collect()
    }

    /// Waits for a line on stderr or stdout that holds `words`, and gives all that was printed so far.
    pub fn wait_for(&self, words: &str) -> String {
        self.wait_to_print(&format!("{words:?}"), |text| text.contains(words));
        self.printed()
    }

    /// Waits until `done` holds for the output; panics if the call ends before that.
    fn wait_to_print(&self, what: &str, done: impl Fn(&str) -> bool) {
        let mut ended = false;
        wait_until(
            &format!("{what} in the output"),
            || self.printed(),
            || {
                let found = done(&self.printed());
                assert!(found || !ended, "it has ended without {what} in the output:\n{}", self.printed());
                if !found && self.has_ended() {
                    // Its last output may not have been read yet.
                    std::thread::sleep(Duration::from_millis(500));
                    ended = true;
                }
                found
            },
        );
    }

    /// Whether it has ended, and was not waited for yet.
    pub fn has_ended(&self) -> bool {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap_or_default();
        stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('Z'))
    }

    /// Waits until `words` were printed `count` times.
    pub fn wait_for_count(&self, words: &str, count: usize) {
        self.wait_to_print(&format!("{count} times {words:?}"), |text| text.matches(words).count() >= count);
    }

    /// The process ids of the launcher's workers, by rank, from the launcher's last line about them.
    pub fn workers(&self) -> Vec<u32> {
        self.wait_for(" pid ");
        let text = self.printed();
        let line = text.lines().rfind(|line| line.contains(" Running ")).unwrap();
        line.split(" pid ").skip(1).map(|rest| rest.split([',', ' ']).next().unwrap().parse().unwrap()).collect()
    }

    pub fn signal(&self, signal: i32) {
        signal_process(self.pid(), signal);
    }

    pub fn wait(mut self) -> Done {
        let (mut heard, mut length) = (Instant::now(), 0);
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            let now = self.printed().len();
            if now != length {
                (heard, length) = (Instant::now(), now);
            }
            if heard.elapsed() > PATIENCE {
                let _ = self.child.kill();
                panic!("it hangs:\n{}", self.printed());
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        let left = processes(&self.marker);
        let (stdout, stderr) = (
            self.stdout.take().map_or_else(String::new, Collector::all),
            self.stderr.take().map_or_else(String::new, Collector::all),
        );
        Done { status, stdout, stderr, marker: std::mem::take(&mut self.marker), left }
    }
}

impl Drop for Job {
    /// A test that fails leaves nothing running.
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// A call that has ended.
pub struct Done {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
    marker: String,
    /// Processes that were alive when the call ended.
    left: Vec<u32>,
}

impl Done {
    #[track_caller]
    pub fn succeeds(self) -> Self {
        self.ends_with(0)
    }

    #[track_caller]
    pub fn ends_with(self, code: i32) -> Self {
        assert_eq!(self.status.code(), Some(code), "stdout:\n{}\nstderr:\n{}", self.stdout, self.stderr);
        self
    }

    /// Checks that stderr contains every one of `words`.
    #[track_caller]
    pub fn says(self, words: &[&str]) -> Self {
        for word in words {
            assert!(self.stderr.contains(word), "{word:?} is not in:\n{}", self.stderr);
        }
        self
    }

    #[track_caller]
    pub fn leaves_no_process(self) -> Self {
        assert_eq!(self.left, Vec::<u32>::new(), "processes are left:\n{}", self.stderr);
        self
    }

    /// Like [`leaves_no_process`](Self::leaves_no_process), for a launcher that was killed.
    #[track_caller]
    pub fn leaves_no_process_after(self, bound: Duration) -> Self {
        let end = Instant::now() + bound;
        while !processes(&self.marker).is_empty() {
            assert!(Instant::now() < end, "processes are left after {bound:?}: {:?}", processes(&self.marker));
            std::thread::sleep(Duration::from_millis(5));
        }
        self
    }
}

/// Waits until `done`, with a limit; `state` describes the state after a timeout.
pub fn wait_until(what: &str, state: impl Fn() -> String, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < PATIENCE, "no {what} in {PATIENCE:?}:\n{}", state());
        std::thread::sleep(Duration::from_millis(5));
    }
}
