//! The C ABI of `csrc/ddp.h`, item by item.
#![allow(non_camel_case_types, missing_docs, reason = "these are C's names; their docs are in the header")]

mod backends;
mod collectives;
pub(crate) mod convert;
mod cuda;
mod group;
mod optim;
mod reducer;
mod tensor;

use std::ffi::c_char;

pub(crate) use backends::*;
pub(crate) use collectives::*;
pub(crate) use cuda::*;
pub(crate) use group::*;
pub(crate) use optim::*;
pub(crate) use reducer::*;
pub(crate) use tensor::*;
pub(crate) use torch_sys::C_tensor;

pub(crate) const DDP_OK: i32 = 0;
pub(crate) const DDP_ERROR: i32 = 1;
pub(crate) const DDP_TIMEOUT: i32 = 2;
pub(crate) const DDP_UNUSED: i32 = 3;

#[repr(C)]
pub(crate) struct ddp_error {
    pub message: *mut c_char,
}

unsafe extern "C" {
    pub(crate) fn ddp_error_clear(error: *mut ddp_error);
    pub(crate) fn ddp_error_fill(error: *mut ddp_error, message: *const c_char);
}
