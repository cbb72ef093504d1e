//! The port where the ranks of an attempt meet.

use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::launch::plan::StorePort;
use crate::{Error, Result};

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
    pub(crate) fn remote(number: u16) -> Self {
        Self { number, listener: None, _reserved: None }
    }

    pub(crate) fn number(&self) -> u16 {
        self.number
    }

    pub(crate) fn listener(&self) -> Option<BorrowedFd<'_>> {
        self.listener.as_ref().map(AsFd::as_fd)
    }

    /// All workers are started: rank 0 has inherited the socket.
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

#[cfg(test)]
mod tests {
    use std::io;
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
