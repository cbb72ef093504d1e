//! `collectives.cpp`: what ranks do together.

use super::group::ddp_group;
use super::{C_tensor, ddp_error};

#[repr(C)]
pub(crate) struct ddp_work {
    _private: [u8; 0],
}

#[repr(C)]
pub(crate) struct ddp_p2p_op {
    pub tensor: *mut C_tensor,
    pub peer: i32,
    pub is_send: bool,
}

unsafe extern "C" {
    pub(crate) fn ddp_all_reduce(
        group: *mut ddp_group,
        tensor: *mut C_tensor,
        op: i32,
        is_async: bool,
        out: *mut *mut ddp_work,
        error: *mut ddp_error,
    ) -> i32;
    pub(crate) fn ddp_reduce(
        group: *mut ddp_group,
        tensor: *mut C_tensor,
        dst: i32,
        op: i32,
        is_async: bool,
        out: *mut *mut ddp_work,
        error: *mut ddp_error,
    ) -> i32;
    pub(crate) fn ddp_broadcast(
        group: *mut ddp_group,
        tensor: *mut C_tensor,
        src: i32,
        is_async: bool,
        out: *mut *mut ddp_work,
        error: *mut ddp_error,
    ) -> i32;
    pub(crate) fn ddp_all_gather(
        group: *mut ddp_group,
        outputs: *const *mut C_tensor,
        input: *mut C_tensor,
        is_async: bool,
        out: *mut *mut ddp_work,
        error: *mut ddp_error,
    ) -> i32;
    pub(crate) fn ddp_all_gather_into(
        group: *mut ddp_group,
        output: *mut C_tensor,
        input: *mut C_tensor,
        is_async: bool,
        out: *mut *mut ddp_work,
        error: *mut ddp_error,
    ) -> i32;
    pub(crate) fn ddp_gather(
        group: *mut ddp_group,
        outputs: *const *mut C_tensor,
        input: *mut C_tensor,
        dst: i32,
        is_async: bool,
        out: *mut *mut ddp_work,
        error: *mut ddp_error,
    ) -> i32;
    pub(crate) fn ddp_scatter(
        group: *mut ddp_group,
        output: *mut C_tensor,
        inputs: *const *mut C_tensor,
        src: i32,
        is_async: bool,
        out: *mut *mut ddp_work,
        error: *mut ddp_error,
    ) -> i32;
    pub(crate) fn ddp_reduce_scatter(
        group: *mut ddp_group,
        output: *mut C_tensor,
        inputs: *const *mut C_tensor,
        op: i32,
        is_async: bool,
        out: *mut *mut ddp_work,
        error: *mut ddp_error,
    ) -> i32;
    pub(crate) fn ddp_all_to_all(
        group: *mut ddp_group,
        outputs: *const *mut C_tensor,
        inputs: *const *mut C_tensor,
        is_async: bool,
        out: *mut *mut ddp_work,
        error: *mut ddp_error,
    ) -> i32;
    pub(crate) fn ddp_send(
        group: *mut ddp_group,
        tensor: *mut C_tensor,
        dst: i32,
        tag: i32,
        out: *mut *mut ddp_work,
        error: *mut ddp_error,
    ) -> i32;
    pub(crate) fn ddp_recv(
        group: *mut ddp_group,
        tensor: *mut C_tensor,
        src: i32,
        tag: i32,
        out: *mut *mut ddp_work,
        error: *mut ddp_error,
    ) -> i32;
    pub(crate) fn ddp_batch_send_recv(
        group: *mut ddp_group,
        ops: *const ddp_p2p_op,
        n: usize,
        out: *mut *mut ddp_work,
        error: *mut ddp_error,
    ) -> i32;
    pub(crate) fn ddp_broadcast_coalesced(
        group: *mut ddp_group,
        tensors: *const *mut C_tensor,
        n: usize,
        src: i32,
        error: *mut ddp_error,
    ) -> i32;
    pub(crate) fn ddp_barrier(
        group: *mut ddp_group,
        is_async: bool,
        out: *mut *mut ddp_work,
        error: *mut ddp_error,
    ) -> i32;
    pub(crate) fn ddp_monitored_barrier(group: *mut ddp_group, timeout_ms: i64, error: *mut ddp_error) -> i32;
    pub(crate) fn ddp_work_wait(work: *mut ddp_work, timeout_ms: i64, error: *mut ddp_error) -> i32;
    pub(crate) fn ddp_work_is_completed(work: *mut ddp_work) -> bool;
    pub(crate) fn ddp_work_free(work: *mut ddp_work);
}
