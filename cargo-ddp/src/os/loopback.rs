//! The loopback address of this machine.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};

/// This machine's address for itself: 127.0.0.1, or ::1 on a host without IPv4.
pub(crate) fn address() -> IpAddr {
    let both = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
    both.into_iter().find(|address| UdpSocket::bind((*address, 0)).is_ok()).unwrap_or(both[0])
}
