//! Memory of this computer for large tensors.

use tch::{Device, Kind, TchError, Tensor};

const HUGE_PAGE: usize = 2 << 20;

/// A CPU tensor without content, on large pages where the system grants them: the first write to new memory spends most
/// of its time on getting its pages one by one.
pub(crate) fn empty(size: &[i64], kind: Kind) -> Result<Tensor, TchError> {
    let tensor = Tensor::f_empty(size, (kind, Device::Cpu))?;
    let start = tensor.data_ptr() as usize;
    let end = start + tensor.numel() * kind.elt_size_in_bytes();
    let (from, to) = (start.next_multiple_of(HUGE_PAGE), end - end % HUGE_PAGE);
    if from < to {
        // SAFETY: whole pages of the tensor's own memory; the advice changes nothing in them, and may be refused.
        unsafe { libc::madvise(from as *mut libc::c_void, to - from, libc::MADV_HUGEPAGE) };
    }
    Ok(tensor)
}
