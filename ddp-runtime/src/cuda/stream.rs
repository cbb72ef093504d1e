//! CUDA streams: `torch.cuda.Stream`.

use tch::{Device, Tensor};

use super::index_of;
use crate::error::check;
use crate::{Result, sys};

/// A queue of work on a GPU (`torch.cuda.Stream`). Work in one stream runs in order; work in two streams may overlap.
///
/// A copy is the same stream. Streams come from a pool of 32 per GPU and priority, so that many calls give some of them
/// again.
///
/// Operators run in the thread's [current stream](current_stream). For a tensor that one stream writes and another one reads,
/// [`wait_event`](Self::wait_event) or [`wait_stream`](Self::wait_stream) orders the two. If the tensor may be dropped while
/// the other stream still uses it, call [`record_stream`](Self::record_stream).
///
/// ```no_run
/// # use tch::{Device, Kind, Tensor};
/// use ddp_runtime::cuda::{Event, Stream, current_stream, with_stream};
///
/// # fn main() -> ddp_runtime::Result<()> {
/// let device = Device::Cuda(0);
/// let (main, side) = (current_stream(device)?, Stream::new(device)?);
/// let x = Tensor::ones([1024, 1024], (Kind::Float, device));
/// side.wait_stream(&main)?; // `x` is written in `main`
/// let y = with_stream(&side, || x.matmul(&x))?;
/// // ... other work in `main` ...
/// main.wait_stream(&side)?; // `y` is written in `side`
/// main.record_stream(&y)?; // and its memory belongs to `side`
/// let z = y + 1;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Stream(pub(super) sys::ddp_stream);

/// Which streams' work a GPU starts first when there is a choice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Priority {
    /// The default.
    #[default]
    Normal,
    /// Before the work of normal streams that waits.
    High,
}

impl Stream {
    /// A stream of normal priority.
    ///
    /// # Errors
    /// See [the module](super).
    pub fn new(device: Device) -> Result<Self> {
        Self::with_priority(device, Priority::Normal)
    }

    /// A stream of this priority.
    ///
    /// # Errors
    /// See [the module](super).
    pub fn with_priority(device: Device, priority: Priority) -> Result<Self> {
        let index = index_of(device)?;
        let mut raw = sys::ddp_stream::default();
        // SAFETY: `raw` is written on success only.
        check("creating a CUDA stream", |error| unsafe {
            sys::ddp_stream_new(index, priority == Priority::High, &mut raw, error)
        })?;
        Ok(Self(raw))
    }

    /// The GPU that the stream is of.
    pub fn device(&self) -> Device {
        Device::Cuda(usize::try_from(self.0.device).unwrap_or_default())
    }

    /// Keeps the tensor's memory, once the tensor is dropped, from being used again before this stream has done what it was
    /// given until then (`Tensor.record_stream`).
    ///
    /// # Errors
    /// [`Error::Torch`](crate::Error::Torch) for a tensor that is not on a GPU.
    pub fn record_stream(&self, tensor: &Tensor) -> Result<()> {
        let tensor = tensor.as_ptr().cast_mut();
        // SAFETY: both are live for the call, which changes the allocator's books only.
        check("recording a stream", |error| unsafe { sys::ddp_stream_record(&self.0, tensor, error) })
    }

    /// Whether the stream has done everything that it was given (`query`).
    ///
    /// # Errors
    /// [`Error::Torch`](crate::Error::Torch) from CUDA.
    pub fn is_idle(&self) -> Result<bool> {
        let mut idle = false;
        // SAFETY: `idle` is written on success only.
        check("querying a CUDA stream", |error| unsafe { sys::ddp_stream_query(&self.0, &mut idle, error) })?;
        Ok(idle)
    }

    /// Waits until the stream has done everything that it was given.
    ///
    /// # Errors
    /// [`Error::Torch`](crate::Error::Torch) from CUDA, also of a kernel that ran before.
    pub fn synchronize(&self) -> Result<()> {
        // SAFETY: the stream is live for the call.
        check("waiting for a CUDA stream", |error| unsafe { sys::ddp_stream_synchronize(&self.0, error) })
    }
}

/// The stream that this thread's operators run in on that GPU.
///
/// # Errors
/// See [the module](super).
pub fn current_stream(device: Device) -> Result<Stream> {
    let index = index_of(device)?;
    let mut raw = sys::ddp_stream::default();
    // SAFETY: `raw` is written on success only.
    check("reading the current CUDA stream", |error| unsafe { sys::ddp_stream_current(index, &mut raw, error) })?;
    Ok(Stream(raw))
}

/// Runs `f` with this stream, and its GPU, as the calling thread's current ones (`with torch.cuda.stream(...)`). The ones
/// before are current again afterwards, also when `f` panics.
///
/// # Errors
/// [`Error::Torch`](crate::Error::Torch) from CUDA; then `f` did not run.
pub fn with_stream<T>(stream: &Stream, f: impl FnOnce() -> T) -> Result<T> {
    let mut scope = sys::ddp_stream_scope::default();
    // SAFETY: `scope` is written on success only.
    check("entering a CUDA stream", |error| unsafe { sys::ddp_stream_enter(&stream.0, &mut scope, error) })?;
    let _scope = Scope(scope);
    Ok(f())
}

/// Puts a thread's current stream back.
struct Scope(sys::ddp_stream_scope);

impl Drop for Scope {
    fn drop(&mut self) {
        // SAFETY: what `ddp_stream_enter` gave, in the same thread. It can't fail for a stream that was current.
        let _ = check("leaving a CUDA stream", |error| unsafe { sys::ddp_stream_exit(&self.0, error) });
    }
}
