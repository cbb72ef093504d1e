//! `store.cpp` and `group.cpp`: where ranks meet, and process groups.

use std::ffi::{c_char, c_int};

use super::ddp_error;

/// `ddp_group_state`
pub(crate) const DDP_GROUP_TIMED_OUT: i32 = 1;
pub(crate) const DDP_GROUP_BROKEN: i32 = 2;
pub(crate) const DDP_GROUP_NOT_CONNECTED: i32 = 3;

#[repr(C)]
pub(crate) struct ddp_store {
    _private: [u8; 0],
}

#[repr(C)]
pub(crate) struct ddp_group {
    _private: [u8; 0],
}

#[repr(C)]
pub(crate) struct ddp_tcp_store_options {
    pub host: *const c_char,
    pub prefix: *const c_char,
    pub timeout_ms: i64,
    pub world_size: i32,
    pub port: u16,
    pub is_server: bool,
    pub listen_fd: c_int,
}

#[repr(C)]
pub(crate) struct ddp_group_options {
    pub backend: i32,
    pub rank: i32,
    pub world_size: i32,
    pub timeout_ms: i64,
    pub gloo_host: *const c_char,
    pub cuda_device: i32,
    pub high_priority_stream: bool,
    pub eager_init: bool,
    pub split_from: *const ddp_group,
    pub split_color: i32,
    pub name: *const c_char,
    pub description: *const c_char,
    pub global_ranks: *const u64,
}

unsafe extern "C" {
    pub(crate) fn ddp_store_tcp(
        options: *const ddp_tcp_store_options,
        out: *mut *mut ddp_store,
        error: *mut ddp_error,
    ) -> i32;
    pub(crate) fn ddp_store_local(out: *mut *mut ddp_store, error: *mut ddp_error) -> i32;
    pub(crate) fn ddp_store_prefixed(
        store: *const ddp_store,
        prefix: *const c_char,
        out: *mut *mut ddp_store,
        error: *mut ddp_error,
    ) -> i32;
    pub(crate) fn ddp_store_free(store: *mut ddp_store);
    pub(crate) fn ddp_has_nccl() -> bool;
    pub(crate) fn ddp_set_cuda_device(index: i32, error: *mut ddp_error) -> i32;
    pub(crate) fn ddp_group_new(
        store: *const ddp_store,
        options: *const ddp_group_options,
        out: *mut *mut ddp_group,
        error: *mut ddp_error,
    ) -> i32;
    pub(crate) fn ddp_group_split_none(parent: *const ddp_group, error: *mut ddp_error) -> i32;
    pub(crate) fn ddp_group_get_state(group: *const ddp_group, timeout_ms: i64) -> i32;
    pub(crate) fn ddp_group_shutdown(group: *const ddp_group, timeout_ms: i64, error: *mut ddp_error) -> i32;
    pub(crate) fn ddp_group_abort(group: *const ddp_group);
    pub(crate) fn ddp_group_free(group: *mut ddp_group);
    pub(crate) fn ddp_dump_collectives(rank: i32, error: *mut ddp_error) -> i32;
}
