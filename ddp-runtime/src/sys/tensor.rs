//! `tensor.cpp`, `batch_norm.cpp` and `debug.cpp`.

use super::group::ddp_group;
use super::{C_tensor, ddp_error};

/// `ddp_form`; `DDP_COMPUTED` is the rest.
pub(crate) const DDP_ORDINARY: i32 = 0;
pub(crate) const DDP_UNDEFINED: i32 = 1;
pub(crate) const DDP_SPARSE: i32 = 2;
pub(crate) const DDP_QUANTIZED: i32 = 3;
pub(crate) const DDP_META: i32 = 4;

#[repr(C)]
pub(crate) struct ddp_batch_norm {
    pub weight: *const C_tensor,
    pub bias: *const C_tensor,
    pub running_mean: *const C_tensor,
    pub running_var: *const C_tensor,
    pub momentum: f64,
    pub eps: f64,
}

unsafe extern "C" {
    pub(crate) fn ddp_sync_batch_norm(
        group: *mut ddp_group,
        input: *const C_tensor,
        norm: *const ddp_batch_norm,
        out: *mut *mut C_tensor,
        error: *mut ddp_error,
    ) -> i32;
    pub(crate) fn ddp_rng_state(cuda_device: i32, out: *mut *mut C_tensor, error: *mut ddp_error) -> i32;
    pub(crate) fn ddp_set_rng_state(cuda_device: i32, state: *const C_tensor, error: *mut ddp_error) -> i32;
    pub(crate) fn ddp_tensor_id(tensor: *const C_tensor) -> usize;
    pub(crate) fn ddp_tensor_form(tensor: *const C_tensor) -> i32;
    pub(crate) fn ddp_find_requires_grad(tensors: *const *mut C_tensor, n: usize, requires_grad: bool) -> i64;
    pub(crate) fn ddp_pin_memory(tensor: *const C_tensor, out: *mut *mut C_tensor, error: *mut ddp_error) -> i32;
    pub(crate) fn ddp_randperm(n: i64, seed: u64, out: *mut i64, error: *mut ddp_error) -> i32;
    /// Read by debuggers, never here.
    pub(crate) static ddp_debug_tensor_layout: u8;
}
