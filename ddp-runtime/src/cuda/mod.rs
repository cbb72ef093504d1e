//! GPUs as `torch.cuda` has them: streams, events, memory.
//!
//! Where libtorch has no CUDA, or no GPU is visible, each call is an [`Error::Torch`]; [`Error::Invalid`] for
//! a device that is not a GPU. So a program that also runs on the CPU asks first:
//!
//! ```
//! use ddp_runtime::{Context, cuda};
//!
//! # fn main() -> ddp_runtime::Result<()> {
//! let context = Context::init()?;
//! if context.device().is_cuda() {
//!     cuda::reset_peak_memory_stats(context.device())?;
//!     // ... some steps ...
//!     let peak = cuda::memory_stats(context.device())?.peak_allocated_bytes;
//!     println!("peak: {} MiB", peak >> 20);
//! }
//! # Ok(())
//! # }
//! ```

mod event;
mod memory;
pub(crate) mod side_stream;
mod stream;
mod sync;
#[cfg(test)]
mod tests;

use tch::Device;

use crate::error::check;
use crate::sys::convert::to_i32;
use crate::{Error, Result, sys};

pub use event::Event;
pub use memory::{MemoryStats, empty_cache, memory_stats, reset_peak_memory_stats};
pub use stream::{Priority, Stream, current_stream, with_stream};
pub use sync::{SyncDebugMode, set_sync_debug_mode};

/// Waits until the GPU has done everything that it was given, in all streams (`torch.cuda.synchronize`).
///
/// Call it before reading a clock, not in a training loop: it leaves the GPU without work.
///
/// # Errors
/// See [the module](self); also an error of a kernel that ran before.
pub fn synchronize(device: Device) -> Result<()> {
    let index = index_of(device)?;
    // SAFETY: a number and an error slot.
    check("waiting for the GPU", |error| unsafe { sys::ddp_cuda_synchronize(index, error) })
}

fn index_of(device: Device) -> Result<i32> {
    match device {
        Device::Cuda(index) => Ok(to_i32(index)),
        other => Err(Error::Invalid(format!("{other:?} is not a GPU: expected Device::Cuda"))),
    }
}
