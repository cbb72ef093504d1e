//! Descriptors that the launcher passed on. This is the one place that turns their numbers into owners.

use std::io;
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
pub(crate) use std::os::fd::{IntoRawFd, OwnedFd, RawFd};

use rustix::fs::{FileType, OFlags, fcntl_setfl, fstat};
use rustix::io::{FdFlags, fcntl_dupfd_cloexec, fcntl_setfd};
use rustix::net::{getsockname, sockopt};

/// The socket behind `number` if it listens at `port`; else the descriptor is left alone. Its new owner must close it.
pub(crate) fn listening_socket(number: RawFd, port: u16) -> Option<RawFd> {
    let fd = borrow(number)?;
    let listens = sockopt::socket_acceptconn(fd).unwrap_or(false);
    let address = getsockname(fd).ok().and_then(|address| SocketAddr::try_from(address).ok())?;
    if !listens || address.port() != port {
        return None;
    }
    // Children of this process must not keep the port open.
    fcntl_setfd(fd, FdFlags::CLOEXEC).ok()?;
    Some(fcntl_dupfd_cloexec(fd, 3).ok()?.into_raw_fd())
}

/// The pipe behind `number`, for writes that never block; `None` if it is not a pipe.
pub(crate) fn pipe(number: RawFd) -> Option<OwnedFd> {
    let fd = borrow(number)?;
    if FileType::from_raw_mode(fstat(fd).ok()?.st_mode) != FileType::Fifo {
        return None;
    }
    fcntl_setfd(fd, FdFlags::CLOEXEC).ok()?;
    fcntl_setfl(fd, OFlags::NONBLOCK).ok()?;
    fcntl_dupfd_cloexec(fd, 3).ok()
}

/// Writes once.
pub(crate) fn write(fd: &OwnedFd, bytes: &[u8]) -> io::Result<usize> {
    Ok(rustix::io::write(fd, bytes)?)
}

/// The descriptor with this number, if it is open: the launcher opened it for this process before it began, so nobody
/// here closes it. Stdin, stdout and stderr are not the launcher's to pass on.
fn borrow(number: RawFd) -> Option<BorrowedFd<'static>> {
    if number <= 2 {
        return None;
    }
    // SAFETY: F_GETFD only asks; a number that is not an open descriptor gives EBADF.
    let fd = unsafe { BorrowedFd::borrow_raw(number) };
    rustix::io::fcntl_getfd(fd).is_ok().then_some(fd)
}
