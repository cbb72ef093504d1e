//! The PCI bus, as the kernel lists it in /sys.

use std::fs;

/// The folder with a folder for each device.
pub(crate) const DEVICES: &str = "/sys/bus/pci/devices";

/// The NUMA node that a device is attached to, by its address (`00000000:3B:00.0`). `None` where there is one node only.
pub(crate) fn numa_node(bus_id: &str) -> Option<u32> {
    let (domain, rest) = bus_id.split_once(':')?;
    let domain = &domain[domain.len().saturating_sub(4)..];
    let path = format!("{DEVICES}/{}/numa_node", format!("{domain}:{rest}").to_lowercase());
    // -1 where there is one node only.
    fs::read_to_string(path).ok()?.trim().parse().ok()
}
