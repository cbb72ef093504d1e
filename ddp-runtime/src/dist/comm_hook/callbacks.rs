//! Hooks as the callbacks that `csrc/hook.cpp` takes.

use std::collections::HashMap;
use std::ffi::{CString, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};

use tch::{Device, Kind, Tensor};

use super::{GradBucket, HookWork};
use crate::dist::{in_hook, params};
use crate::error::check;
use crate::worker::panics::caught;
use crate::{Error, Result, sys};

/// What [`Ddp::register_comm_hook`](crate::Ddp::register_comm_hook) takes.
type Hook = Box<dyn FnMut(GradBucket) -> Result<HookWork> + Send>;

/// The error of a hook, on its way around C++ to who called backward.
#[derive(Clone, Debug, Default)]
pub(crate) struct Failure(Arc<Mutex<Option<Error>>>);

impl Failure {
    /// The hook's error if it is the reason of `err`.
    pub(crate) fn or(&self, err: Error) -> Error {
        self.take().unwrap_or(err)
    }

    /// Removes an error that nobody asked for, as when backward was called without [`Ddp`](crate::Ddp).
    pub(crate) fn take(&self) -> Option<Error> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Stores `err` here, and its message in `slot`.
    fn set(&self, err: Error, slot: *mut sys::ddp_error) -> i32 {
        let message = CString::new(err.to_string().replace('\0', " ")).unwrap_or_default();
        // SAFETY: `slot` is the live slot of the callback that fails, and the call copies the message.
        unsafe { sys::ddp_error_fill(slot, message.as_ptr()) };
        // The first failure is the cause.
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(err);
        sys::DDP_ERROR
    }
}

/// Runs a part of a hook; its panic is an error.
fn running<T>(part: impl FnOnce() -> Result<T>) -> Result<T> {
    in_hook::run(|| caught(part))
}

struct Context {
    hook: Mutex<Hook>,
    /// By the identity of the parameter.
    names: HashMap<usize, String>,
    failure: Failure,
}

struct Pending {
    work: HookWork,
    /// The bucket's buffer, whose place the result takes.
    buffer: Tensor,
    failure: Failure,
}

/// Registers `hook` with the reducer of these parameters.
///
/// # Safety
/// `reducer` is live, and no other thread uses it.
pub(crate) unsafe fn register(
    reducer: *mut sys::ddp_reducer,
    parameters: &[(String, Tensor)],
    failure: Failure,
    hook: Hook,
) -> Result<()> {
    let names = parameters.iter().map(|(name, tensor)| (params::id(tensor), name.clone())).collect();
    let context = Box::new(Context { hook: Mutex::new(hook), names, failure });
    let callbacks = sys::ddp_comm_hook_callbacks {
        context: Box::into_raw(context).cast(),
        run,
        finish,
        drop_pending,
        drop_context,
    };
    // SAFETY: `reducer` is as promised. The call copies the callbacks, and owns the context from now on.
    check("registering a communication hook", |error| unsafe {
        sys::ddp_reducer_register_comm_hook(reducer, &callbacks, error)
    })
}

unsafe extern "C" fn run(
    context: *mut c_void,
    bucket: *const sys::ddp_grad_bucket,
    pending: *mut *mut c_void,
    error: *mut sys::ddp_error,
) -> i32 {
    // SAFETY: the context that `register` made lives until `drop_context`, and is only borrowed by calls.
    let context = unsafe { &*context.cast::<Context>() };
    let started = running(|| {
        // SAFETY: the bucket lives for this call.
        let bucket = unsafe { &*bucket };
        // SAFETY: so do the tensors that it points to, `n` of each kind.
        let bucket = unsafe { bucket_of(bucket, &context.names) };
        let buffer = bucket.buffer.shallow_clone();
        let mut hook = context.hook.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(Pending { work: hook(bucket)?, buffer, failure: context.failure.clone() })
    });
    match started {
        Ok(work) => {
            // SAFETY: `pending` is the caller's slot for it.
            unsafe { *pending = Box::into_raw(Box::new(work)).cast() };
            sys::DDP_OK
        }
        Err(err) => context.failure.set(err, error),
    }
}

unsafe extern "C" fn finish(pending: *mut c_void, out: *mut *mut sys::C_tensor, error: *mut sys::ddp_error) -> i32 {
    // SAFETY: `run` made it, and it comes here or to `drop_pending`, once.
    let Pending { work, buffer, failure } = *unsafe { Box::from_raw(pending.cast::<Pending>()) };
    match running(|| (work.finish)().and_then(|result| check_result(result, &buffer))) {
        Ok(mut result) => {
            let raw = result.as_mut_ptr();
            std::mem::forget(result);
            // SAFETY: `out` is the caller's slot for it, which owns the tensor from now on.
            unsafe { *out = raw };
            sys::DDP_OK
        }
        Err(err) => failure.set(err, error),
    }
}

unsafe extern "C" fn drop_pending(pending: *mut c_void) {
    // SAFETY: as in `finish`.
    drop_quietly(unsafe { Box::from_raw(pending.cast::<Pending>()) });
}

unsafe extern "C" fn drop_context(context: *mut c_void) {
    // SAFETY: `register` made it, and this is its last use.
    drop_quietly(unsafe { Box::from_raw(context.cast::<Context>()) });
}

/// A panic in a closure's destructor must not reach C++; the panic hook has printed it.
fn drop_quietly<T>(value: Box<T>) {
    let _ = catch_unwind(AssertUnwindSafe(|| drop(value)));
}

/// # Safety
/// All pointers in `raw` are of live tensors, `n` of each kind.
unsafe fn bucket_of(raw: &sys::ddp_grad_bucket, names: &HashMap<usize, String>) -> GradBucket {
    // SAFETY: as promised; the copy keeps its own reference.
    let clone = |tensor| unsafe { Tensor::clone_from_ptr(tensor) };
    // SAFETY: as promised.
    let list = |list| unsafe { std::slice::from_raw_parts(list, raw.n) }.iter().map(|&tensor| clone(tensor)).collect();
    let (gradients, parameters): (Vec<Tensor>, Vec<Tensor>) = (list(raw.gradients), list(raw.parameters));
    let name = |parameter| names.get(&params::id(parameter)).cloned().unwrap_or_default();
    let names = parameters.iter().map(name).collect();
    GradBucket { index: raw.index, is_last: raw.is_last, buffer: clone(raw.buffer), gradients, parameters, names }
}

/// The reducer takes views of the result, without a look at its size.
fn check_result(result: Tensor, buffer: &Tensor) -> Result<Tensor> {
    let properties = |tensor: &Tensor| (tensor.numel(), tensor.kind(), tensor.device(), tensor.is_contiguous());
    let expected = properties(buffer);
    let found = result.defined().then(|| properties(&result));
    if found == Some(expected) {
        return Ok(result);
    }
    let found = found.map_or_else(|| "an undefined tensor".to_owned(), describe);
    Err(Error::Invalid(format!("the communication hook returned {found}, expected {}", describe(expected))))
}

fn describe((numel, kind, device, is_contiguous): (usize, Kind, Device, bool)) -> String {
    let layout = if is_contiguous { "" } else { ", not contiguous" };
    format!("{numel} elements of {kind:?} on {device:?}{layout}")
}
