//! Shared code of the end-to-end tests: the real `cargo-ddp`, real workers, and their leftover processes.

#![allow(clippy::unwrap_used, missing_docs, reason = "a test's helper fails by panicking, and is read with the test")]

mod calls;
mod processes;
pub mod structure;

pub use calls::{Ddp, Done, Job, wait_until};
pub use processes::{SIGINT, SIGKILL, SIGTERM, launcher_processes, processes, signal_process};

use std::fs;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::Value;

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

/// A folder in `target/` for files that outlive a test, such as built projects.
pub fn kept() -> PathBuf {
    let folder = target().join("e2e");
    fs::create_dir_all(&folder).unwrap();
    folder
}

fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| repo().join("target"), PathBuf::from)
}

/// The program under test, built from the current sources.
pub fn cargo_ddp() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| build(repo(), &["-p", "cargo-ddp"], None))
}

/// A program of this crate.
pub fn program(name: &str) -> PathBuf {
    build(repo(), &["-p", "ddp-tests", "--bin", name], None)
}

/// A worker of `tests/workers/`: a link to the one program with all workers, which goes by the name it is started with.
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

/// The program with all workers.
const WORKER: &str = "worker";

/// In that program, the name of the worker to run.
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

/// Builds with cargo and returns the executable.
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

/// A Python with torch 2.13.0, as `cargo ddp setup --cuda` leaves it in the cache, and the CUDA libtorch next to it.
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

    /// torchrun with two workers, and a folder for its logs, as it would leave one in /tmp.
    pub fn torchrun(&self) -> Command {
        let mut python = self.python();
        python.args(["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "--log-dir"]);
        python.arg(self.logs.path());
        python
    }
}

/// Runs a command and returns its stdout; panics unless it succeeds.
pub fn stdout_of(command: &mut Command) -> String {
    let output = command.stderr(Stdio::inherit()).output().unwrap();
    assert!(output.status.success(), "{command:?} ended with {}", output.status);
    String::from_utf8(output.stdout).unwrap()
}

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
