//! The machine's network interfaces.

use std::net::{IpAddr, SocketAddr};

/// An address of a network interface. An interface has one entry for each of its addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Interface {
    pub(crate) name: String,
    /// The kernel's number of the interface, which tells link-local addresses apart.
    pub(crate) index: u32,
    pub(crate) address: IpAddr,
}

/// The name of the interface that has this address.
pub(crate) fn with_address(interfaces: &[Interface], address: SocketAddr) -> Option<&str> {
    // The same link-local address may be on several interfaces.
    let scope = if let SocketAddr::V6(v6) = address { v6.scope_id() } else { 0 };
    let is_it = |it: &&Interface| it.address == address.ip() && (scope == 0 || it.index == scope);
    interfaces.iter().find(is_it).map(|interface| interface.name.as_str())
}

/// All addresses of all interfaces, in the kernel's order. Empty if the kernel does not list them.
pub(crate) fn list() -> Vec<Interface> {
    let mut list = std::ptr::null_mut();
    // SAFETY: on success `list` points to a list that is freed below.
    if unsafe { libc::getifaddrs(&raw mut list) } != 0 {
        return vec![];
    }
    let mut found = vec![];
    let mut entry = list;
    while !entry.is_null() {
        // SAFETY: an entry of the list, which lives until it is freed.
        let interface = unsafe { &*entry };
        // SAFETY: null, or a socket address of the kind that its family tells.
        let address = unsafe { socket_address(interface.ifa_addr) };
        // SAFETY: every entry has a name that ends with a zero.
        let name = unsafe { std::ffi::CStr::from_ptr(interface.ifa_name) };
        // SAFETY: `name` ends with a zero.
        let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
        let name = name.to_string_lossy().into_owned();
        found.extend(address.map(|address| Interface { name, index, address }));
        entry = interface.ifa_next;
    }
    // SAFETY: it came from getifaddrs, and nothing of it is used any more.
    unsafe { libc::freeifaddrs(list) };
    found
}

/// # Safety
/// `address` is null or points to a socket address of the kind that its family tells.
unsafe fn socket_address(address: *const libc::sockaddr) -> Option<IpAddr> {
    if address.is_null() {
        return None;
    }
    // SAFETY: every socket address begins with its family.
    match i32::from(unsafe { (*address).sa_family }) {
        libc::AF_INET => {
            // SAFETY: the family says so.
            let v4 = unsafe { &*address.cast::<libc::sockaddr_in>() };
            Some(IpAddr::V4(u32::from_be(v4.sin_addr.s_addr).into()))
        }
        libc::AF_INET6 => {
            // SAFETY: the family says so.
            let v6 = unsafe { &*address.cast::<libc::sockaddr_in6>() };
            Some(IpAddr::V6(v6.sin6_addr.s6_addr.into()))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr, SocketAddrV6};

    use super::*;

    #[test]
    fn interfaces_include_the_loopback_interface() {
        let list = list();
        let interface = |address: IpAddr| with_address(&list, (address, 0).into());
        assert_eq!(interface(Ipv4Addr::LOCALHOST.into()), Some("lo"));
        assert_eq!(interface(Ipv4Addr::new(203, 0, 113, 7).into()), None);
    }

    #[test]
    fn interface_of_a_link_local_address_is_found_by_its_scope() {
        let address: Ipv6Addr = "fe80::1".parse().unwrap();
        let interface = |name: &str, index| Interface { name: name.into(), index, address: address.into() };
        let list = [interface("eth0", 2), interface("eth1", 3)];
        let with_scope = |scope| with_address(&list, SocketAddrV6::new(address, 0, 0, scope).into());
        assert_eq!([with_scope(0), with_scope(3), with_scope(4)], [Some("eth0"), Some("eth1"), None]);
    }
}
