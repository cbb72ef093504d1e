//! Copies to and from a GPU while it computes.

use std::ptr::NonNull;

use tch::{Device, Tensor};

use crate::error::check;
use crate::sys::convert::to_i32;
use crate::{Error, Result, sys};

/// A stream of a GPU for copies, next to the one that computes. Each copy starts after the work that the calling thread has
/// given the GPU so far. Nothing here waits for the GPU but [`Copies::wait`].
#[derive(Debug)]
pub(crate) struct SideStream(NonNull<sys::ddp_side_stream>);

// SAFETY: it may be used and freed by another thread than the one that made it.
unsafe impl Send for SideStream {}

impl SideStream {
    /// A stream of the GPU `device`.
    pub(crate) fn new(device: Device) -> Result<Self> {
        let Device::Cuda(index) = device else { return Err(Error::Invalid(format!("{device:?} has no streams"))) };
        let mut raw = std::ptr::null_mut();
        // SAFETY: `raw` is written on success only.
        check("creating a stream", |error| unsafe { sys::ddp_side_stream_new(to_i32(index), &mut raw, error) })?;
        Ok(Self(NonNull::new(raw).expect("a stream that was made is not null")))
    }

    /// A copy on the GPU of a tensor in pinned memory. [`Copies::arrive`] must come before its use and its end.
    pub(crate) fn to_device(&self, from: &Tensor) -> Result<Tensor> {
        let mut to = std::ptr::null_mut();
        // SAFETY: both are live; `to` is written on success only.
        check("copying a batch to its device", |error| unsafe {
            sys::ddp_side_stream_to_device(self.0.as_ptr(), from.as_ptr(), &mut to, error)
        })?;
        // SAFETY: the call made this tensor for its caller, and nobody else has it.
        Ok(unsafe { Tensor::from_ptr(to) })
    }

    /// Copies a tensor of the GPU to one of the same size in pinned memory, which has its content after [`Copies::wait`].
    pub(crate) fn to_host(&self, from: &Tensor, to: &mut Tensor) -> Result<()> {
        // SAFETY: all are live; libtorch keeps the memory of both until the copy is done, or their streams wait for it.
        check("copying a tensor for a snapshot", |error| unsafe {
            sys::ddp_side_stream_to_host(self.0.as_ptr(), from.as_ptr(), to.as_mut_ptr(), error)
        })
    }

    /// All copies so far.
    pub(crate) fn end(&self) -> Result<Copies> {
        let mut raw = std::ptr::null_mut();
        // SAFETY: the stream is live; `raw` is written on success only.
        check("recording an event", |error| unsafe { sys::ddp_side_stream_end(self.0.as_ptr(), &mut raw, error) })?;
        Ok(Copies(NonNull::new(raw).expect("an event that was made is not null")))
    }
}

impl Drop for SideStream {
    fn drop(&mut self) {
        // SAFETY: `raw` came from `ddp_side_stream_new`; only `drop` frees it.
        unsafe { sys::ddp_side_stream_free(self.0.as_ptr()) }
    }
}

/// Copies that may be under way.
#[derive(Debug)]
pub(crate) struct Copies(NonNull<sys::ddp_copies>);

// SAFETY: it may be used and freed by another thread than the one that made it.
unsafe impl Send for Copies {}

impl Copies {
    /// Makes the stream that was computing when they began wait for them. The calling thread continues.
    pub(crate) fn arrive(&self) -> Result<()> {
        // SAFETY: it is live.
        check("waiting for a copy", |error| unsafe { sys::ddp_copies_arrive(self.0.as_ptr(), error) })
    }

    /// Whether they are done. (A GPU that is lost is never done.)
    pub(crate) fn are_done(&self) -> bool {
        // SAFETY: it is live.
        unsafe { sys::ddp_copies_are_done(self.0.as_ptr()) }
    }

    /// Waits until they are done.
    pub(crate) fn wait(&self) -> Result<()> {
        // SAFETY: it is live.
        check("waiting for a copy", |error| unsafe { sys::ddp_copies_wait(self.0.as_ptr(), error) })
    }
}

impl Drop for Copies {
    fn drop(&mut self) {
        // SAFETY: `raw` came from `ddp_side_stream_end`; only `drop` frees it.
        unsafe { sys::ddp_copies_free(self.0.as_ptr()) }
    }
}

/// Page-locked memory, which a GPU copies to and from without the CPU: uninitialized bytes.
pub(crate) fn pinned_bytes(bytes: i64) -> Result<Tensor> {
    let mut raw = std::ptr::null_mut();
    // SAFETY: `raw` is written on success only.
    check("allocating pinned memory", |error| unsafe { sys::ddp_pinned_bytes(bytes, &mut raw, error) })?;
    // SAFETY: the call made this tensor for its caller, and nobody else has it.
    Ok(unsafe { Tensor::from_ptr(raw) })
}

/// Makes `device` the calling thread's, if it is a GPU: pinned memory belongs to the current one, and in a new thread
/// that is GPU 0.
pub(crate) fn use_gpu(device: Option<Device>) -> Result<()> {
    let Some(Device::Cuda(index)) = device else { return Ok(()) };
    // SAFETY: plain numbers.
    check("choosing a GPU", |error| unsafe { sys::ddp_set_cuda_device(to_i32(index), error) })
}
