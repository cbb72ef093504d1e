//! Warnings or errors for operations that wait for a GPU: `torch.cuda.set_sync_debug_mode`.

use crate::Result;
use crate::error::check;
use crate::sys;

/// What an operation does that makes the CPU wait for a GPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SyncDebugMode {
    /// It waits.
    #[default]
    Off = 0,
    /// It waits, with a warning on stderr.
    Warn = 1,
    /// It is an error.
    Error = 2,
}

/// Finds what makes the CPU wait for a GPU, such as reading a loss in the training loop (`torch.cuda.set_sync_debug_mode`). It
/// holds for the entire process. PyTorch does not notice all such operations.
///
/// # Errors
/// See [the module](super); also with DDP_WITHOUT_NCCL.
pub fn set_sync_debug_mode(mode: SyncDebugMode) -> Result<()> {
    // SAFETY: a plain number.
    check("setting the sync debug mode", |error| unsafe { sys::ddp_cuda_set_sync_debug_mode(mode as i32, error) })
}
