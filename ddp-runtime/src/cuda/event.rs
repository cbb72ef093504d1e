//! CUDA events: `torch.cuda.Event`.

use std::ptr::NonNull;

use super::Stream;
use crate::error::check;
use crate::{Result, sys};

/// A mark in a stream's work, for other streams to wait for, and to take times with (`torch.cuda.Event`).
///
/// ```no_run
/// # use tch::Device;
/// use ddp_runtime::cuda::{Event, current_stream};
///
/// # fn main() -> ddp_runtime::Result<()> {
/// let stream = current_stream(Device::Cuda(0))?;
/// let (mut start, mut end) = (Event::with_timing()?, Event::with_timing()?);
/// start.record(&stream)?;
/// // ... operators ...
/// end.record(&stream)?;
/// end.synchronize()?;
/// println!("{:.3} ms on the GPU", start.elapsed_ms(&end)?);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Event(NonNull<sys::ddp_event>);

// SAFETY: c10's events may be used from any thread, by one at a time (it is not Sync).
unsafe impl Send for Event {}

impl Event {
    /// An event that takes no times, which is cheaper.
    ///
    /// # Errors
    /// See [the module](super).
    pub fn new() -> Result<Self> {
        Self::create(false)
    }

    /// An event for [`elapsed_ms`](Self::elapsed_ms) (`enable_timing=True`).
    ///
    /// # Errors
    /// See [the module](super).
    pub fn with_timing() -> Result<Self> {
        Self::create(true)
    }

    fn create(timing: bool) -> Result<Self> {
        let mut raw = std::ptr::null_mut();
        // SAFETY: `raw` is written on success only.
        check("creating a CUDA event", |error| unsafe { sys::ddp_event_new(timing, &mut raw, error) })?;
        Ok(Self(NonNull::new(raw).expect("an event that was made is not null")))
    }

    /// Marks the end of what the stream was given until now. A second call replaces the mark.
    ///
    /// # Errors
    /// [`Error::Torch`](crate::Error::Torch) for a stream of another GPU than the first one's, and from CUDA.
    pub fn record(&mut self, stream: &Stream) -> Result<()> {
        // SAFETY: both are live for the call, and nobody else uses the event.
        check("recording a CUDA event", |error| unsafe { sys::ddp_event_record(self.0.as_ptr(), &stream.0, error) })
    }

    /// Whether the GPU has reached the mark; true for an event that was never recorded (`query`).
    ///
    /// # Errors
    /// [`Error::Torch`](crate::Error::Torch) from CUDA.
    pub fn is_done(&self) -> Result<bool> {
        let mut done = false;
        // SAFETY: the event is live; `done` is written on success only.
        check("querying a CUDA event", |error| unsafe { sys::ddp_event_query(self.0.as_ptr(), &mut done, error) })?;
        Ok(done)
    }

    /// Waits until the GPU has reached the mark.
    ///
    /// # Errors
    /// [`Error::Torch`](crate::Error::Torch) from CUDA, also of a kernel that ran before.
    pub fn synchronize(&self) -> Result<()> {
        // SAFETY: the event is live.
        check("waiting for a CUDA event", |error| unsafe { sys::ddp_event_synchronize(self.0.as_ptr(), error) })
    }

    /// Milliseconds on the GPU from this event to `end` (`elapsed_time`).
    ///
    /// # Errors
    /// [`Error::Torch`](crate::Error::Torch) unless both were made [with timing](Self::with_timing), were recorded, and are
    /// done: [`synchronize`](Self::synchronize) `end` first.
    pub fn elapsed_ms(&self, end: &Event) -> Result<f64> {
        let mut elapsed = 0.0;
        // SAFETY: both events are live; `elapsed` is written on success only.
        check("reading the time between CUDA events", |error| unsafe {
            sys::ddp_event_elapsed_ms(self.0.as_ptr(), end.0.as_ptr(), &mut elapsed, error)
        })?;
        Ok(elapsed)
    }
}

/// What orders the work of streams.
impl Stream {
    /// Makes work that this stream gets from now on wait for the event. The calling thread does not wait.
    ///
    /// An event that was never recorded is not waited for.
    ///
    /// # Errors
    /// [`Error::Torch`](crate::Error::Torch) from CUDA.
    pub fn wait_event(&self, event: &Event) -> Result<()> {
        // SAFETY: both are live for the call.
        check("waiting for a CUDA event", |error| unsafe { sys::ddp_event_block(event.0.as_ptr(), &self.0, error) })
    }

    /// Makes work that this stream gets from now on wait for what `other` was given until now. The calling thread does not
    /// wait.
    ///
    /// # Errors
    /// [`Error::Torch`](crate::Error::Torch) from CUDA.
    pub fn wait_stream(&self, other: &Stream) -> Result<()> {
        let mut event = Event::new()?;
        event.record(other)?;
        self.wait_event(&event)
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: it came from `ddp_event_new`; only `drop` frees it.
        unsafe { sys::ddp_event_free(self.0.as_ptr()) }
    }
}
