//! The socket of a launcher that waits for workers which a debugger starts.

use std::fs::File;
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::path::Path;

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags,
    SocketType, connect as connect_socket, recvmsg, send, socket_with, sockopt::socket_peercred,
};
use rustix::process::geteuid;

/// Connects to the socket at `path`.
pub(crate) fn connect(path: &Path) -> io::Result<OwnedFd> {
    let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    // An address is at most 107 bytes long, and a path may be longer.
    let folder = File::open(path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new(".")))?;
    let name = Path::new("/proc/self/fd").join(folder.as_raw_fd().to_string());
    connect_socket(&socket, &SocketAddrUnix::new(name.join(path.file_name().unwrap_or_default()))?)?;
    Ok(socket)
}

/// Whether the process that listens belongs to this user, or to root.
pub(crate) fn is_trusted(socket: &OwnedFd) -> io::Result<bool> {
    let peer = socket_peercred(socket)?;
    Ok(peer.uid == geteuid() || peer.uid.is_root())
}

/// Sends a message, and returns the answer, of at most `largest` bytes, and the descriptors in it, two at most.
pub(crate) fn exchange(socket: &OwnedFd, message: &[u8], largest: usize) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
    send(socket, message, SendFlags::NOSIGNAL)?;
    let mut answer = vec![0; largest];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let buffer = IoSliceMut::new(&mut answer);
    let received = recvmsg(socket, &mut [buffer], &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
    let mut descriptors = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(passed) = message {
            descriptors.extend(passed);
        }
    }
    answer.truncate(received.bytes);
    Ok((answer, descriptors))
}

/// Has the kernel kill this process when the launcher's side of the connection is gone, even if it is stopped in a
/// debugger. (The launcher sends nothing more, which would have the same effect.)
pub(crate) fn die_with(socket: &OwnedFd) -> io::Result<()> {
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
    if done { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Sends a last message through a descriptor that was opened for it and is never closed. Waits for nothing, and may fail.
pub(crate) fn send_last(fd: RawFd, message: &[u8]) {
    // SAFETY: the bytes live through the call; a number that is not a socket gives an error.
    unsafe { libc::send(fd, message.as_ptr().cast(), message.len(), libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT) };
}
