//! What the end-to-end tests share: the real `cargo-ddp`, real workers, and what is left of them.

#![allow(clippy::unwrap_used, missing_docs, reason = "a test's helper fails by panicking, and is read with the test")]

pub mod structure;

use std::ffi::OsStr;
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use serde_json::Value;

/// What hangs prints nothing for longer than this. The longest silence of a build is torch-sys.
const PATIENCE: Duration = Duration::from_secs(300);

/// Counts a test, or a part of one, that this machine can't run. libtest shows nothing that a test prints which passes, so this
/// goes around it.
pub fn skipped(why: &str) {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed) + 1;
    let test = std::thread::current().name().unwrap_or_default().to_owned();
    let _ = writeln!(std::io::stderr(), "SKIPPED ({count}): {test}: {why}");
}

/// The seed of a test that differs from run to run: DDP_TEST_SEED, or the clock. A test that fails prints it.
pub fn seed() -> u64 {
    let given = std::env::var("DDP_TEST_SEED").ok().map(|text| text.parse().expect("DDP_TEST_SEED is a number"));
    let clock = || std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as u64;
    let seed = given.unwrap_or_else(clock);
    eprintln!("to repeat it: DDP_TEST_SEED={seed}");
    seed
}

/// The repository.
pub fn repo() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// A folder in `target/` for what tests make and keep (built projects).
pub fn kept() -> PathBuf {
    let folder = target().join("e2e");
    fs::create_dir_all(&folder).unwrap();
    folder
}

fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| repo().join("target"), PathBuf::from)
}

/// The program under test, built as it is now.
pub fn cargo_ddp() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| build(repo(), &["-p", "cargo-ddp"], None))
}

/// A program of this crate.
pub fn program(name: &str) -> PathBuf {
    build(repo(), &["-p", "ddp-tests", "--bin", name], None)
}

/// A worker of `tests/workers/`: a link to the one program that has them all, which looks at the name it is started by.
pub fn worker(name: &str) -> PathBuf {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    let program = PROGRAM.get_or_init(|| program("worker"));
    let folder = program.parent().unwrap().join("workers");
    fs::create_dir_all(&folder).unwrap();
    let link = folder.join(name);
    match std::os::unix::fs::symlink(Path::new("..").join(WORKER), &link) {
        Err(err) if err.kind() != ErrorKind::AlreadyExists => panic!("{}: {err}", link.display()),
        _ => link,
    }
}

/// The program that has all workers.
const WORKER: &str = "worker";

/// In that program, the worker that is asked for.
pub fn worker_name() -> String {
    let mut words = std::env::args();
    let program = words.next().unwrap_or_default();
    let name = Path::new(&program).file_name().unwrap_or_default().to_string_lossy();
    if name == WORKER { words.next().unwrap_or_default() } else { name.into_owned() }
}

/// In that program, the worker's arguments.
pub fn args() -> impl Iterator<Item = String> {
    let mut words = std::env::args();
    let program = words.next().unwrap_or_default();
    let is_named = Path::new(&program).file_name().is_some_and(|name| name == WORKER);
    words.skip(usize::from(is_named))
}

/// Builds with cargo and gives the executable.
pub fn build(folder: &Path, flags: &[&str], libtorch: Option<&Path>) -> PathBuf {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.current_dir(folder).args(["build", "--message-format=json-render-diagnostics"]).args(flags);
    if let Some(libtorch) = libtorch {
        cargo.env("LIBTORCH", libtorch);
    }
    let output = cargo.stderr(Stdio::inherit()).output().unwrap();
    assert!(output.status.success(), "{cargo:?} failed");
    let messages = String::from_utf8(output.stdout).unwrap();
    let mut executables = messages.lines().filter_map(|line| {
        let message: Value = serde_json::from_str(line).ok()?;
        message["executable"].as_str().map(PathBuf::from)
    });
    executables.next_back().unwrap_or_else(|| panic!("{cargo:?} built no executable"))
}

/// A `linear` project made by `cargo ddp new` and built by `cargo ddp run`, once for all tests.
pub fn linear_project() -> &'static Path {
    static PROJECT: OnceLock<PathBuf> = OnceLock::new();
    PROJECT.get_or_init(|| {
        let project = kept().join("linear");
        let _ = fs::remove_dir_all(&project);
        Ddp::new(["new", project.to_str().unwrap()]).run().succeeds();
        // The versions that the workspace was tested with.
        fs::copy(repo().join("Cargo.lock"), project.join("Cargo.lock")).unwrap();
        Ddp::new(["setup"]).dir(&project).run().succeeds();
        let done = Ddp::in_linear_at(&project, ["run", "--nproc", "1", "--", "--help"]).run().succeeds();
        assert!(done.stdout.contains("--total-epochs"), "{}", done.stdout);
        project
    })
}

/// The libtorch that `cargo ddp setup` has linked a project to: the value of LIBTORCH that all projects share.
pub fn libtorch_of(project: &Path) -> PathBuf {
    fs::canonicalize(project.join(".ddp/libtorch")).unwrap()
}

/// A Python with torch 2.13.0, as `cargo ddp setup --cuda` leaves it in the cache, and the CUDA libtorch beside it.
pub struct CudaTorch {
    pub home: PathBuf,
    logs: tempfile::TempDir,
}

impl CudaTorch {
    /// `None` where it was not set up; in CI that is a failure.
    pub fn find() -> Option<Self> {
        let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
        let cache = cache.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")))?;
        let home = cache.join("cargo-ddp/libtorch-2.13.0-cuda");
        if home.join("site/torch").exists() {
            return Some(Self { home, logs: tempfile::tempdir().unwrap() });
        }
        assert!(std::env::var_os("CI").is_none(), "CI runs this: `cargo ddp setup --cuda` must come first");
        skipped("needs Python's torch and the CUDA libtorch; run `cargo ddp setup --cuda` to have them");
        None
    }

    pub fn python(&self) -> Command {
        let mut python = Command::new("python3");
        python.env("PYTHONPATH", self.home.join("site")).env("OMP_NUM_THREADS", "1");
        python
    }

    /// torchrun with two workers; without a folder for its logs it leaves one in /tmp.
    pub fn torchrun(&self) -> Command {
        let mut python = self.python();
        python.args(["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "--log-dir"]);
        python.arg(self.logs.path());
        python
    }
}

/// Runs a command and gives its stdout; panics unless it succeeds.
pub fn stdout_of(command: &mut Command) -> String {
    let output = command.stderr(Stdio::inherit()).output().unwrap();
    assert!(output.status.success(), "{command:?} ended with {}", output.status);
    String::from_utf8(output.stdout).unwrap()
}

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
        // Not what the test runner's cargo sets for its own children.
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

    /// In a project at `project` that is built where `linear` is: one folder for all, which outlives the projects.
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
        let stdout = Collector::of(child.stdout.take().unwrap());
        let stderr = Collector::of(child.stderr.take().unwrap());
        Job { child, marker: self.marker, stdout: Some(stdout), stderr: Some(stderr) }
    }
}

/// A stream that is read as it comes.
struct Collector {
    text: std::sync::Arc<Mutex<String>>,
    thread: std::thread::JoinHandle<()>,
}

impl Collector {
    fn of(mut stream: impl Read + Send + 'static) -> Self {
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
    /// There until its end.
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

    /// Waits until `done` holds for what was printed, which can't be any more once the call has ended.
    fn wait_to_print(&self, what: &str, done: impl Fn(&str) -> bool) {
        let mut ended = false;
        wait_until(
            &format!("{what} in the output"),
            || self.printed(),
            || {
                let found = done(&self.printed());
                assert!(found || !ended, "it has ended without {what} in the output:\n{}", self.printed());
                if !found && self.has_ended() {
                    // What it has printed last may not have been read yet.
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
    /// Processes that were there at the moment of the end.
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

    /// Every one of `words` stands on stderr.
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

    /// As [`leaves_no_process`](Self::leaves_no_process), for a launcher that could do nothing about it any more.
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

/// Waits until `done`, with a bound; `state` says what there is instead.
pub fn wait_until(what: &str, state: impl Fn() -> String, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < PATIENCE, "no {what} in {PATIENCE:?}:\n{}", state());
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Live processes (no zombies) whose environment holds the marker.
pub fn processes(marker: &str) -> Vec<u32> {
    let wanted = format!("DDP_TEST_MARKER={marker}\0");
    let pids = fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid| {
        fs::read(format!("/proc/{pid}/environ"))
            .is_ok_and(|environ| environ.windows(wanted.len()).any(|window| window == wanted.as_bytes()))
    })
    .collect()
}

/// A process's children.
fn children(pid: u32) -> Vec<u32> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    text.split_whitespace().map(|pid| pid.parse().unwrap()).collect()
}

/// The processes of a launcher that has started workers: the one that a user sees (the guard), the keeper, and the one
/// that workers descend from.
pub fn launcher_processes(pid: u32) -> [u32; 3] {
    let keeper = children(pid)[0];
    [pid, keeper, children(keeper)[0]]
}

pub fn signal_process(pid: u32, signal: i32) {
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    let signal = rustix::process::Signal::from_named_raw(signal).unwrap();
    rustix::process::kill_process(pid, signal).unwrap();
}

pub const SIGINT: i32 = 2;
pub const SIGKILL: i32 = 9;
pub const SIGTERM: i32 = 15;

/// The snapshots below `dir`, newest first.
pub fn snapshots(dir: &Path) -> Vec<PathBuf> {
    ddp_contract::snapshot::list(dir).unwrap()
}

/// The `w = […], b = …` that each rank of the linear job prints at its end, in the order of ranks.
pub fn fitted(stdout: &str) -> Vec<String> {
    let mut lines: Vec<_> = stdout.lines().filter(|line| line.contains("w = [")).collect();
    lines.sort_unstable();
    lines.iter().map(|line| line.split("] w = ").nth(1).unwrap().to_owned()).collect()
}
