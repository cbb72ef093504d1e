//! Memory: of this computer for large tensors, and how much is in use.

use tch::{Device, Kind, TchError, Tensor};

use crate::cuda;

const HUGE_PAGE: usize = 2 << 20;

/// A CPU tensor without content, on large pages where the system grants them: the first write to new memory spends most
/// of its time on getting its pages one by one.
pub(crate) fn empty(size: &[i64], kind: Kind) -> Result<Tensor, TchError> {
    Tensor::f_empty(size, (kind, Device::Cpu)).inspect(use_large_pages)
}

/// A tensor without content on the device of `tensor`, with its dtype and, if it is dense, its strides. On the CPU as
/// [`empty`].
pub(crate) fn empty_like(tensor: &Tensor) -> Result<Tensor, TchError> {
    tensor.f_empty_like().inspect(use_large_pages)
}

fn use_large_pages(tensor: &Tensor) {
    if tensor.device() != Device::Cpu {
        return;
    }
    let start = tensor.data_ptr() as usize;
    let end = start + tensor.numel() * tensor.kind().elt_size_in_bytes();
    let (from, to) = (start.next_multiple_of(HUGE_PAGE), end - end % HUGE_PAGE);
    if from < to {
        // SAFETY: whole pages of the tensor's own memory; the advice changes nothing in them, and may be refused.
        unsafe { libc::madvise(from as *mut libc::c_void, to - from, libc::MADV_HUGEPAGE) };
    }
}

/// Memory that this worker uses: on its GPU, or as a process.
pub(crate) fn in_use(device: Device) -> Option<u64> {
    cuda_bytes(device).or_else(resident_bytes)
}

/// Memory of this process that is in RAM.
pub(crate) fn resident_bytes() -> Option<u64> {
    let pages = std::fs::read_to_string("/proc/self/statm").ok()?;
    Some(pages.split(' ').nth(1)?.parse::<u64>().ok()? * rustix::param::page_size() as u64)
}

/// Memory that libtorch has reserved on this GPU (`torch.cuda.memory_reserved`).
pub(crate) fn cuda_bytes(device: Device) -> Option<u64> {
    // Anything else would be an error, with a C++ exception and a message, at each step.
    if !device.is_cuda() {
        return None;
    }
    cuda::memory_stats(device).ok().map(|stats| stats.reserved_bytes)
}
