//! Descriptors that the launcher passed on. This is the one place that turns their numbers into owners.

use std::os::fd::{BorrowedFd, OwnedFd, RawFd};

use ddp_contract::env;
use rustix::fs::{FileType, OFlags, fcntl_setfl, fstat};
use rustix::io::{FdFlags, fcntl_dupfd_cloexec, fcntl_setfd};
use rustix::net::{getsockname, sockopt};

use crate::worker::variables;

/// The socket that `MASTER_PORT` is already listening on, for the rank that serves the store.
///
/// A descriptor that is anything else (the variable was inherited, the descriptor was not) is left alone.
pub(crate) fn listening_socket(port: u16) -> Option<RawFd> {
    let number = number_in(env::STORE_FD)?;
    let fd = borrow(number)?;
    let listens = sockopt::socket_acceptconn(fd).unwrap_or(false);
    let address = getsockname(fd).ok().and_then(|address| std::net::SocketAddr::try_from(address).ok())?;
    if !listens || address.port() != port {
        return None;
    }
    // libtorch closes it with the store; children of this process must not keep the port open.
    fcntl_setfd(fd, FdFlags::CLOEXEC).ok()?;
    let owned = fcntl_dupfd_cloexec(fd, 3).ok()?;
    Some(std::os::fd::IntoRawFd::into_raw_fd(owned))
}

/// The pipe for events.
pub(crate) fn event_pipe() -> Option<OwnedFd> {
    let number = number_in(env::EVENT_FD)?;
    let fd = borrow(number)?;
    if FileType::from_raw_mode(fstat(fd).ok()?.st_mode) != FileType::Fifo {
        return None;
    }
    fcntl_setfd(fd, FdFlags::CLOEXEC).ok()?;
    // A launcher that does not keep up must not stall the training.
    fcntl_setfl(fd, OFlags::NONBLOCK).ok()?;
    fcntl_dupfd_cloexec(fd, 3).ok()
}

/// Sees that the variables hold numbers.
///
/// # Errors
/// [`Error::BadVariable`](crate::Error::BadVariable).
pub(crate) fn check() -> crate::Result<()> {
    [env::STORE_FD, env::EVENT_FD].into_iter().try_for_each(|name| variables::number::<RawFd>(name).map(drop))
}

fn number_in(variable: &str) -> Option<RawFd> {
    std::env::var(variable).ok()?.parse().ok().filter(|fd| *fd > 2)
}

/// The descriptor with this number, if it is open: the launcher opened it for this process before it began, so nobody
/// here closes it.
fn borrow(number: RawFd) -> Option<BorrowedFd<'static>> {
    // SAFETY: F_GETFD only asks; a number that is no open descriptor gives EBADF.
    let fd = unsafe { BorrowedFd::borrow_raw(number) };
    rustix::io::fcntl_getfd(fd).is_ok().then_some(fd)
}
