//! `backends.cpp`: settings of libtorch for the entire process.

use super::ddp_error;

unsafe extern "C" {
    pub(crate) fn ddp_set_backend_flag(flag: i32, value: bool, error: *mut ddp_error) -> i32;
    pub(crate) fn ddp_get_backend_flag(flag: i32, out: *mut bool, error: *mut ddp_error) -> i32;
    pub(crate) fn ddp_set_matmul_precision(precision: i32, error: *mut ddp_error) -> i32;
    pub(crate) fn ddp_get_matmul_precision(out: *mut i32, error: *mut ddp_error) -> i32;
    pub(crate) fn ddp_set_deterministic(enabled: bool, warn_only: bool, error: *mut ddp_error) -> i32;
    pub(crate) fn ddp_get_deterministic(enabled: *mut bool, warn_only: *mut bool, error: *mut ddp_error) -> i32;
}
