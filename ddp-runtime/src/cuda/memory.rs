//! Memory statistics of a GPU: `torch.cuda.memory_stats`.

use tch::Device;

use super::index_of;
use crate::error::check;
use crate::{Result, sys};

/// Memory of one GPU that this process uses, in bytes (`torch.cuda.memory_stats`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct MemoryStats {
    /// In tensors now (`memory_allocated`).
    pub allocated_bytes: u64,
    /// In tensors at most, since the start or [`reset_peak_memory_stats`] (`max_memory_allocated`).
    pub peak_allocated_bytes: u64,
    /// Held by libtorch's allocator now, for tensors and for reuse (`memory_reserved`).
    pub reserved_bytes: u64,
    /// Held by the allocator at most (`max_memory_reserved`).
    pub peak_reserved_bytes: u64,
}

/// Reads the allocator's counters. The GPU is not waited for.
///
/// # Errors
/// See [the module](super).
pub fn memory_stats(device: Device) -> Result<MemoryStats> {
    let index = index_of(device)?;
    let mut raw = sys::ddp_cuda_memory_stats::default();
    // SAFETY: `raw` is written on success only.
    check("reading GPU memory statistics", |error| unsafe { sys::ddp_cuda_memory(index, &mut raw, error) })?;
    Ok(MemoryStats {
        allocated_bytes: raw.allocated_bytes,
        peak_allocated_bytes: raw.peak_allocated_bytes,
        reserved_bytes: raw.reserved_bytes,
        peak_reserved_bytes: raw.peak_reserved_bytes,
    })
}

/// Resets the peaks in [`MemoryStats`] to the memory that is in use now.
///
/// # Errors
/// See [the module](super).
pub fn reset_peak_memory_stats(device: Device) -> Result<()> {
    let index = index_of(device)?;
    // SAFETY: a number and an error slot.
    check("resetting GPU memory statistics", |error| unsafe { sys::ddp_cuda_reset_peak_memory(index, error) })
}

/// Gives memory that is reserved, and not in a tensor, back to the driver, for other processes (`torch.cuda.empty_cache`).
///
/// It makes no room for this process, whose next allocations are slower.
///
/// # Errors
/// See [the module](super).
pub fn empty_cache() -> Result<()> {
    // SAFETY: an error slot only.
    check("emptying the GPU's cache", |error| unsafe { sys::ddp_cuda_empty_cache(error) })
}
