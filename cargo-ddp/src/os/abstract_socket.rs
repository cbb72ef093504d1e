//! Unix sockets whose names are in no file system.

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixStream};

use rustix::net::sockopt::socket_peercred;
use rustix::process::geteuid;

/// Connects to a process of this user that listens there.
pub(crate) fn connect(name: &str) -> io::Result<UnixStream> {
    let stream = UnixStream::connect_addr(&SocketAddr::from_abstract_name(name)?)?;
    // Every user can take every name.
    if socket_peercred(&stream)?.uid == geteuid() { Ok(stream) } else { Err(io::ErrorKind::PermissionDenied.into()) }
}
