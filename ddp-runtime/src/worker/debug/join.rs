//! A worker that a debugger started itself: it gets from a waiting launcher what it would have inherited from it.

use std::ffi::OsStr;
use std::fs::File;
use std::io::IsTerminal;
use std::os::fd::{AsRawFd, IntoRawFd, OwnedFd, RawFd};
use std::path::Path;
use std::process::exit;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::{Duration, Instant};

use ddp_contract::env;
use ddp_contract::join::{Goodbye, Hello, LARGEST, VERSION, Welcome};
use ddp_contract::text::printable_line;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags,
    SocketType, connect, recvmsg, send, socket_with, sockopt::socket_peercred,
};
use rustix::process::geteuid;

use super::start::say;

/// How long to wait for a launcher: it may still be building.
const LIMIT: Duration = Duration::from_secs(600);
const PERIOD: Duration = Duration::from_millis(50);
const QUIET: Duration = Duration::from_secs(3);
/// Wrong use, in `cargo ddp`'s terms.
pub(super) const REFUSED: i32 = 2;
const NO_LAUNCHER: i32 = 4;

/// The connection to the launcher, for the end; -1 without one.
static LAUNCHER: AtomicI32 = AtomicI32::new(-1);
const NONE: RawFd = -1;

/// Meets the launcher, and takes over the environment and the descriptors that it gives. Without a launcher the process
/// ends: it has said why.
pub(super) fn join(path: &Path) {
    let rank = std::env::var(env::JOIN_RANK).unwrap_or_default();
    let Ok(rank) = rank.trim().parse::<usize>() else {
        give_up(REFUSED, &format!("{}={rank:?} is no rank: the launch configuration must name one", env::JOIN_RANK));
    };
    let socket = meet(path, rank);
    let hello = serde_json::to_vec(&Hello { version: VERSION, rank }).unwrap_or_default();
    let (welcome, descriptors) = match exchange(&socket, &hello) {
        Ok(answer) => answer,
        Err(err) => give_up(NO_LAUNCHER, &format!("the launcher behind {} is gone: {err}", path.display())),
    };
    let environment = match welcome {
        Welcome::Environment(environment) => environment,
        Welcome::Refused(why) => give_up(REFUSED, &why),
    };
    let mut descriptors = descriptors.into_iter();
    for (name, value) in &environment {
        let passed = [env::EVENT_FD, env::STORE_FD].contains(&name.as_str());
        let value = match passed.then(|| descriptors.next()).flatten() {
            Some(descriptor) => descriptor.into_raw_fd().to_string(),
            None => value.clone(),
        };
        // SAFETY: before `main` there is one thread.
        unsafe { std::env::set_var(name, value) };
    }
    if let Err(err) = dies_with(&socket) {
        say(&format!("warning: this worker will not notice when its launcher is gone: {err}"));
    }
    LAUNCHER.store(socket.into_raw_fd(), Ordering::Relaxed);
    // SAFETY: a function of this crate, which the C library calls with the exit code.
    unsafe { on_exit(ended, std::ptr::null_mut()) };
    if std::io::stdout().is_terminal() {
        let program = std::env::args_os().next().unwrap_or_default();
        let name = Path::new(&program).file_name().unwrap_or(OsStr::new("worker")).to_string_lossy().into_owned();
        // The terminal's title.
        print!("\x1b]0;{} rank {rank}\x07", printable_line(&name));
    }
}

/// Connects as soon as there is a launcher.
fn meet(path: &Path, rank: usize) -> OwnedFd {
    let start = Instant::now();
    let mut told = false;
    loop {
        match try_connect(path) {
            Ok(socket) => match socket_peercred(&socket) {
                // What answers there decides about this process's environment.
                Ok(peer) if peer.uid == geteuid() || peer.uid.is_root() => return socket,
                Ok(_) => give_up(REFUSED, &format!("another user's process listens at {}", path.display())),
                Err(err) => give_up(NO_LAUNCHER, &format!("can't tell who listens at {}: {err}", path.display())),
            },
            Err(Errno::NOENT | Errno::CONNREFUSED | Errno::AGAIN) => {}
            Err(err) => give_up(NO_LAUNCHER, &format!("can't reach a launcher at {}: {err}", path.display())),
        }
        if start.elapsed() >= LIMIT {
            give_up(NO_LAUNCHER, &format!("no launcher came to {} in {} s", path.display(), LIMIT.as_secs()));
        }
        if !told && start.elapsed() >= QUIET {
            told = true;
            let left = LIMIT.saturating_sub(QUIET).as_secs();
            say(&format!("rank {rank} waits for its launcher at {}, for {left} s at most", path.display()));
        }
        std::thread::sleep(PERIOD);
    }
}

fn try_connect(path: &Path) -> rustix::io::Result<OwnedFd> {
    let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    // An address is at most 107 bytes long, and a path may be longer.
    let folder = File::open(path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new(".")));
    let folder = folder.map_err(|err| Errno::from_io_error(&err).unwrap_or(Errno::IO))?;
    let name = Path::new("/proc/self/fd").join(folder.as_raw_fd().to_string());
    connect(&socket, &SocketAddrUnix::new(name.join(path.file_name().unwrap_or_default()))?)?;
    Ok(socket)
}

fn exchange(socket: &OwnedFd, hello: &[u8]) -> std::io::Result<(Welcome, Vec<OwnedFd>)> {
    send(socket, hello, SendFlags::NOSIGNAL)?;
    let mut text = vec![0; LARGEST];
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let buffer = std::io::IoSliceMut::new(&mut text);
    let received = recvmsg(socket, &mut [buffer], &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
    let mut descriptors = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(passed) = message {
            descriptors.extend(passed);
        }
    }
    Ok((serde_json::from_slice(&text[..received.bytes])?, descriptors))
}

/// Has the kernel kill this process when the launcher's side of the connection is gone, even if it is stopped in a
/// debugger. (The launcher sends nothing more, which would have the same effect.)
fn dies_with(socket: &OwnedFd) -> std::io::Result<()> {
    let fd = socket.as_raw_fd();
    // `F_SETSIG`, which libc does not name for Linux: the signal in place of SIGIO.
    const F_SETSIG: libc::c_int = 10;
    let set = |command, value: libc::c_int| {
        // SAFETY: it sets a flag of a descriptor that is ours.
        unsafe { libc::fcntl(fd, command, value) == 0 }
    };
    let own = libc::pid_t::try_from(std::process::id()).unwrap_or_default();
    let flags = rustix::fs::fcntl_getfl(socket)?.bits().cast_signed();
    let done = set(libc::F_SETOWN, own) && set(F_SETSIG, libc::SIGKILL) && set(libc::F_SETFL, flags | libc::O_ASYNC);
    if done { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

unsafe extern "C" {
    /// glibc's `atexit` that is told the exit code.
    fn on_exit(function: extern "C" fn(libc::c_int, *mut libc::c_void), argument: *mut libc::c_void) -> libc::c_int;
}

extern "C" fn ended(code: libc::c_int, _: *mut libc::c_void) {
    say_goodbye(code);
}

/// Tells the launcher, which can't wait for a process that is not its child, how this one ends.
pub(super) fn say_goodbye(code: i32) {
    let fd = LAUNCHER.swap(NONE, Ordering::Relaxed);
    if fd == NONE {
        return;
    }
    if let Ok(goodbye) = serde_json::to_vec(&Goodbye { code }) {
        // SAFETY: the descriptor was opened for this, and is never closed; the bytes live through the call.
        unsafe { libc::send(fd, goodbye.as_ptr().cast(), goodbye.len(), libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT) };
    }
}

/// OMP_NUM_THREADS came after OpenMP had looked for it.
pub(super) fn apply_threads() {
    if LAUNCHER.load(Ordering::Relaxed) != NONE
        && let Some(threads) = std::env::var(env::OMP_NUM_THREADS).ok().and_then(|threads| threads.parse().ok())
    {
        tch::set_num_threads(threads);
    }
}

pub(super) fn give_up(code: i32, why: &str) -> ! {
    say(&format!("error: {why}"));
    exit(code)
}
