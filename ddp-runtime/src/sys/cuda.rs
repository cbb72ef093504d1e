//! `cuda.cpp` and `side_stream.cpp`: GPUs.

use super::{C_tensor, ddp_error};

#[repr(C)]
pub(crate) struct ddp_side_stream {
    _private: [u8; 0],
}

#[repr(C)]
pub(crate) struct ddp_copies {
    _private: [u8; 0],
}

#[repr(C)]
#[derive(Default)]
pub(crate) struct ddp_cuda_memory_stats {
    pub allocated_bytes: u64,
    pub peak_allocated_bytes: u64,
    pub reserved_bytes: u64,
    pub peak_reserved_bytes: u64,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct ddp_stream {
    pub id: i64,
    pub device: i32,
}

#[repr(C)]
#[derive(Debug, Default)]
pub(crate) struct ddp_stream_scope {
    pub previous: ddp_stream,
    pub device: i32,
}

#[repr(C)]
pub(crate) struct ddp_event {
    _private: [u8; 0],
}

unsafe extern "C" {
    pub(crate) fn ddp_cuda_synchronize(device: i32, error: *mut ddp_error) -> i32;
    pub(crate) fn ddp_cuda_memory(device: i32, out: *mut ddp_cuda_memory_stats, error: *mut ddp_error) -> i32;
    pub(crate) fn ddp_cuda_reset_peak_memory(device: i32, error: *mut ddp_error) -> i32;
    pub(crate) fn ddp_cuda_set_sync_debug_mode(mode: i32, error: *mut ddp_error) -> i32;
    pub(crate) fn ddp_cuda_empty_cache(error: *mut ddp_error) -> i32;
    pub(crate) fn ddp_stream_new(device: i32, high_priority: bool, out: *mut ddp_stream, error: *mut ddp_error) -> i32;
    pub(crate) fn ddp_stream_current(device: i32, out: *mut ddp_stream, error: *mut ddp_error) -> i32;
    pub(crate) fn ddp_stream_enter(stream: *const ddp_stream, out: *mut ddp_stream_scope, error: *mut ddp_error)
    -> i32;
    pub(crate) fn ddp_stream_exit(scope: *const ddp_stream_scope, error: *mut ddp_error) -> i32;
    pub(crate) fn ddp_stream_query(stream: *const ddp_stream, out: *mut bool, error: *mut ddp_error) -> i32;
    pub(crate) fn ddp_stream_synchronize(stream: *const ddp_stream, error: *mut ddp_error) -> i32;
    pub(crate) fn ddp_stream_record(stream: *const ddp_stream, tensor: *mut C_tensor, error: *mut ddp_error) -> i32;
    pub(crate) fn ddp_event_new(timing: bool, out: *mut *mut ddp_event, error: *mut ddp_error) -> i32;
    pub(crate) fn ddp_event_free(event: *mut ddp_event);
    pub(crate) fn ddp_event_record(event: *mut ddp_event, stream: *const ddp_stream, error: *mut ddp_error) -> i32;
    pub(crate) fn ddp_event_block(event: *const ddp_event, stream: *const ddp_stream, error: *mut ddp_error) -> i32;
    pub(crate) fn ddp_event_query(event: *const ddp_event, out: *mut bool, error: *mut ddp_error) -> i32;
    pub(crate) fn ddp_event_synchronize(event: *const ddp_event, error: *mut ddp_error) -> i32;
    pub(crate) fn ddp_event_elapsed_ms(
        start: *const ddp_event,
        end: *const ddp_event,
        out: *mut f64,
        error: *mut ddp_error,
    ) -> i32;
    pub(crate) fn ddp_side_stream_new(cuda_device: i32, out: *mut *mut ddp_side_stream, error: *mut ddp_error) -> i32;
    pub(crate) fn ddp_side_stream_free(stream: *mut ddp_side_stream);
    pub(crate) fn ddp_side_stream_to_device(
        stream: *mut ddp_side_stream,
        from: *const C_tensor,
        out: *mut *mut C_tensor,
        error: *mut ddp_error,
    ) -> i32;
    pub(crate) fn ddp_side_stream_to_host(
        stream: *mut ddp_side_stream,
        from: *const C_tensor,
        to: *mut C_tensor,
        error: *mut ddp_error,
    ) -> i32;
    pub(crate) fn ddp_side_stream_end(
        stream: *mut ddp_side_stream,
        out: *mut *mut ddp_copies,
        error: *mut ddp_error,
    ) -> i32;
    pub(crate) fn ddp_copies_arrive(copies: *const ddp_copies, error: *mut ddp_error) -> i32;
    pub(crate) fn ddp_copies_are_done(copies: *const ddp_copies) -> bool;
    pub(crate) fn ddp_copies_wait(copies: *const ddp_copies, error: *mut ddp_error) -> i32;
    pub(crate) fn ddp_copies_free(copies: *mut ddp_copies);
    pub(crate) fn ddp_pinned_bytes(bytes: i64, out: *mut *mut C_tensor, error: *mut ddp_error) -> i32;
}
