//! Memory: of this computer for large tensors, and how much is in use.

use tch::{Device, Kind, TchError, Tensor};

use crate::cuda;
use crate::os;
pub(crate) use crate::os::memory::resident_bytes;

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
        os::memory::use_large_pages(from, to); // whole pages of the tensor's own memory
    }
}

/// Memory that this worker uses: on its GPU, or as a process.
pub(crate) fn in_use(device: Device) -> Option<u64> {
    cuda_bytes(device).or_else(resident_bytes)
}

/// Memory that libtorch has reserved on this GPU (`torch.cuda.memory_reserved`).
pub(crate) fn cuda_bytes(device: Device) -> Option<u64> {
    // Anything else would be an error, with a C++ exception and a message, at each step.
    if !device.is_cuda() {
        return None;
    }
    cuda::memory_stats(device).ok().map(|stats| stats.reserved_bytes)
}
