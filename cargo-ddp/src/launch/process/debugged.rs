//! Workers that a debugger starts: they join the launcher at a socket, in any order, before or after it exists.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ddp_contract::env;
use ddp_contract::join::{Hello, LARGEST, VERSION, Welcome};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags,
    SocketType, accept_with, bind, connect, listen, recv, send, sendmsg, socket_with, sockopt,
};
use rustix::process::geteuid;

use super::guard::Guard;
use super::port::Port;
use super::worker::Worker;
use crate::launch::event::{LaunchEvent, Reporter};
use crate::launch::plan::LaunchPlan;
use crate::os::proc;
use crate::os::signals::is_user_signal;
use crate::{Error, Result};

/// How long workers may take to join: the debugger may be reading symbols.
const LIMIT: Duration = Duration::from_secs(600);
/// How long to wait before that is reported.
const QUIET: Duration = Duration::from_secs(3);
/// How long a process that has connected may take to introduce itself.
const HELLO: Duration = Duration::from_secs(5);

/// How waiting for workers ended.
pub(crate) enum Accepted {
    /// All ranks have joined.
    All(Port, Vec<Worker>),
    /// The launcher was asked to stop by this signal.
    Stopped(i32),
}

/// Waits for a worker for each rank.
///
/// # Errors
/// [`Error::JoinTaken`], [`Error::NotJoined`], [`Error::System`].
pub(crate) fn accept_workers(
    plan: &LaunchPlan,
    folder: &Path,
    guard: &mut Guard,
    reporter: &mut dyn Reporter,
) -> Result<Accepted> {
    let name = plan.name();
    let socket = Socket::open(&folder.join(format!("{name}.sock")))?;
    // Rank 0 may join more than once, so the port stays open until all have joined.
    let mut port = Port::open(plan.store, plan.nodes.address)?;
    let mut workers: Vec<Option<Worker>> = (0..plan.nproc).map(|_| None).collect();
    let start = Instant::now();
    let mut reported = false;
    while workers.iter().any(Option::is_none) {
        let missing: Vec<_> = (0..plan.nproc).filter(|rank| workers[*rank].is_none()).collect();
        let elapsed = start.elapsed();
        if elapsed >= LIMIT {
            return Err(Error::NotJoined { missing, seconds: LIMIT.as_secs() });
        }
        if !reported && elapsed >= QUIET {
            reported = true;
            let limit = LIMIT.saturating_sub(QUIET);
            reporter.report(LaunchEvent::WorkersAwaited { ranks: missing, program: name.clone(), limit });
        }
        wait(&socket, guard, &workers, if reported { LIMIT } else { QUIET } - elapsed)?;
        match guard.take() {
            None => return Ok(Accepted::Stopped(libc::SIGKILL)),
            Some(signals) => {
                if let Some(signal) = signals.into_iter().find(|signal| !is_user_signal(*signal)) {
                    return Ok(Accepted::Stopped(signal));
                }
            }
        }
        for slot in &mut workers {
            if let Some(worker) = slot.take_if(|worker| worker.has_ended()) {
                reporter.report(LaunchEvent::WorkerLeft { rank: worker.rank });
            }
        }
        if let Some((rank, worker)) = socket.accept(plan, &mut port, &workers, reporter)? {
            workers[rank] = Some(worker);
        }
    }
    Ok(Accepted::All(port, workers.into_iter().flatten().collect()))
}

fn wait(socket: &Socket, guard: &Guard, workers: &[Option<Worker>], time: Duration) -> Result<()> {
    let mut fds = vec![PollFd::from_borrowed_fd(socket.fd.as_fd(), PollFlags::IN)];
    fds.extend(guard.fds().into_iter().map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)));
    let ends = workers.iter().flatten().map(|worker| PollFd::from_borrowed_fd(worker.pidfd.as_fd(), PollFlags::IN));
    fds.extend(ends);
    let time = time + Duration::from_millis(1);
    let time = Timespec { tv_sec: time.as_secs().try_into().unwrap_or(i64::MAX), tv_nsec: time.subsec_nanos().into() };
    match poll(&mut fds, Some(&time)) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(err) => Err(Error::system("can't wait for the workers")(err.into())),
    }
}

/// Where workers join. The file is removed when this is dropped.
struct Socket {
    fd: OwnedFd,
    path: PathBuf,
}

impl Socket {
    fn open(path: &Path) -> Result<Self> {
        let cant = |err: Errno| Error::system(format!("can't listen at {}", path.display()))(err.into());
        if connect(&new().map_err(cant)?, &address(path).map_err(cant)?.1).is_ok() {
            return Err(Error::JoinTaken(path.to_owned()));
        }
        // What a launcher left that was killed.
        let _ = fs::remove_file(path);
        let fd = new().map_err(cant)?;
        bind(&fd, &address(path).map_err(cant)?.1).map_err(cant)?;
        let socket = Self { fd, path: path.to_owned() };
        // Before it listens: a process that joins gets this process's environment and can end the job.
        fs::set_permissions(path, fs::Permissions::from_mode(0o600))
            .map_err(Error::system(format!("can't protect {}", path.display())))?;
        listen(&socket.fd, 128).map_err(cant)?;
        Ok(socket)
    }

    /// The worker that has connected, if it fits.
    fn accept(
        &self,
        plan: &LaunchPlan,
        port: &mut Port,
        workers: &[Option<Worker>],
        reporter: &mut dyn Reporter,
    ) -> Result<Option<(usize, Worker)>> {
        let connection = match accept_with(&self.fd, SocketFlags::CLOEXEC) {
            Ok(connection) => connection,
            Err(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED) => return Ok(None),
            Err(err) => return Err(Error::system("can't accept a worker")(err.into())),
        };
        match sockopt::socket_peercred(&connection) {
            Ok(peer) if peer.uid == geteuid() => {}
            Ok(peer) => {
                let (pid, uid) = (peer.pid.as_raw_pid(), peer.uid.as_raw());
                reporter.report(LaunchEvent::StrangerRefused { pid, uid });
                return Ok(None);
            }
            Err(_) => return Ok(None),
        }
        // A process that connects and is silent was another launcher that looked whether this one waits, or is not a worker.
        let Some(hello) = receive_hello(&connection) else { return Ok(None) };
        let rank = hello.rank;
        let refusal = if hello.version != VERSION {
            Some("the program was built with a ddp-runtime of another version than this cargo-ddp".to_owned())
        } else if rank >= plan.nproc {
            Some(format!("rank {rank} not found: the launcher has ranks 0 to {}", plan.nproc - 1))
        } else if workers[rank].is_some() {
            Some(format!("rank {rank} has already joined"))
        } else {
            None
        };
        if let Some(problem) = refusal {
            let _ = send_welcome(&connection, &Welcome::Refused(problem.clone()), &[]);
            reporter.report(LaunchEvent::WorkerRefused { problem });
            return Ok(None);
        }
        let (worker, events) = match Worker::joined(plan, rank, connection) {
            Ok(worker) => worker,
            // It is gone again.
            Err(_) => return Ok(None),
        };
        let vars = plan.worker_env(rank, 0, port.number());
        let mut environment: BTreeMap<String, String> =
            vars.into_iter().map(|(name, value)| (name.to_owned(), value.to_string_lossy().into_owned())).collect();
        environment.insert(env::EVENT_FD.to_owned(), String::new());
        let mut descriptors = vec![events.as_fd()];
        if let Some(listener) = port.listener().filter(|_| rank == 0) {
            environment.insert(env::STORE_FD.to_owned(), String::new());
            descriptors.push(listener);
        }
        let welcome = Welcome::Environment(environment);
        let sent = worker.connection().map(|connection| send_welcome(connection, &welcome, &descriptors));
        tracing::debug!(rank, pid = worker.pid(), "worker joined");
        Ok(matches!(sent, Some(Ok(()))).then_some((rank, worker)))
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

fn new() -> rustix::io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
}

/// An address is at most 107 bytes long, and a path may be longer: it goes through the folder, which has to stay open.
fn address(path: &Path) -> rustix::io::Result<(File, SocketAddrUnix)> {
    let folder = File::open(path.parent().unwrap_or(Path::new("/")));
    let folder = folder.map_err(|err| Errno::from_io_error(&err).unwrap_or(Errno::IO))?;
    let name = proc::path_of(folder.as_fd());
    let address = SocketAddrUnix::new(name.join(path.file_name().unwrap_or_default()))?;
    Ok((folder, address))
}

fn receive_hello(connection: &OwnedFd) -> Option<Hello> {
    sockopt::set_socket_timeout(connection, sockopt::Timeout::Recv, Some(HELLO)).ok()?;
    let mut text = vec![0; LARGEST];
    let (length, _) = recv(connection, &mut text[..], RecvFlags::empty()).ok()?;
    serde_json::from_slice(&text[..length]).ok()
}

fn send_welcome(connection: &OwnedFd, welcome: &Welcome, descriptors: &[BorrowedFd<'_>]) -> rustix::io::Result<()> {
    let text = serde_json::to_vec(welcome).unwrap_or_default();
    if descriptors.is_empty() {
        return send(connection, &text, SendFlags::NOSIGNAL).map(drop);
    }
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    ancillary.push(SendAncillaryMessage::ScmRights(descriptors));
    sendmsg(connection, &[IoSlice::new(&text)], &mut ancillary, SendFlags::NOSIGNAL).map(drop)
}
