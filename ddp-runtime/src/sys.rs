//! The C ABI of `csrc/ddp.h`, item by item.
#![allow(non_camel_case_types, missing_docs, reason = "these are C's names; their docs are in the header")]

use std::ffi::{c_char, c_int, c_void};

pub(crate) use torch_sys::C_tensor;

pub(crate) const DDP_OK: i32 = 0;
pub(crate) const DDP_ERROR: i32 = 1;
pub(crate) const DDP_TIMEOUT: i32 = 2;
pub(crate) const DDP_UNUSED: i32 = 3;

/// `ddp_group_state`
pub(crate) const DDP_GROUP_TIMED_OUT: i32 = 1;
pub(crate) const DDP_GROUP_BROKEN: i32 = 2;
pub(crate) const DDP_GROUP_NOT_CONNECTED: i32 = 3;

#[repr(C)]
pub(crate) struct ddp_error {
    pub message: *mut c_char,
}

#[repr(C)]
pub(crate) struct ddp_store {
    _private: [u8; 0],
}

#[repr(C)]
pub(crate) struct ddp_group {
    _private: [u8; 0],
}

#[repr(C)]
pub(crate) struct ddp_work {
    _private: [u8; 0],
}

#[repr(C)]
pub(crate) struct ddp_reducer {
    _private: [u8; 0],
}

#[repr(C)]
pub(crate) struct ddp_side_stream {
    _private: [u8; 0],
}

#[repr(C)]
pub(crate) struct ddp_copies {
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

#[repr(C)]
pub(crate) struct ddp_p2p_op {
    pub tensor: *mut C_tensor,
    pub peer: i32,
    pub is_send: bool,
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

#[repr(C)]
pub(crate) struct ddp_sgd_options {
    pub lr: f64,
    pub momentum: f64,
    pub dampening: f64,
    pub weight_decay: f64,
    pub nesterov: bool,
    pub maximize: bool,
}

#[repr(C)]
pub(crate) struct ddp_adam_options {
    pub lr: f64,
    pub beta1: f64,
    pub beta2: f64,
    pub eps: f64,
    pub weight_decay: f64,
    pub amsgrad: bool,
    pub maximize: bool,
    pub decoupled: bool,
}

#[repr(C)]
pub(crate) struct ddp_scaling {
    pub grad_scale: *const C_tensor,
    pub found_inf: *const C_tensor,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ddp_autocast_state {
    /// 0: CPU, 1: CUDA.
    pub device: i32,
    /// c10::ScalarType.
    pub dtype: i32,
    pub enabled: bool,
    pub cache_enabled: bool,
}

#[repr(C)]
pub(crate) struct ddp_batch_norm {
    pub weight: *const C_tensor,
    pub bias: *const C_tensor,
    pub running_mean: *const C_tensor,
    pub running_var: *const C_tensor,
    pub momentum: f64,
    pub eps: f64,
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
    pub(crate) fn ddp_error_clear(error: *mut ddp_error);
    pub(crate) fn ddp_error_fill(error: *mut ddp_error, message: *const c_char);

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

    pub(crate) fn ddp_sgd_step(
        parameters: *const *mut C_tensor,
        momentum_buffers: *mut *mut C_tensor,
        n: usize,
        options: *const ddp_sgd_options,
        scaling: *const ddp_scaling,
        error: *mut ddp_error,
    ) -> i32;
    pub(crate) fn ddp_adam_step(
        parameters: *const *mut C_tensor,
        exp_avgs: *mut *mut C_tensor,
        exp_avg_sqs: *mut *mut C_tensor,
        max_exp_avg_sqs: *mut *mut C_tensor,
        steps: *mut *mut C_tensor,
        n: usize,
        options: *const ddp_adam_options,
        scaling: *const ddp_scaling,
        error: *mut ddp_error,
    ) -> i32;
    pub(crate) fn ddp_zero_grad(
        parameters: *const *mut C_tensor,
        n: usize,
        set_to_none: bool,
        error: *mut ddp_error,
    ) -> i32;

    pub(crate) fn ddp_grad_norm(
        parameters: *const *mut C_tensor,
        n: usize,
        norm_type: f64,
        out: *mut *mut C_tensor,
        error: *mut ddp_error,
    ) -> i32;
    pub(crate) fn ddp_clip_grad_norm(
        parameters: *const *mut C_tensor,
        n: usize,
        max_norm: f64,
        norm_type: f64,
        out: *mut *mut C_tensor,
        error: *mut ddp_error,
    ) -> i32;
    pub(crate) fn ddp_clip_grad_value(
        parameters: *const *mut C_tensor,
        n: usize,
        clip_value: f64,
        error: *mut ddp_error,
    ) -> i32;

    pub(crate) fn ddp_autocast_enter(
        state: *const ddp_autocast_state,
        previous: *mut ddp_autocast_state,
        error: *mut ddp_error,
    ) -> i32;
    pub(crate) fn ddp_autocast_exit(previous: *const ddp_autocast_state, error: *mut ddp_error) -> i32;
    pub(crate) fn ddp_unscale(
        parameters: *const *mut C_tensor,
        n: usize,
        found_inf: *mut C_tensor,
        inverse_scale: *const C_tensor,
        allow_half: bool,
        error: *mut ddp_error,
    ) -> i32;

    pub(crate) fn ddp_sync_batch_norm(
        group: *mut ddp_group,
        input: *const C_tensor,
        norm: *const ddp_batch_norm,
        out: *mut *mut C_tensor,
        error: *mut ddp_error,
    ) -> i32;

    pub(crate) fn ddp_set_backend_flag(flag: i32, value: bool, error: *mut ddp_error) -> i32;
    pub(crate) fn ddp_get_backend_flag(flag: i32, out: *mut bool, error: *mut ddp_error) -> i32;
    pub(crate) fn ddp_set_matmul_precision(precision: i32, error: *mut ddp_error) -> i32;
    pub(crate) fn ddp_get_matmul_precision(out: *mut i32, error: *mut ddp_error) -> i32;
    pub(crate) fn ddp_set_deterministic(enabled: bool, warn_only: bool, error: *mut ddp_error) -> i32;
    pub(crate) fn ddp_get_deterministic(enabled: *mut bool, warn_only: *mut bool, error: *mut ddp_error) -> i32;

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
