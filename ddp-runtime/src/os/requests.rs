//! Requests of other programs to this process, over an abstract Unix socket: its name is in no file system, and is free again
//! when the process ends.

use std::io;
use std::os::linux::fs::MetadataExt;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::sockopt::socket_peercred;
use rustix::net::{SendFlags, send};
use rustix::process::geteuid;

/// How long a program may take to read an answer.
const PATIENCE: Duration = Duration::from_secs(1);

/// Listens for requests. Nothing waits for one.
pub(crate) fn listen(name: &str) -> io::Result<UnixListener> {
    let listener = UnixListener::bind_addr(&SocketAddr::from_abstract_name(name)?)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// The requests of this user, and of root, that have arrived.
pub(crate) fn take(listener: &UnixListener) -> Vec<UnixStream> {
    let is_trusted =
        |stream: &UnixStream| socket_peercred(stream).is_ok_and(|peer| peer.uid == geteuid() || peer.uid.is_root());
    std::iter::from_fn(|| listener.accept().ok()).map(|(stream, _)| stream).filter(is_trusted).collect()
}

/// Answers a request. A program that is gone, or does not read, gets no answer.
pub(crate) fn answer(request: UnixStream, answer: &[u8]) {
    let mut left = answer;
    if request.set_write_timeout(Some(PATIENCE)).is_err() {
        return;
    }
    while !left.is_empty() {
        match send(&request, left, SendFlags::NOSIGNAL) {
            Ok(sent) => left = &left[sent..],
            Err(Errno::INTR) => {}
            Err(_) => return,
        }
    }
}

/// A number that only processes with the same process ids as this one have.
pub(crate) fn pid_namespace() -> u64 {
    std::fs::metadata("/proc/self/ns/pid").map_or(0, |namespace| namespace.st_ino())
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn requests_are_answered_and_the_name_is_free_afterwards() {
        let name = format!("cargo-ddp/test/{}/{:?}", std::process::id(), std::thread::current().id());
        let ask = || UnixStream::connect_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        let listener = listen(&name).unwrap();
        assert!(take(&listener).is_empty() && listen(&name).is_err());
        let (gone, mut waiting) = (ask(), ask());
        drop(gone);
        let requests = take(&listener);
        assert_eq!(requests.len(), 2);
        requests.into_iter().for_each(|request| answer(request, b"42"));
        let mut text = String::new();
        waiting.read_to_string(&mut text).unwrap();
        assert_eq!(text, "42");
        drop(listener);
        listen(&name).unwrap();
    }
}
