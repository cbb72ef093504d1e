//! Tensors that worker threads may share.

use std::sync::{Mutex, PoisonError};

use crate::data::Tensors;
use crate::{Error, Result};

/// Tensors that several threads read, such as a dataset's. (A `Tensor` is `Send` but not `Sync`.)
///
/// ```
/// use ddp_runtime::data::Shared;
/// use tch::Tensor;
///
/// let shared = Shared::new(Tensor::from_slice(&[1, 2, 3]))?;
/// std::thread::scope(|scope| {
///     let other = scope.spawn(|| shared.get().map(|tensor| tensor.size()));
///     assert_eq!(other.join().expect("no panic")?, [3]);
///     Ok::<(), ddp_runtime::Error>(())
/// })?;
/// # Ok::<(), ddp_runtime::Error>(())
/// ```
#[derive(Debug)]
pub struct Shared<T>(Mutex<T>);

impl<T: Tensors> Shared<T> {
    /// Shares `tensors`, without their gradients' graph. Their memory is not copied: don't change it afterwards.
    ///
    /// # Errors
    /// [`Error::Torch`] when a tensor can't be detached.
    pub fn new(tensors: T) -> Result<Self> {
        let detached = tensors.map(&mut |tensor| tensor.f_detach().map_err(Error::tch("sharing tensors")))?;
        Ok(Self(Mutex::new(detached)))
    }

    /// Handles of the tensors, for the calling thread; their memory is not copied.
    ///
    /// # Errors
    /// Those of [`Tensors::map`].
    pub fn get(&self) -> Result<T> {
        // Nothing is changed while the lock is held, so a panic leaves nothing half done.
        let tensors = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        tensors.map(&mut |tensor| Ok(tensor.shallow_clone()))
    }
}
