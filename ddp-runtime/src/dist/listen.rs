//! Where rank 0's store listens: libtorch's own socket would be open on every network of the machine.

use std::net::{IpAddr, TcpListener};

use crate::dist::world::Master;
use crate::os::fd::{IntoRawFd, RawFd};

/// A socket at `MASTER_ADDR` alone, if that is an address of this machine or `localhost`.
///
/// A name is left to libtorch: a machine's own name often resolves to its loopback address there, and nowhere else.
pub(crate) fn where_ranks_look(master: &Master) -> Option<RawFd> {
    let is_clear = master.addr == "localhost" || master.addr.parse::<IpAddr>().is_ok_and(|addr| !addr.is_unspecified());
    // A port that is taken is libtorch's to report.
    let listener = is_clear.then(|| TcpListener::bind((master.addr.as_str(), master.port)).ok()).flatten()?;
    // libtorch closes it with the store.
    Some(listener.into_raw_fd())
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;
    use std::os::fd::{FromRawFd, OwnedFd};

    use super::*;

    fn listen(addr: &str) -> Option<TcpListener> {
        let fd = where_ranks_look(&Master { addr: addr.into(), port: 0, agent_store: false })?;
        // SAFETY: the socket was made for this test, and nobody else has it.
        Some(TcpListener::from(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    #[test]
    fn store_listens_at_its_address_alone() {
        for addr in ["127.0.0.1", "localhost"] {
            let listener = listen(addr).unwrap();
            let at = listener.local_addr().unwrap();
            assert!(at.ip().is_loopback(), "{at}");
            TcpStream::connect(at).unwrap();
        }
        for unclear in ["0.0.0.0", "::", "203.0.113.7", "node-0.example"] {
            assert!(listen(unclear).is_none(), "{unclear}");
        }
    }
}
