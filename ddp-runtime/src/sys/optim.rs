//! `optim.cpp`, `clip.cpp` and `amp.cpp`: optimizer steps.

use super::{C_tensor, ddp_error};

/// `ddp_device_type`
pub(crate) const DDP_CPU: i32 = 0;
pub(crate) const DDP_CUDA: i32 = 1;

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
    /// [`DDP_CPU`] or [`DDP_CUDA`].
    pub device: i32,
    /// c10::ScalarType.
    pub dtype: i32,
    pub enabled: bool,
    pub cache_enabled: bool,
}

unsafe extern "C" {
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
}
