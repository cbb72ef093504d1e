//! How samples are stacked to a batch: PyTorch's `default_collate`.

use tch::{Device, Tensor};

use crate::{Error, Result, memory};

/// Samples that can be stacked to a batch, as PyTorch's `default_collate` does
/// (`torch/utils/data/_utils/collate.py`): tensors, numbers, and tuples of such.
///
/// ```
/// use ddp_runtime::data::Collate;
/// use tch::Tensor;
///
/// let (x, y) = Collate::collate(vec![(Tensor::from_slice(&[1f32, 2.0]), 3i64), (Tensor::from_slice(&[4f32, 5.0]), 6)])?;
/// assert_eq!(x, Tensor::from_slice2(&[[1f32, 2.0], [4.0, 5.0]]));
/// assert_eq!(y, Tensor::from_slice(&[3i64, 6]));
/// # Ok::<(), ddp_runtime::Error>(())
/// ```
pub trait Collate: Sized {
    /// What a list of samples becomes.
    type Batch: Send + 'static;
    /// A batch in the making.
    type Stack;

    /// An empty stack with room for `samples` samples.
    fn stack(samples: usize) -> Self::Stack;

    /// Puts this sample on top. It is copied and dropped immediately, so that the next one is made in the same memory, which
    /// the processor still has at hand.
    ///
    /// # Errors
    /// [`Error::Invalid`] for another shape or dtype than the samples before.
    fn push(self, stack: &mut Self::Stack) -> Result<()>;

    /// The batch of all samples, in their order: a new first dimension of their number.
    ///
    /// # Errors
    /// [`Error::Invalid`] without samples; [`Error::Torch`] with libtorch's reason.
    fn finish(stack: Self::Stack) -> Result<Self::Batch>;

    /// The batch of `samples`.
    ///
    /// # Errors
    /// Those of [`push`](Self::push) and [`finish`](Self::finish).
    fn collate(samples: Vec<Self>) -> Result<Self::Batch> {
        let mut stack = Self::stack(samples.len());
        for sample in samples {
            sample.push(&mut stack)?;
        }
        Self::finish(stack)
    }
}

/// Tensors on top of each other.
#[derive(Debug)]
pub struct TensorStack {
    samples: usize,
    filled: usize,
    /// Of shape [samples, ...], from the first sample on.
    batch: Option<Tensor>,
}

/// Tensors of one shape [...] become one of shape [samples, ...], of the same dtype.
impl Collate for Tensor {
    type Batch = Self;
    type Stack = TensorStack;

    fn stack(samples: usize) -> TensorStack {
        TensorStack { samples, filled: 0, batch: None }
    }

    fn push(self, stack: &mut TensorStack) -> Result<()> {
        let failed = Error::tch("stacking samples");
        let index = i64::try_from(stack.filled).map_err(Error::other)?;
        let batch = match &stack.batch {
            Some(batch) => batch,
            None => stack.batch.insert(empty_batch(&self, stack.samples)?),
        };
        let (shape, expected) = (self.size(), batch.size()[1..].to_vec());
        if (&shape, self.kind()) != (&expected, batch.kind()) {
            return Err(Error::Invalid(format!(
                "can't stack samples of different shapes or dtypes: {shape:?} {:?} after {expected:?} {:?}",
                self.kind(),
                batch.kind()
            )));
        }
        tch::no_grad(|| batch.f_select(0, index).and_then(|mut place| place.f_copy_(&self))).map_err(failed)?;
        stack.filled += 1;
        Ok(())
    }

    fn finish(stack: TensorStack) -> Result<Self> {
        let batch = stack.batch.ok_or_else(|| Error::Invalid("no samples to stack".into()))?;
        if stack.filled == stack.samples {
            return Ok(batch);
        }
        let filled = i64::try_from(stack.filled).map_err(Error::other)?;
        batch.f_narrow(0, 0, filled).map_err(Error::tch("stacking samples"))
    }
}

/// Memory for `samples` tensors like `first`.
fn empty_batch(first: &Tensor, samples: usize) -> Result<Tensor> {
    let mut shape = vec![i64::try_from(samples).map_err(Error::other)?];
    shape.extend(first.size());
    let batch = match first.device() {
        Device::Cpu => memory::empty(&shape, first.kind()),
        device => Tensor::f_empty(&shape, (first.kind(), device)),
    };
    batch.map_err(Error::tch("allocating a batch"))
}

/// Numbers become a tensor of shape [samples] and the dtype that goes with their type.
macro_rules! collate_numbers {
    ($($number:ty),*) => {$(
        impl Collate for $number {
            type Batch = Tensor;
            type Stack = Vec<$number>;

            fn stack(samples: usize) -> Vec<$number> {
                Vec::with_capacity(samples)
            }

            fn push(self, stack: &mut Vec<$number>) -> Result<()> {
                stack.push(self);
                Ok(())
            }

            fn finish(stack: Vec<$number>) -> Result<Tensor> {
                Tensor::f_from_slice(&stack).map_err(Error::tch("stacking samples"))
            }
        }
    )*};
}

collate_numbers!(bool, u8, i32, i64, f32, f64);

/// Tuples are stacked field by field.
macro_rules! collate_tuples {
    ($(($($field:ident $index:tt),*);)*) => {$(
        impl<$($field: Collate),*> Collate for ($($field,)*) {
            type Batch = ($($field::Batch,)*);
            type Stack = ($($field::Stack,)*);

            fn stack(samples: usize) -> Self::Stack {
                ($($field::stack(samples),)*)
            }

            fn push(self, stack: &mut Self::Stack) -> Result<()> {
                $(self.$index.push(&mut stack.$index)?;)*
                Ok(())
            }

            fn finish(stack: Self::Stack) -> Result<Self::Batch> {
                Ok(($($field::finish(stack.$index)?,)*))
            }
        }
    )*};
}

collate_tuples! {
    (A 0);
    (A 0, B 1);
    (A 0, B 1, C 2);
    (A 0, B 1, C 2, D 3);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn collate_stacks_tuples_field_by_field() {
        let samples =
            vec![(Tensor::from_slice(&[1f32, 2.0]), 3i64, 0.5f32), (Tensor::from_slice(&[4f32, 5.0]), 6, 1.5)];
        let (x, y, z) = Collate::collate(samples).unwrap();
        assert_eq!(x, Tensor::from_slice2(&[[1f32, 2.0], [4.0, 5.0]]));
        assert_eq!(y, Tensor::from_slice(&[3i64, 6]));
        assert_eq!(z, Tensor::from_slice(&[0.5f32, 1.5]));
    }

    #[test]
    fn collate_refuses_shapes_that_differ() {
        let samples = || vec![Tensor::from_slice(&[1f32, 2.0]), Tensor::from_slice(&[1f32])];
        let message = |samples: Vec<Tensor>| Collate::collate(samples).map(|_: Tensor| ()).unwrap_err().to_string();
        assert!(message(samples()).contains("[1] Float after [2] Float"), "{}", message(samples()));
        let kinds = vec![Tensor::from_slice(&[1f32]), Tensor::from_slice(&[1i64])];
        assert!(message(kinds).contains("[1] Int64 after [1] Float"));
        assert!(message(vec![]).contains("no samples"));
    }
}
