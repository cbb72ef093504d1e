//! The trait `Tensors`: how a loader reaches the tensors of a batch.

use tch::Tensor;

use crate::Result;

/// A tensor, or a structure of tensors: tuples and lists, and your own batch types if they implement it.
///
/// A [`DataLoader`](crate::data::DataLoader) that moves batches to a device needs to reach their tensors.
///
/// ```
/// use ddp_runtime::{Result, data::Tensors};
/// use tch::Tensor;
///
/// struct Batch { image: Tensor, label: Tensor, names: Vec<String> }
///
/// impl Tensors for Batch {
///     fn map(&self, f: &mut dyn FnMut(&Tensor) -> Result<Tensor>) -> Result<Self> {
///         Ok(Self { image: f(&self.image)?, label: f(&self.label)?, names: self.names.clone() })
///     }
/// }
/// ```
pub trait Tensors: Sized + Send + 'static {
    /// The same structure with `f` of each tensor, in a fixed order.
    ///
    /// # Errors
    /// `f`'s first.
    fn map(&self, f: &mut dyn FnMut(&Tensor) -> Result<Tensor>) -> Result<Self>;
}

impl Tensors for Tensor {
    fn map(&self, f: &mut dyn FnMut(&Tensor) -> Result<Tensor>) -> Result<Self> {
        f(self)
    }
}

impl<T: Tensors> Tensors for Vec<T> {
    fn map(&self, f: &mut dyn FnMut(&Tensor) -> Result<Tensor>) -> Result<Self> {
        self.iter().map(|tensors| tensors.map(f)).collect()
    }
}

macro_rules! tuples {
    ($(($($field:ident $index:tt),*);)*) => {$(
        impl<$($field: Tensors),*> Tensors for ($($field,)*) {
            fn map(&self, f: &mut dyn FnMut(&Tensor) -> Result<Tensor>) -> Result<Self> {
                Ok(($(self.$index.map(f)?,)*))
            }
        }
    )*};
}

tuples! {
    (A 0);
    (A 0, B 1);
    (A 0, B 1, C 2);
    (A 0, B 1, C 2, D 3);
}
