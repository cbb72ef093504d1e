//! `Work`: a collective in flight.

use std::ptr::NonNull;
use std::time::Duration;

use tracing::trace;

use crate::error::check;
use crate::sys::convert::milliseconds;
use crate::{Result, sys};

/// An operation between ranks that has been started, and its future result.
///
/// Until [`wait`](Work::wait) has returned, the tensors in it must be left alone: what they hold is not settled. Dropped
/// without a wait, the operation continues, and its errors are lost.
#[derive(Debug)]
#[must_use = "the result is there, and an error is seen, only after `wait`"]
pub struct Work<T = ()> {
    handle: Handle,
    operation: &'static str,
    value: T,
}

#[derive(Debug)]
struct Handle(NonNull<sys::ddp_work>);

// SAFETY: c10d's works are waited for from any thread; the handle is used by one at a time (it is not Sync).
unsafe impl Send for Handle {}

impl Drop for Handle {
    fn drop(&mut self) {
        // SAFETY: it came from `Work::start`; only `drop` frees it.
        unsafe { sys::ddp_work_free(self.0.as_ptr()) }
    }
}

impl<T> Work<T> {
    /// Starts an operation: `start` writes the work on success.
    pub(crate) fn start(
        operation: &'static str,
        value: T,
        start: impl FnOnce(*mut *mut sys::ddp_work, *mut sys::ddp_error) -> i32,
    ) -> Result<Self> {
        trace!(operation, "collective starts");
        let mut raw = std::ptr::null_mut();
        check(operation, |error| start(&mut raw, error))?;
        let handle = Handle(NonNull::new(raw).expect("a work that was started is not null"));
        Ok(Self { handle, operation, value })
    }

    /// Waits for the end, at most for the group's time-out.
    ///
    /// On CUDA it returns when the current stream is made to wait, as PyTorch's does.
    ///
    /// # Errors
    /// [`Error::Torch`](crate::Error::Torch) when a rank is gone, [`Error::Timeout`](crate::Error::Timeout).
    pub fn wait(self) -> Result<T> {
        self.wait_ms(0)
    }

    /// As [`wait`](Work::wait), for at most `timeout`.
    ///
    /// # Errors
    /// As [`wait`](Work::wait).
    pub fn wait_timeout(self, timeout: Duration) -> Result<T> {
        self.wait_ms(milliseconds(timeout).max(1))
    }

    /// Whether the operation has ended, well or not.
    pub fn is_completed(&self) -> bool {
        // SAFETY: the handle is live until `drop`.
        unsafe { sys::ddp_work_is_completed(self.handle.0.as_ptr()) }
    }

    fn wait_ms(self, timeout_ms: i64) -> Result<T> {
        let raw = self.handle.0.as_ptr();
        // SAFETY: the handle is live until `drop`.
        check(self.operation, |error| unsafe { sys::ddp_work_wait(raw, timeout_ms, error) })?;
        Ok(self.value)
    }
}
