//! Worker processes: how they are started, read and signaled.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use ddp_contract::env;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::process::{Pid, Resource, Rlimit, Signal, getpid, kill_process, kill_process_group, setrlimit};

use super::events::EventStream;
use super::exit::exit_of_joined;
use super::port::Port;
use super::stream::{Pipe, Stream};
use crate::launch::outcome::Exit;
use crate::launch::plan::{Binding, LaunchPlan};
use crate::launch::run::logs::Log;
use crate::os::binary::start_without_shell;
use crate::os::reap::{self, KILL_TIMEOUT};
use crate::os::stdio::Target;
use crate::os::{child, cpus, interpreter, pidfd};
use crate::{Error, Result};

/// A worker of the attempt in progress.
pub(crate) struct Worker {
    pub(crate) rank: usize,
    process: Process,
    pid: Pid,
    /// Readable once the process has ended.
    pub(crate) pidfd: OwnedFd,
    pub(crate) alive: bool,
    pub(crate) stdout: Stream,
    pub(crate) stderr: Stream,
    pub(crate) events: EventStream,
    /// From its start to its end.
    span: tracing::Span,
}

enum Process {
    /// We started it.
    Child(Child),
    /// A debugger did, and it has joined us over this connection.
    Joined(OwnedFd),
}

/// Starts all workers of an attempt. When one can't be started, none stays.
pub(crate) fn start_all(plan: &LaunchPlan, attempt: u32, port: &Port, descriptors: Rlimit) -> Result<Vec<Worker>> {
    // What the kernel, or `env` in every rank, would only call a missing file.
    if let Some(missing) = interpreter::missing(&plan.program) {
        return Err(Error::no_interpreter(plan.program.clone(), missing));
    }
    let mut workers: Vec<Worker> = Vec::with_capacity(plan.nproc);
    for rank in plan.ranks() {
        match Worker::start(plan, attempt, rank, port, descriptors) {
            Ok(worker) => workers.push(worker),
            Err(err) => {
                for worker in &mut workers {
                    let _ = worker.reap();
                }
                return Err(err);
            }
        }
    }
    Ok(workers)
}

impl Worker {
    fn start(plan: &LaunchPlan, attempt: u32, rank: usize, port: &Port, descriptors: Rlimit) -> Result<Self> {
        let (events, event_writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
            .map_err(|err| Error::system("can't create a pipe")(err.into()))?;
        let mut command = Command::new(&plan.program);
        command.args(&plan.args).envs(plan.worker_env(rank, attempt, port.number()));
        let stdin = if plan.stdin == Some(rank) { Stdio::inherit() } else { Stdio::null() };
        command.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.env(env::EVENT_FD, event_writer.as_raw_fd().to_string()).env_remove(env::STORE_FD);
        // Children of a worker are not part of the debug session.
        command.env_remove(env::DEBUG);
        // The launchers' alone: a program may print its environment.
        command.env_remove(env::JOB_SECRET).env_remove(env::JOB_SECRET_FILE);
        for name in &plan.withheld {
            command.env_remove(name);
        }
        if plan.at_step.is_some() {
            command.current_dir(&plan.folder); // the earlier run's
        } else {
            command.env_remove(env::AT_STEP).env_remove(env::AT_STEP_DIR);
        }
        let mut inherited = vec![event_writer.as_raw_fd()];
        if let Some(socket) = port.listener().filter(|_| rank == 0) {
            command.env(env::STORE_FD, socket.as_raw_fd().to_string());
            inherited.push(socket.as_raw_fd());
        }
        prepare(&mut command, inherited, descriptors, plan.binding_of(rank), plan.debug.is_some());
        start_without_shell(&mut command);

        let logs = ["stdout", "stderr"].map(|stream| Log::create(plan.log_file(rank, attempt, stream)));
        let mut child = command.spawn().map_err(|source| Error::start(&plan.program, source))?;
        let pid = Pid::from_child(&child);
        let span = tracing::debug_span!("rank", rank);
        span.in_scope(|| tracing::debug!(%pid, attempt, program = %plan.program.display(), "worker started"));
        let output = [child.stdout.take().map(OwnedFd::from), child.stderr.take().map(OwnedFd::from)];
        match Parts::new(pid, output, events, logs) {
            Ok(Parts { pidfd, stdout, stderr, events }) => {
                let process = Process::Child(child);
                Ok(Self { rank, process, pid, pidfd, alive: true, stdout, stderr, events, span })
            }
            Err(err) => {
                let _ = child.kill().and_then(|()| child.wait());
                Err(Error::system("can't watch a worker")(err))
            }
        }
    }

    /// One that a debugger has started, and the pipe it writes events to.
    pub(crate) fn joined(plan: &LaunchPlan, rank: usize, connection: OwnedFd) -> io::Result<(Self, OwnedFd)> {
        let pid = pidfd::peer(&connection)?;
        let (events, event_writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        let logs = ["stdout", "stderr"].map(|stream| Log::create(plan.log_file(rank, 0, stream)));
        let Parts { pidfd, stdout, stderr, events } = Parts::new(pid, [None, None], events, logs)?;
        let process = Process::Joined(connection);
        let span = tracing::debug_span!("rank", rank);
        Ok((Self { rank, process, pid, pidfd, alive: true, stdout, stderr, events, span }, event_writer))
    }

    /// The connection to one that has joined.
    pub(crate) fn connection(&self) -> Option<&OwnedFd> {
        match &self.process {
            Process::Child(_) => None,
            Process::Joined(connection) => Some(connection),
        }
    }

    /// Whether its process is gone.
    pub(crate) fn has_ended(&self) -> bool {
        self.ends_within(Duration::ZERO)
    }

    fn ends_within(&self, time: Duration) -> bool {
        let mut fds = [PollFd::from_borrowed_fd(self.pidfd.as_fd(), PollFlags::IN)];
        let time =
            Timespec { tv_sec: time.as_secs().try_into().unwrap_or(i64::MAX), tv_nsec: time.subsec_nanos().into() };
        matches!(poll(&mut fds, Some(&time)), Ok(1..))
    }

    /// One of its output streams.
    pub(crate) fn stream(&mut self, target: Target) -> &mut Stream {
        match target {
            Target::Stdout => &mut self.stdout,
            Target::Stderr => &mut self.stderr,
        }
    }

    pub(crate) fn as_pid(&self) -> Pid {
        self.pid
    }

    pub(crate) fn pid(&self) -> u32 {
        self.pid.as_raw_pid().unsigned_abs()
    }

    /// Sends a signal to the worker, and those that end a program also to whatever it started in its group.
    pub(crate) fn signal(&self, signal: i32) {
        // A process that is gone is not an error.
        let _ = match Signal::from_named_raw(signal) {
            // Its group is not ours.
            Some(signal) if self.connection().is_some() => pidfd::signal(&self.pidfd, signal),
            // Helpers of the worker would die of these.
            Some(signal @ (Signal::USR1 | Signal::USR2)) => kill_process(self.pid, signal),
            Some(signal) => kill_process_group(self.pid, signal),
            None => Ok(()),
        };
    }

    /// Takes note of its end. What it left running in its group ends with it.
    pub(crate) fn reap(&mut self) -> Result<Exit> {
        // Before the wait: until then no other process can have its id.
        self.signal(Signal::KILL.as_raw());
        if self.connection().is_some() {
            self.ends_within(KILL_TIMEOUT);
        }
        let exit = match &mut self.process {
            Process::Child(child) => {
                let status = reap::wait(child, KILL_TIMEOUT).map_err(Error::system("can't wait for a worker"))?;
                status.map_or(Exit::Signal(Signal::KILL.as_raw()), Exit::from)
            }
            Process::Joined(connection) => exit_of_joined(connection, &self.pidfd),
        };
        self.alive = false;
        std::mem::replace(&mut self.span, tracing::Span::none())
            .in_scope(|| tracing::debug!(pid = %self.pid, ?exit, "worker ended"));
        Ok(exit)
    }
}

/// What a worker is watched through.
struct Parts {
    pidfd: OwnedFd,
    stdout: Stream,
    stderr: Stream,
    events: EventStream,
}

impl Parts {
    fn new(
        pid: Pid,
        [stdout, stderr]: [Option<OwnedFd>; 2],
        events: OwnedFd,
        [stdout_log, stderr_log]: [(Log, Option<io::Error>); 2],
    ) -> io::Result<Self> {
        Ok(Self {
            pidfd: pidfd::open(pid)?,
            stdout: Stream::new(stdout, stdout_log)?,
            stderr: Stream::new(stderr, stderr_log)?,
            events: EventStream::new(Pipe::new(Some(events))?),
        })
    }
}

/// What happens in the child before exec: its own session (and with it a process group), so that the terminal's signals come
/// through us alone; death with us; and of all descriptors only those that are meant for it.
fn prepare(
    command: &mut Command,
    inherited: Vec<RawFd>,
    descriptors: Rlimit,
    binding: Option<Binding>,
    with_debugger: bool,
) {
    let parent = getpid();
    let setup = move || {
        rustix::process::setsid()?;
        child::bind_to(parent)?;
        setrlimit(Resource::Nofile, descriptors)?;
        binding.as_ref().map_or(Ok(()), |binding| cpus::bind(&binding.cpus, binding.node))?;
        // A debug session's debugger can be any process's child.
        child::allow_debuggers((!with_debugger).then_some(parent));
        child::inherit_no_descriptors();
        for &fd in &inherited {
            // SAFETY: the parent keeps these open until the child has started.
            let fd = unsafe { BorrowedFd::borrow_raw(fd) };
            fcntl_setfd(fd, FdFlags::empty())?;
        }
        Ok(())
    };
    // SAFETY: the closure runs between fork and exec, and makes system calls only.
    unsafe { command.pre_exec(setup) };
}
