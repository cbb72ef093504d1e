//! What the ranks of a stalled job do: the stacks of all their threads, by the first debugger that is installed.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use ddp_contract::file;
use rustix::process::Pid;

use crate::launch::event::{Activity, RankStack};
use crate::launch::outcome::Suspect;
use crate::launch::run::logs;
use crate::os::pidfd;

/// How long a debugger may take. Reading libtorch's symbols takes some seconds.
const TIME_LIMIT: Duration = Duration::from_secs(60);

/// Frames of PyTorch's and NVIDIA's libraries in which a rank waits for the others.
const COLLECTIVE: [&str; 6] =
    ["c10d::", "gloo::", "nccl", "ProcessGroup", "cudaStreamSynchronize", "cudaEventSynchronize"];
/// Frames that tell nothing about what a program does.
const PLUMBING: [&str; 16] = [
    "pthread",
    "futex",
    "syscall",
    "libc",
    "clone",
    "GI_",
    "std::",
    "core::",
    "alloc::",
    "start",
    "??",
    "poll",
    "rust_begin",
    "nanosleep",
    "clock_nanosleep",
    "epoll_wait",
];

/// Debuggers at work, one per rank.
pub(crate) struct Tracing {
    tracers: Vec<Tracer>,
    missing: bool,
    deadline: Instant,
}

struct Tracer {
    rank: usize,
    pid: u32,
    file: PathBuf,
    running: Option<(Child, OwnedFd)>,
}

/// What the debuggers found.
pub(crate) struct Found {
    /// By rank; `None` without a debugger.
    pub(crate) stacks: Option<Vec<RankStack>>,
    pub(crate) suspect: Option<Suspect>,
}

impl Tracing {
    /// Starts a debugger for each (rank, pid, file for its stacks).
    pub(crate) fn start(ranks: Vec<(usize, u32, PathBuf)>) -> Self {
        let debugger = Debugger::find();
        let tracers = ranks.into_iter().map(|(rank, pid, file)| {
            let running = debugger.as_ref().and_then(|debugger| debugger.trace(pid, &file).ok());
            Tracer { rank, pid, file, running }
        });
        Self { tracers: tracers.collect(), missing: debugger.is_none(), deadline: Instant::now() + TIME_LIMIT }
    }

    pub(crate) fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Readable when a debugger has ended.
    pub(crate) fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.tracers.iter().filter_map(|tracer| Some(tracer.running.as_ref()?.1.as_fd()))
    }

    pub(crate) fn pids(&self) -> impl Iterator<Item = Pid> {
        self.tracers.iter().filter_map(|tracer| Some(Pid::from_child(&tracer.running.as_ref()?.0)))
    }

    /// Whether all have ended, or were given up.
    pub(crate) fn is_done(&mut self) -> bool {
        let late = Instant::now() >= self.deadline;
        for tracer in &mut self.tracers {
            if let Some((child, _)) = &mut tracer.running {
                if late {
                    let _ = child.kill();
                }
                if late || !matches!(child.try_wait(), Ok(None)) {
                    let _ = child.wait();
                    tracer.running = None;
                }
            }
        }
        self.tracers.iter().all(|tracer| tracer.running.is_none())
    }

    pub(crate) fn stop(mut self) {
        self.deadline = Instant::now();
        self.is_done();
    }

    /// What each rank does, and which of them holds the others up.
    pub(crate) fn finish(self, step_of: impl Fn(usize) -> Option<u64>) -> Found {
        let suspect = |tracer: &Tracer, waits| {
            let (rank, pid) = (tracer.rank, tracer.pid);
            Suspect { step: step_of(rank), waits, rank, pid }
        };
        if self.missing {
            return Found { stacks: None, suspect: self.tracers.iter().map(|tracer| suspect(tracer, false)).min() };
        }
        let (mut stacks, mut suspects) = (vec![], vec![]);
        for tracer in self.tracers {
            let text = file::read(&tracer.file, file::SMALL).unwrap_or_default();
            let activity = activity(&String::from_utf8_lossy(&text));
            suspects.push(suspect(&tracer, matches!(activity, Activity::Waits(_))));
            stacks.push(RankStack { rank: tracer.rank, activity, file: tracer.file });
        }
        Found { stacks: Some(stacks), suspect: suspects.into_iter().min() }
    }
}

fn activity(stacks: &str) -> Activity {
    let frames = main_thread(stacks);
    if let Some(frame) = frames.iter().find(|frame| COLLECTIVE.iter().any(|word| frame.contains(word))) {
        return Activity::Waits(frame.clone());
    }
    let own = frames.iter().find(|frame| !PLUMBING.iter().any(|word| frame.trim_start_matches('_').starts_with(word)));
    own.or(frames.first()).map_or(Activity::Unknown, |frame| Activity::Runs(frame.clone()))
}

/// The functions on the main thread's stack, innermost first, as gdb, lldb and eu-stack print them.
fn main_thread(stacks: &str) -> Vec<String> {
    // gdb numbers the main thread 1 and prints it last; lldb and eu-stack print it first.
    let start = stacks.rfind("\nThread 1 ").or_else(|| stacks.find("thread #1")).unwrap_or(0);
    let mut frames = Vec::new();
    for line in stacks[start..].lines().skip(1) {
        let line = line.trim_start_matches([' ', '*']);
        if frames.len() > 1 && (line.starts_with("TID ") || line.starts_with("thread #")) {
            break;
        }
        let Some(rest) = line.strip_prefix('#').or_else(|| line.strip_prefix("frame #")) else { continue };
        frames.extend(function(rest));
    }
    frames
}

/// `0  0x0000 in name (args) at file` (gdb), `0: 0x0000 program`name at file` (lldb), `0  0x0000 name` (eu-stack).
fn function(frame: &str) -> Option<String> {
    let rest = frame.trim_start_matches(|c: char| c.is_ascii_digit() || c == ':').trim_start();
    let rest = match rest.strip_prefix("0x") {
        Some(address) => {
            let rest = address.trim_start_matches(|c: char| c.is_ascii_hexdigit()).trim_start();
            rest.strip_prefix("in ").unwrap_or(rest)
        }
        None => rest,
    };
    let rest = rest.split_once('`').map_or(rest, |(_, rest)| rest);
    let name = rest.split(" (").next()?.split(" at ").next()?.split(" + ").next()?;
    let name = name.split('(').next()?.trim();
    (!name.is_empty()).then(|| name.to_owned())
}

/// A program that prints the stacks of another.
enum Debugger {
    Gdb(PathBuf),
    Lldb(PathBuf),
    EuStack(PathBuf),
}

impl Debugger {
    fn find() -> Option<Self> {
        let find = |name| which::which(name).ok();
        // The quickest first.
        find("eu-stack")
            .map(Self::EuStack)
            .or_else(|| find("gdb").map(Self::Gdb))
            .or_else(|| find("lldb").map(Self::Lldb))
    }

    fn trace(&self, pid: u32, file: &Path) -> io::Result<(Child, OwnedFd)> {
        let pid = pid.to_string();
        let mut command = match self {
            Self::Gdb(gdb) => {
                let mut command = Command::new(gdb);
                command.args(["--batch", "-nx", "-iex", "set debuginfod enabled off", "-p", &pid]);
                command.args([
                    "-ex",
                    "set pagination off",
                    "-ex",
                    "set width 0",
                    "-ex",
                    "thread apply all backtrace 64",
                ]);
                command
            }
            Self::Lldb(lldb) => {
                let mut command = Command::new(lldb);
                command.args([
                    "--batch",
                    "--no-lldbinit",
                    "-p",
                    &pid,
                    "-o",
                    "thread backtrace all -c 64",
                    "-o",
                    "detach",
                ]);
                command
            }
            Self::EuStack(eu_stack) => {
                let mut command = Command::new(eu_stack);
                command.args(["-p", &pid, "-n", "64"]);
                command
            }
        };
        let out = logs::create(file)?;
        let err = out.try_clone()?;
        crate::os::child::dies_with_parent(&mut command);
        let child = command.stdin(Stdio::null()).stdout(out).stderr(err).spawn()?;
        let pidfd = pidfd::open(Pid::from_child(&child))?;
        Ok((child, pidfd))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const GDB: &str = "\
[New LWP 12]
0x00007f in __poll () from /lib/libc.so.6

Thread 2 (Thread 0x7f (LWP 12) \"pt_gloo_runloop\"):
#0  0x00007f12 in epoll_wait () from /lib/libc.so.6
#1  0x00007f13 in gloo::transport::tcp::Loop::run() () from libtorch_cpu.so

Thread 1 (Thread 0x7f (LWP 11) \"train\"):
#0  0x00007f88 in __futex_abstimed_wait_common () from /lib/libc.so.6
#1  0x00007f89 in c10d::ProcessGroupGloo::AsyncWork::wait(std::chrono::duration<long>) () from libtorch_cpu.so
#2  0x000055aa in train::main () at src/main.rs:7
[Inferior 1 (process 11) detached]
";

    #[test]
    fn stack_shows_whether_a_rank_waits() {
        assert_eq!(activity(GDB), Activity::Waits("c10d::ProcessGroupGloo::AsyncWork::wait".into()));
        let sleeps = GDB.replace(
            "c10d::ProcessGroupGloo::AsyncWork::wait(std::chrono::duration<long>) ()",
            "std::thread::sleep ()",
        );
        assert_eq!(activity(&sleeps), Activity::Runs("train::main".into()));
        assert_eq!(activity("ptrace: Operation not permitted."), Activity::Unknown);
    }

    #[test]
    fn stacks_of_all_three_debuggers_are_parsed() {
        let lldb = "* thread #1, name = 'train'\n  * frame #0: 0x00007f libc.so.6`__poll + 77\n    frame #1: 0x55 train`train::load(path=1) at data.rs:3:5\n  thread #2\n    frame #0: 0x7f libc.so.6`gloo::x\n";
        assert_eq!(activity(lldb), Activity::Runs("train::load".into()));
        let eu_stack =
            "PID 11 - process\nTID 11:\n#0  0x00007f95 __poll\n#1  0x000055d0 train::load\nTID 12:\n#0  0x7f gloo::x\n";
        assert_eq!(activity(eu_stack), Activity::Runs("train::load".into()));
    }

    #[test]
    fn suspect_is_the_rank_behind_and_among_equals_the_one_that_does_not_wait() {
        let dir = tempfile::tempdir().unwrap();
        let tracer = |rank: usize, text: &str| {
            let file = dir.path().join(format!("{rank}.txt"));
            fs::write(&file, text).unwrap();
            Tracer { rank, pid: 10 + rank as u32, file, running: None }
        };
        let sleeps = GDB.replace("c10d::ProcessGroupGloo::AsyncWork::wait", "my::sleep");
        let make = || {
            let tracers = vec![tracer(0, GDB), tracer(1, &sleeps), tracer(2, GDB)];
            Tracing { tracers, missing: false, deadline: Instant::now() }
        };
        let suspect = |step_of: fn(usize) -> Option<u64>| make().finish(step_of).suspect.map(|it| (it.rank, it.pid));
        assert_eq!(suspect(|_| Some(7)), Some((1, 11)));
        assert_eq!(suspect(|rank| Some(7 - rank as u64)), Some((2, 12)));
        let stacks = make().finish(|_| None).stacks.unwrap();
        assert!(
            matches!(&stacks[0].activity, Activity::Waits(function) if function.starts_with("c10d::")),
            "{stacks:?}"
        );
        assert!(
            matches!(&stacks[1].activity, Activity::Runs(function) if function.starts_with("my::sleep")),
            "{stacks:?}"
        );
    }
}
