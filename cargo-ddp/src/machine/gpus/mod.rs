//! The machine's GPUs, through NVML, the driver's own interface. A missing driver is an answer, not a failure.

mod select;

use std::fs;

use nvml_wrapper::Nvml;
use nvml_wrapper::enums::device::UsedGpuMemory;
use serde::Serialize;

pub use select::{available, count, select};

use crate::{Error, Result};

/// A GPU that the driver knows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Gpu {
    /// Its number, in the order of the PCI bus, as in `nvidia-smi`.
    pub index: u32,
    /// As the driver calls it.
    pub name: Option<String>,
    /// `GPU-…`.
    pub uuid: Option<String>,
    /// `MIG-…` of each of its instances, if it is divided.
    pub mig: Vec<String>,
    /// In bytes.
    pub memory: Option<Memory>,
    /// Processes that compute on it.
    pub users: Vec<User>,
    /// The NUMA node that it is attached to.
    pub numa_node: Option<u32>,
}

/// A GPU's memory, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Memory {
    /// All of it.
    pub total: u64,
    /// In use, by whomever.
    pub used: u64,
}

/// A process that computes on a GPU.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct User {
    /// Its process.
    pub pid: u32,
    /// The program, as the kernel names it.
    pub program: Option<String>,
    /// GPU memory in bytes, where the driver says.
    pub memory: Option<u64>,
}

/// Memory that is in use on a GPU that nobody uses: the driver's own.
const IDLE_MEMORY: u64 = 512 << 20;

impl Gpu {
    /// Who has it, in words, if anybody does.
    pub fn busy(&self) -> Option<String> {
        let used = self.memory.filter(|memory| memory.used > IDLE_MEMORY);
        if self.users.is_empty() && used.is_none() {
            return None;
        }
        let memory =
            self.memory.map(|Memory { total, used }| format!("{} of {} in use", gigabytes(used), gigabytes(total)));
        let users: Vec<_> = self
            .users
            .iter()
            .map(|user| format!("{} (pid {})", user.program.as_deref().unwrap_or("a program"), user.pid))
            .collect();
        let by = if users.is_empty() { String::new() } else { format!(", by {}", users.join(", ")) };
        Some(memory.unwrap_or_else(|| "it is in use".into()) + &by)
    }
}

/// `1.5 GB`.
pub fn gigabytes(bytes: u64) -> String {
    format!("{:.1} GB", bytes as f64 / 1e9)
}

/// Whether an NVIDIA driver is loaded.
pub fn driver_present() -> bool {
    Nvml::init().is_ok()
}

/// The GPUs that the driver knows. What it doesn't tell of one is left out.
///
/// # Errors
/// [`Error::NoDriver`].
pub fn list() -> Result<Vec<Gpu>> {
    list_or_problem().map_err(Error::NoDriver)
}

/// As [`list`], with the problem as text.
pub(crate) fn list_or_problem() -> Result<Vec<Gpu>, String> {
    let nvml = Nvml::init().map_err(|err| format!("no NVIDIA driver answers ({err})"))?;
    let count = nvml.device_count().map_err(|err| format!("the NVIDIA driver does not list them ({err})"))?;
    Ok((0..count).map(|index| describe(&nvml, index)).collect())
}

fn describe(nvml: &Nvml, index: u32) -> Gpu {
    let Ok(device) = nvml.device_by_index(index) else { return Gpu { index, ..Gpu::default() } };
    let instances = device.mig_device_count().unwrap_or(0);
    let mig = (0..instances).filter_map(|i| device.mig_device_by_index(i).ok()?.uuid().ok());
    let users = device.running_compute_processes().unwrap_or_default().into_iter().map(|process| User {
        pid: process.pid,
        program: fs::read_to_string(format!("/proc/{}/comm", process.pid)).ok().map(|name| name.trim().to_owned()),
        memory: match process.used_gpu_memory {
            UsedGpuMemory::Used(bytes) => Some(bytes),
            UsedGpuMemory::Unavailable => None,
        },
    });
    let memory = device.memory_info().ok().map(|memory| Memory { total: memory.total, used: memory.used });
    Gpu {
        index,
        name: device.name().ok(),
        uuid: device.uuid().ok(),
        mig: mig.collect(),
        memory,
        users: users.collect(),
        numa_node: device.pci_info().ok().and_then(|pci| numa_node(&pci.bus_id)),
    }
}

/// The kernel's answer for a PCI device (`00000000:3B:00.0`).
fn numa_node(bus_id: &str) -> Option<u32> {
    let (domain, rest) = bus_id.split_once(':')?;
    let domain = &domain[domain.len().saturating_sub(4)..];
    let path = format!("/sys/bus/pci/devices/{domain}:{rest}/numa_node").to_lowercase();
    // -1 where there is one node only.
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gpu_is_busy_with_users_or_with_much_memory() {
        let memory = |used| Some(Memory { total: 80_000_000_000, used });
        assert_eq!(Gpu { memory: memory(3 << 20), ..Gpu::default() }.busy(), None);
        let words = Gpu { memory: memory(10_200_000_000), ..Gpu::default() }.busy();
        assert_eq!(words.as_deref(), Some("10.2 GB of 80.0 GB in use"));
        let users = vec![User { pid: 7, program: Some("python3".into()), memory: None }];
        let words = Gpu { users, ..Gpu::default() }.busy();
        assert_eq!(words.as_deref(), Some("it is in use, by python3 (pid 7)"));
    }
}
