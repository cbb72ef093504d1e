//! `reducer.cpp` and `hook.cpp`: gradients that are averaged while backward runs.

use std::ffi::{c_char, c_void};

use super::group::ddp_group;
use super::{C_tensor, ddp_error};

#[repr(C)]
pub(crate) struct ddp_reducer {
    _private: [u8; 0],
}

#[repr(C)]
pub(crate) struct ddp_reducer_options {
    pub bucket_cap_bytes: i64,
    pub first_bucket_bytes: i64,
    pub find_unused_parameters: bool,
    pub gradient_as_bucket_view: bool,
    pub static_graph: bool,
    pub broadcast_buffers: bool,
    pub comm_hook: i32,
    pub batched_grad_copy: bool,
}

#[repr(C)]
pub(crate) struct ddp_reducer_tensors {
    pub parameters: *const *mut C_tensor,
    pub names: *const *const c_char,
    pub n_parameters: usize,
    pub frozen: *const *mut C_tensor,
    pub n_frozen: usize,
    pub buffers: *const *mut C_tensor,
    pub n_buffers: usize,
}

#[repr(C)]
pub(crate) struct ddp_grad_bucket {
    pub index: usize,
    pub is_last: bool,
    pub buffer: *mut C_tensor,
    pub gradients: *const *mut C_tensor,
    pub parameters: *const *mut C_tensor,
    pub n: usize,
}

#[repr(C)]
pub(crate) struct ddp_comm_hook_callbacks {
    pub context: *mut c_void,
    pub run: unsafe extern "C" fn(
        context: *mut c_void,
        bucket: *const ddp_grad_bucket,
        pending: *mut *mut c_void,
        error: *mut ddp_error,
    ) -> i32,
    pub finish: unsafe extern "C" fn(pending: *mut c_void, out: *mut *mut C_tensor, error: *mut ddp_error) -> i32,
    pub drop_pending: unsafe extern "C" fn(pending: *mut c_void),
    pub drop_context: unsafe extern "C" fn(context: *mut c_void),
}

unsafe extern "C" {
    pub(crate) fn ddp_reducer_new(
        group: *mut ddp_group,
        tensors: *const ddp_reducer_tensors,
        options: *const ddp_reducer_options,
        out: *mut *mut ddp_reducer,
        error: *mut ddp_error,
    ) -> i32;
    pub(crate) fn ddp_reducer_free(reducer: *mut ddp_reducer);
    pub(crate) fn ddp_reducer_before_forward(reducer: *mut ddp_reducer, sync: bool, error: *mut ddp_error) -> i32;
    pub(crate) fn ddp_reducer_after_forward(
        reducer: *mut ddp_reducer,
        sync: bool,
        output: *mut C_tensor,
        out: *mut *mut C_tensor,
        error: *mut ddp_error,
    ) -> i32;
    pub(crate) fn ddp_reducer_join_begin(
        reducer: *mut ddp_reducer,
        divide_by_initial_world_size: bool,
        error: *mut ddp_error,
    ) -> i32;
    pub(crate) fn ddp_reducer_join_end(reducer: *mut ddp_reducer, shadow: bool, error: *mut ddp_error) -> i32;
    pub(crate) fn ddp_reducer_logging_data(
        reducer: *mut ddp_reducer,
        take: unsafe extern "C" fn(context: *mut c_void, name: *const c_char, value: *const c_char),
        context: *mut c_void,
        error: *mut ddp_error,
    ) -> i32;
    pub(crate) fn ddp_reducer_bucket_order(reducer: *const ddp_reducer, order: *mut usize, n: usize) -> bool;
    pub(crate) fn ddp_reducer_set_bucket_order(reducer: *mut ddp_reducer, order: *const usize, n: usize);
    pub(crate) fn ddp_reducer_find_lost(reducer: *const ddp_reducer, index: usize) -> i64;
    pub(crate) fn ddp_reducer_backward(
        reducer: *mut ddp_reducer,
        sync: bool,
        loss: *mut C_tensor,
        error: *mut ddp_error,
    ) -> i32;
    pub(crate) fn ddp_reducer_register_comm_hook(
        reducer: *mut ddp_reducer,
        callbacks: *const ddp_comm_hook_callbacks,
        error: *mut ddp_error,
    ) -> i32;
    pub(crate) fn ddp_fill_randn(tensors: *const *mut C_tensor, n: usize, seed: u64, error: *mut ddp_error) -> i32;
}
