//! Worker processes: how they are started, read and signalled.

use std::fs::File;
use std::io::{self, Read};
use std::net::TcpListener;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use ddp_contract::{Event, env};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::process::{Pid, PidfdFlags, Signal, getpid, kill_process_group, pidfd_open};

use super::dispatch::Exit;
use super::lines::Prefixer;
use super::plan::LaunchPlan;
use crate::{Error, Result, child};

/// A worker of the attempt in progress.
pub(super) struct Worker {
    pub(super) rank: usize,
    child: Child,
    pid: Pid,
    /// Readable once the process has ended.
    pub(super) pidfd: OwnedFd,
    pub(super) alive: bool,
    pub(super) stdout: Stream,
    pub(super) stderr: Stream,
    pub(super) events: EventStream,
}

/// Starts all workers of an attempt. When one can't be started, none stays.
pub(super) fn start_all(plan: &LaunchPlan, attempt: u32) -> Result<Vec<Worker>> {
    // The port is ours from here on: rank 0 takes the listening socket over, and a rank that connects before that waits
    // in its backlog. Nothing outside of this machine can reach it.
    let socket = TcpListener::bind("127.0.0.1:0").map_err(Error::system("can't open a port on 127.0.0.1"))?;
    let port = socket.local_addr().map_err(Error::system("can't open a port on 127.0.0.1"))?.port();
    let mut workers = Vec::with_capacity(plan.nproc);
    for rank in 0..plan.nproc {
        match Worker::start(plan, attempt, rank, port, (rank == 0).then_some(&socket)) {
            Ok(worker) => workers.push(worker),
            Err(err) => {
                for worker in &mut workers {
                    worker.signal(Signal::KILL.as_raw());
                    let _ = worker.child.wait();
                }
                return Err(err);
            }
        }
    }
    Ok(workers)
}

impl Worker {
    fn start(plan: &LaunchPlan, attempt: u32, rank: usize, port: u16, store: Option<&TcpListener>) -> Result<Self> {
        let (events, event_writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
            .map_err(|err| Error::system("can't make a pipe")(err.into()))?;
        let mut command = Command::new(&plan.program);
        command.args(&plan.args).envs(plan.worker_env(rank, attempt, port));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.env(env::EVENT_FD, event_writer.as_raw_fd().to_string()).env_remove(env::STORE_FD);
        let mut inherited = vec![event_writer.as_raw_fd()];
        if let Some(socket) = store {
            command.env(env::STORE_FD, socket.as_raw_fd().to_string());
            inherited.push(socket.as_raw_fd());
        }
        prepare(&mut command, inherited);

        let start = |source| Error::Start { program: plan.program.clone(), source };
        let mut child = command.spawn().map_err(start)?;
        match Parts::of(&mut child, rank, events) {
            Ok(Parts { pid, pidfd, stdout, stderr, events }) => {
                Ok(Self { rank, child, pid, pidfd, alive: true, stdout, stderr, events })
            }
            Err(err) => {
                let _ = child.kill().and_then(|()| child.wait());
                Err(Error::system("can't watch a worker")(err))
            }
        }
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal to the worker and to whatever it started in its group.
    pub(super) fn signal(&self, signal: i32) {
        // A group whose last process is gone is no error.
        if let Some(signal) = Signal::from_named_raw(signal) {
            let _ = kill_process_group(self.pid, signal);
        }
    }

    /// Takes note of its end. What it left running in its group ends with it.
    pub(super) fn reap(&mut self) -> Result<Exit> {
        // Before the wait: until then nobody else can have its number.
        self.signal(Signal::KILL.as_raw());
        let status = self.child.wait().map_err(Error::system("can't wait for a worker"))?;
        self.alive = false;
        Ok(status.into())
    }
}

/// What a worker is watched through.
struct Parts {
    pid: Pid,
    pidfd: OwnedFd,
    stdout: Stream,
    stderr: Stream,
    events: EventStream,
}

impl Parts {
    fn of(child: &mut Child, rank: usize, events: OwnedFd) -> io::Result<Self> {
        let pid = Pid::from_child(child);
        Ok(Self {
            pid,
            pidfd: pidfd_open(pid, PidfdFlags::empty())?,
            stdout: Stream::new(rank, child.stdout.take().map(OwnedFd::from))?,
            stderr: Stream::new(rank, child.stderr.take().map(OwnedFd::from))?,
            events: EventStream { pipe: Pipe::new(Some(events))?, partial: Vec::new() },
        })
    }
}

/// What happens in the child before exec: a session (and with it a process group) of its own, so that the terminal's
/// signals come through us alone; death with us; and the descriptors that it inherits.
fn prepare(command: &mut Command, inherited: Vec<RawFd>) {
    let parent = getpid();
    let setup = move || {
        rustix::process::setsid()?;
        child::bind_to(parent)?;
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

/// The reading end of a pipe, never waited on.
pub(super) struct Pipe {
    file: Option<File>,
}

impl Pipe {
    fn new(fd: Option<OwnedFd>) -> io::Result<Self> {
        if let Some(fd) = &fd {
            fcntl_setfl(fd, fcntl_getfl(fd)? | OFlags::NONBLOCK)?;
        }
        Ok(Self { file: fd.map(File::from) })
    }

    pub(super) fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.file.as_ref().map(AsFd::as_fd)
    }

    /// Reads what there is now, at most `limit` pieces of `buffer`'s size. At the end of the pipe it is closed.
    fn drain(&mut self, buffer: &mut [u8], limit: usize, mut take: impl FnMut(&[u8])) {
        for _ in 0..limit {
            let Some(file) = &mut self.file else { return };
            match file.read(buffer) {
                Ok(0) => self.file = None,
                Ok(n) => take(&buffer[..n]),
                Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
                Err(err) if err.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => self.file = None,
            }
        }
    }
}

/// A worker's stdout or stderr.
pub(super) struct Stream {
    pub(super) pipe: Pipe,
    pub(super) prefixer: Prefixer,
}

impl Stream {
    fn new(rank: usize, fd: Option<OwnedFd>) -> io::Result<Self> {
        Ok(Self { pipe: Pipe::new(fd)?, prefixer: Prefixer::new(rank) })
    }

    /// Appends the lines that are whole by now to `out`.
    pub(super) fn read(&mut self, buffer: &mut [u8], limit: usize, out: &mut Vec<u8>) {
        self.pipe.drain(buffer, limit, |piece| self.prefixer.push(piece, out));
        if self.pipe.fd().is_none() {
            self.prefixer.finish(out);
        }
    }

    /// The worker is gone: what it wrote is read, and nobody else's writing is waited for.
    pub(super) fn close(&mut self, buffer: &mut [u8], out: &mut Vec<u8>) {
        self.read(buffer, usize::MAX, out);
        self.pipe.file = None;
        self.prefixer.finish(out);
    }
}

/// A worker's events.
pub(super) struct EventStream {
    pub(super) pipe: Pipe,
    partial: Vec<u8>,
}

impl EventStream {
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> Vec<Event> {
        let Self { pipe, partial } = self;
        pipe.drain(buffer, usize::MAX, |piece| partial.extend_from_slice(piece));
        let Some(end) = partial.iter().rposition(|&byte| byte == b'\n') else { return Vec::new() };
        let whole: Vec<u8> = partial.drain(..=end).collect();
        // A line that is no event (a program of another kind wrote to the pipe) is passed over.
        whole.split(|&byte| byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect()
    }
}
