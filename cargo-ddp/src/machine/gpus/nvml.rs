//! What the driver says about the machine's GPUs.

use nvml_wrapper::Nvml;
use nvml_wrapper::enums::device::UsedGpuMemory;

use super::gpu::{Gpu, Memory, User};
use crate::os::{pci, proc};
use crate::{Error, Result};

/// Whether an NVIDIA driver is loaded.
pub fn driver_present() -> bool {
    Nvml::init().is_ok()
}

/// The GPUs that the driver knows. Properties that the driver does not report are left out.
///
/// # Errors
/// [`Error::NoDriver`].
pub fn list() -> Result<Vec<Gpu>> {
    list_or_problem().map_err(Error::NoDriver)
}

/// As [`list`], with the problem as text.
pub(crate) fn list_or_problem() -> Result<Vec<Gpu>, String> {
    let nvml = Nvml::init().map_err(|err| format!("can't load the NVIDIA driver ({err})"))?;
    let count = nvml.device_count().map_err(|err| format!("the NVIDIA driver does not list its GPUs ({err})"))?;
    Ok((0..count).map(|index| describe(&nvml, index)).collect())
}

fn describe(nvml: &Nvml, index: u32) -> Gpu {
    let Ok(device) = nvml.device_by_index(index) else { return Gpu { index, ..Gpu::default() } };
    let instances = device.mig_device_count().unwrap_or(0);
    let mig = (0..instances).filter_map(|i| device.mig_device_by_index(i).ok()?.uuid().ok());
    let users = device.running_compute_processes().unwrap_or_default().into_iter().map(|process| User {
        pid: process.pid,
        program: proc::name(process.pid),
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
        numa_node: device.pci_info().ok().and_then(|pci| pci::numa_node(&pci.bus_id)),
    }
}
