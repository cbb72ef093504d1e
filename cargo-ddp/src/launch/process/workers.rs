//! Worker processes: how they are started, read and signalled.

use std::fs::File;
use std::io::{self, Read};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use ddp_contract::env;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::net::sockopt;
use rustix::process::{
    PTracer, Pid, PidfdFlags, Resource, Rlimit, Signal, getpid, kill_process, kill_process_group, pidfd_open,
    pidfd_send_signal, set_ptracer, setrlimit,
};

use crate::launch::plan::binding::Binding;
use crate::launch::plan::{LaunchPlan, StorePort};
use crate::launch::run::logs::Log;
use crate::launch::supervise::dispatch::Exit;
use crate::launch::supervise::events::EventStream;
use crate::os::binary::start_without_shell;
use crate::os::child;
use crate::os::interpreter;
use crate::os::reap::{self, KILL_TIMEOUT};
use crate::ui::Target;
use crate::ui::lines::Prefixer;
use crate::{Error, Result, Ui};

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
}

enum Process {
    /// We started it.
    Child(Child),
    /// A debugger did, and it has come to us over this connection.
    Joined(OwnedFd),
}

/// Starts all workers of an attempt. When one can't be started, none stays.
pub(crate) fn start_all(
    plan: &LaunchPlan,
    attempt: u32,
    port: &Port,
    descriptors: Rlimit,
    ui: &Ui,
) -> Result<Vec<Worker>> {
    // What the kernel, or `env` in every rank, would only call a missing file.
    if let Some(missing) = interpreter::missing(&plan.program) {
        return Err(Error::no_interpreter(plan.program.clone(), missing));
    }
    let mut workers: Vec<Worker> = Vec::with_capacity(plan.nproc);
    for rank in plan.ranks() {
        match Worker::start(plan, attempt, rank, port, descriptors, ui) {
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

/// The port where the ranks of one attempt meet. It is ours from here on, so that no other job can take it, and, of a job
/// on one node, nothing outside of this machine can reach it while we hold it.
pub(crate) struct Port {
    number: u16,
    /// What rank 0 inherits.
    listener: Option<TcpListener>,
    /// A socket that is bound but does not listen: it keeps the number from being given to others, and with SO_REUSEADDR
    /// on both sides rank 0 can open the port all the same.
    _reserved: Option<OwnedFd>,
}

impl Port {
    /// A free one, on the node that has rank 0.
    pub(crate) fn open(store: StorePort, mut address: SocketAddr) -> Result<Self> {
        address.set_port(0);
        let cant = || Error::system(format!("can't open a port on {}", address.ip()));
        match store {
            StorePort::Inherited => {
                let listener = TcpListener::bind(address).map_err(cant())?;
                let number = listener.local_addr().map_err(cant())?.port();
                Ok(Self { number, listener: Some(listener), _reserved: None })
            }
            StorePort::Reserved => {
                let (number, socket) = reserve(address).map_err(|err| cant()(err.into()))?;
                Ok(Self { number, listener: None, _reserved: Some(socket) })
            }
        }
    }

    /// Another node's.
    pub(crate) fn elsewhere(number: u16) -> Self {
        Self { number, listener: None, _reserved: None }
    }

    pub(crate) fn number(&self) -> u16 {
        self.number
    }

    pub(crate) fn listener(&self) -> Option<BorrowedFd<'_>> {
        self.listener.as_ref().map(AsFd::as_fd)
    }

    /// All workers are started: who inherits the socket has it.
    pub(crate) fn started(&mut self) {
        self.listener = None;
    }
}

fn reserve(address: SocketAddr) -> rustix::io::Result<(u16, OwnedFd)> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, getsockname, socket_with, sockopt};

    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    bind(&socket, &address)?;
    let address = SocketAddr::try_from(getsockname(&socket)?)?;
    Ok((address.port(), socket))
}

impl Worker {
    fn start(plan: &LaunchPlan, attempt: u32, rank: usize, port: &Port, descriptors: Rlimit, ui: &Ui) -> Result<Self> {
        let (events, event_writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
            .map_err(|err| Error::system("can't make a pipe")(err.into()))?;
        let mut command = Command::new(&plan.program);
        command.args(&plan.args).envs(plan.worker_env(rank, attempt, port.number));
        let stdin = if plan.stdin == Some(rank) { Stdio::inherit() } else { Stdio::null() };
        command.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.env(env::EVENT_FD, event_writer.as_raw_fd().to_string()).env_remove(env::STORE_FD);
        // What a worker starts in turn is no part of the debug session.
        command.env_remove(env::DEBUG);
        // The launchers' alone: a program may print its environment.
        command.env_remove(env::JOB_SECRET).env_remove(env::JOB_SECRET_FILE);
        for name in &plan.withheld {
            command.env_remove(name);
        }
        let mut inherited = vec![event_writer.as_raw_fd()];
        if let Some(socket) = port.listener.as_ref().filter(|_| rank == 0) {
            command.env(env::STORE_FD, socket.as_raw_fd().to_string());
            inherited.push(socket.as_raw_fd());
        }
        prepare(&mut command, inherited, descriptors, plan.binding_of(rank), plan.debug.is_some());
        start_without_shell(&mut command);

        let logs = ["stdout", "stderr"].map(|stream| Log::create(plan.log_file(rank, attempt, stream)));
        let mut child = command.spawn().map_err(|source| Error::start(&plan.program, source))?;
        let pid = Pid::from_child(&child);
        let output = [child.stdout.take().map(OwnedFd::from), child.stderr.take().map(OwnedFd::from)];
        match Parts::of(pid, output, rank, events, plan, logs, ui) {
            Ok(Parts { pidfd, stdout, stderr, events }) => {
                let process = Process::Child(child);
                Ok(Self { rank, process, pid, pidfd, alive: true, stdout, stderr, events })
            }
            Err(err) => {
                let _ = child.kill().and_then(|()| child.wait());
                Err(Error::system("can't watch a worker")(err))
            }
        }
    }

    /// One that a debugger has started, and the pipe that it shall write its events to.
    pub(crate) fn joined(plan: &LaunchPlan, rank: usize, connection: OwnedFd, ui: &Ui) -> io::Result<(Self, OwnedFd)> {
        let pid = sockopt::socket_peercred(&connection)?.pid;
        let (events, event_writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        let logs = ["stdout", "stderr"].map(|stream| Log::create(plan.log_file(rank, 0, stream)));
        let Parts { pidfd, stdout, stderr, events } = Parts::of(pid, [None, None], rank, events, plan, logs, ui)?;
        let process = Process::Joined(connection);
        Ok((Self { rank, process, pid, pidfd, alive: true, stdout, stderr, events }, event_writer))
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
        // One that is gone is no error.
        let _ = match Signal::from_named_raw(signal) {
            // Its group is not ours.
            Some(signal) if self.connection().is_some() => pidfd_send_signal(&self.pidfd, signal),
            // Helpers of the worker would die of these.
            Some(signal @ (Signal::USR1 | Signal::USR2)) => kill_process(self.pid, signal),
            Some(signal) => kill_process_group(self.pid, signal),
            None => Ok(()),
        };
    }

    /// Takes note of its end. What it left running in its group ends with it.
    pub(crate) fn reap(&mut self) -> Result<Exit> {
        // Before the wait: until then nobody else can have its number.
        self.signal(Signal::KILL.as_raw());
        if self.connection().is_some() {
            self.ends_within(KILL_TIMEOUT);
        }
        let exit = match &mut self.process {
            Process::Child(child) => {
                let status = reap::wait(child, KILL_TIMEOUT).map_err(Error::system("can't wait for a worker"))?;
                status.map_or(Exit::Signal(Signal::KILL.as_raw()), Exit::from)
            }
            Process::Joined(connection) => super::join::farewell(connection, &self.pidfd),
        };
        self.alive = false;
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
    fn of(
        pid: Pid,
        output: [Option<OwnedFd>; 2],
        rank: usize,
        events: OwnedFd,
        plan: &LaunchPlan,
        logs: [(Log, Option<io::Error>); 2],
        ui: &Ui,
    ) -> io::Result<Self> {
        let [stdout, stderr] = output;
        let shown = plan.show.has(rank);
        let [stdout_log, stderr_log] = logs;
        Ok(Self {
            pidfd: pidfd_open(pid, PidfdFlags::empty())?,
            stdout: Stream::new(stdout, ui.prefixer(rank, Target::Stdout), stdout_log, shown)?,
            stderr: Stream::new(stderr, ui.prefixer(rank, Target::Stderr), stderr_log, shown)?,
            events: EventStream::new(Pipe::new(Some(events))?),
        })
    }
}

/// What happens in the child before exec: a session (and with it a process group) of its own, so that the terminal's
/// signals come through us alone; death with us; and of all descriptors only those that are meant for it.
fn prepare(
    command: &mut Command,
    inherited: Vec<RawFd>,
    descriptors: Rlimit,
    binding: Option<Binding>,
    debugged: bool,
) {
    let parent = getpid();
    let setup = move || {
        rustix::process::setsid()?;
        child::bind_to(parent)?;
        setrlimit(Resource::Nofile, descriptors)?;
        binding.as_ref().map_or(Ok(()), Binding::apply)?;
        // Where only a parent may look into a process (Yama), so may the debuggers that we start when a job stalls. A
        // kernel without Yama knows no such call. A debug session's debugger is anybody's child.
        let _ = set_ptracer(if debugged { PTracer::Any } else { PTracer::ProcessID(parent) });
        // SAFETY: it marks descriptors, and touches no memory. (Before Linux 5.11 there is no such call: what our parent
        // left open is then inherited.)
        unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC) };
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
pub(crate) struct Pipe {
    file: Option<File>,
}

impl Pipe {
    pub(crate) fn new(fd: Option<OwnedFd>) -> io::Result<Self> {
        if let Some(fd) = &fd {
            fcntl_setfl(fd, fcntl_getfl(fd)? | OFlags::NONBLOCK)?;
        }
        Ok(Self { file: fd.map(File::from) })
    }

    pub(crate) fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.file.as_ref().map(AsFd::as_fd)
    }

    /// Reads at most `limit` bytes of what there is now. At the end of the pipe it is closed.
    pub(crate) fn drain(&mut self, buffer: &mut [u8], limit: usize, mut take: impl FnMut(&[u8])) {
        let mut left = limit;
        while let Some(file) = self.file.as_mut().filter(|_| left > 0) {
            let most = left.min(buffer.len());
            match file.read(&mut buffer[..most]) {
                Ok(0) => self.file = None,
                Ok(n) => {
                    left -= n;
                    take(&buffer[..n]);
                }
                Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
                Err(err) if err.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => self.file = None,
            }
        }
    }

    /// Bytes that can be read now.
    pub(crate) fn waiting(&self) -> usize {
        let count = self.file.as_ref().and_then(|file| rustix::io::ioctl_fionread(file).ok());
        count.and_then(|count| usize::try_from(count).ok()).unwrap_or(0)
    }

    /// Nothing more is read.
    pub(crate) fn close(&mut self) {
        self.file = None;
    }
}

/// A worker's stdout or stderr.
pub(crate) struct Stream {
    pub(crate) pipe: Pipe,
    pub(crate) prefixer: Prefixer,
    log: Log,
    shown: bool,
    /// Why the log was given up, until that is said.
    pub(crate) log_failed: Option<io::Error>,
}

impl Stream {
    fn new(
        fd: Option<OwnedFd>,
        prefixer: Prefixer,
        (log, log_failed): (Log, Option<io::Error>),
        shown: bool,
    ) -> io::Result<Self> {
        Ok(Self { pipe: Pipe::new(fd)?, prefixer, log, shown, log_failed })
    }

    /// Keeps what was written, and appends the lines that are whole by now to `out` if they are to be seen. Gives whether
    /// anything was written.
    pub(crate) fn read(&mut self, buffer: &mut [u8], limit: usize, out: &mut Vec<u8>) -> bool {
        let mut came = false;
        let start = out.len();
        let Self { pipe, prefixer, log, log_failed, .. } = self;
        pipe.drain(buffer, limit, |piece| {
            came = true;
            if let Err(err) = log.write(piece) {
                *log_failed = Some(err);
            }
            prefixer.push(piece, out);
        });
        if self.pipe.fd().is_none() {
            self.prefixer.finish(out);
        }
        if !self.shown {
            out.truncate(start);
        }
        came
    }

    /// The worker is gone: what it wrote is read, and nobody else's writing is waited for.
    pub(crate) fn close(&mut self, buffer: &mut [u8], out: &mut Vec<u8>) {
        let start = out.len();
        // No more than it wrote: what it left running may go on writing forever.
        self.read(buffer, self.pipe.waiting(), out);
        self.pipe.close();
        self.prefixer.finish(out);
        if !self.shown {
            out.truncate(start);
        }
    }

    pub(crate) fn log_path(&self) -> &Path {
        self.log.path()
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv6Addr, SocketAddrV6};

    use super::*;

    #[test]
    fn port_is_opened_on_a_link_local_address() {
        // proc(5): the address, the interface's number, the prefix, the scope (0x20: link-local).
        let list = std::fs::read_to_string("/proc/net/if_inet6").unwrap_or_default();
        let found = list.lines().find_map(|line| {
            let fields: Vec<_> = line.split_whitespace().collect();
            let [address, interface, _, "20", ..] = fields[..] else { return None };
            let address = Ipv6Addr::from(u128::from_str_radix(address, 16).ok()?);
            Some(SocketAddrV6::new(address, 4711, 0, u32::from_str_radix(interface, 16).ok()?))
        });
        let Some(address) = found else {
            let _ = io::Write::write_all(&mut io::stderr(), b"SKIPPED: needs a link-local IPv6 address\n");
            return;
        };
        for store in [StorePort::Inherited, StorePort::Reserved] {
            let port = Port::open(store, address.into()).unwrap();
            assert!(![0, 4711].contains(&port.number()));
        }
    }
}
