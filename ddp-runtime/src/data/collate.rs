use tch::Tensor;

use crate::data::catch::caught;
use crate::data::{BatchDataset, Dataset};
use crate::{Error, Result};

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

    /// The batch of `samples`, in their order: a new first dimension of their number.
    ///
    /// # Errors
    /// [`Error::Torch`] when shapes differ.
    fn collate(samples: Vec<Self>) -> Result<Self::Batch>;
}

/// Tensors of one shape [...] become one of shape [samples, ...], of the same dtype.
impl Collate for Tensor {
    type Batch = Self;

    fn collate(samples: Vec<Self>) -> Result<Self> {
        Self::f_stack(&samples, 0).map_err(Error::tch("stacking samples"))
    }
}

/// Numbers become a tensor of shape [samples] and the dtype that goes with their type.
macro_rules! collate_numbers {
    ($($number:ty),*) => {$(
        impl Collate for $number {
            type Batch = Tensor;

            fn collate(samples: Vec<Self>) -> Result<Tensor> {
                Tensor::f_from_slice(&samples).map_err(Error::tch("stacking samples"))
            }
        }
    )*};
}

collate_numbers!(bool, u8, i32, i64, f32, f64);

/// Tuples are stacked field by field.
macro_rules! collate_tuples {
    ($(($($field:ident),*);)*) => {$(
        impl<$($field: Collate),*> Collate for ($($field,)*) {
            type Batch = ($($field::Batch,)*);

            #[expect(non_snake_case, reason = "each field's list is named as its type")]
            fn collate(samples: Vec<Self>) -> Result<Self::Batch> {
                $(let mut $field = Vec::with_capacity(samples.len());)*
                for sample in samples {
                    collate_tuples!(@push sample, $($field),*);
                }
                Ok(($($field::collate($field)?,)*))
            }
        }
    )*};
    (@push $sample:ident, $a:ident) => { $a.push($sample.0); };
    (@push $sample:ident, $a:ident, $b:ident) => { $a.push($sample.0); $b.push($sample.1); };
    (@push $sample:ident, $a:ident, $b:ident, $c:ident) => {
        $a.push($sample.0); $b.push($sample.1); $c.push($sample.2);
    };
    (@push $sample:ident, $a:ident, $b:ident, $c:ident, $d:ident) => {
        $a.push($sample.0); $b.push($sample.1); $c.push($sample.2); $d.push($sample.3);
    };
}

collate_tuples! {
    (A);
    (A, B);
    (A, B, C);
    (A, B, C, D);
}

/// A [`Dataset`] as a [`BatchDataset`]: reads sample after sample and makes a batch of them.
///
/// [`Dataset::stacked`] and [`Dataset::collated`], which has an example, make it.
#[derive(Clone, Debug)]
pub struct Collated<D, F> {
    dataset: D,
    collate: F,
}

/// A [`Dataset`] whose samples are stacked: see [`Dataset::stacked`].
///
/// ```
/// use ddp_runtime::{Result, data::{DataLoader, Dataset, Stacked}};
///
/// /// A loader of samples that are read one at a time, as a struct's field, say.
/// fn loader<D>(context: &ddp_runtime::Context, dataset: D) -> Result<DataLoader<Stacked<D>>>
/// where
///     D: Dataset<Item = (tch::Tensor, i64)>,
/// {
///     DataLoader::new(context, dataset.stacked(), 32)
/// }
/// ```
pub type Stacked<D> = Collated<D, fn(Vec<<D as Dataset>::Item>) -> Result<<<D as Dataset>::Item as Collate>::Batch>>;

impl<D, F> Collated<D, F> {
    pub(super) fn new(dataset: D, collate: F) -> Self {
        Self { dataset, collate }
    }
}

impl<D, F, B> BatchDataset for Collated<D, F>
where
    D: Dataset,
    F: Fn(Vec<D::Item>) -> Result<B> + Send + Sync + 'static,
    B: Send + 'static,
{
    type Batch = B;

    fn len(&self) -> usize {
        self.dataset.len()
    }

    fn batch(&self, indices: &[i64]) -> Result<B> {
        let samples: Result<Vec<_>> = indices.iter().map(|&index| sample(&self.dataset, index)).collect();
        (self.collate)(samples?)
    }
}

/// One sample; what goes wrong names its index.
fn sample<D: Dataset>(dataset: &D, index: i64) -> Result<D::Item> {
    let Some(index) = usize::try_from(index).ok().filter(|&index| index < dataset.len()) else {
        return Err(Error::Invalid(format!("sample {index} is outside of the dataset's {}", dataset.len())));
    };
    caught(|| dataset.get(index)).map_err(|reason| Error::Sample { index, reason: Box::new(reason) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tuples_are_stacked_field_by_field() {
        let samples =
            vec![(Tensor::from_slice(&[1f32, 2.0]), 3i64, 0.5f32), (Tensor::from_slice(&[4f32, 5.0]), 6, 1.5)];
        let (x, y, z) = Collate::collate(samples).unwrap();
        assert_eq!(x, Tensor::from_slice2(&[[1f32, 2.0], [4.0, 5.0]]));
        assert_eq!(y, Tensor::from_slice(&[3i64, 6]));
        assert_eq!(z, Tensor::from_slice(&[0.5f32, 1.5]));
    }

    #[test]
    fn shapes_that_differ_are_an_error() {
        let samples = vec![Tensor::from_slice(&[1f32]), Tensor::from_slice(&[1f32, 2.0])];
        assert!(matches!(Collate::collate(samples), Err(Error::Torch { operation: "stacking samples", .. })));
    }
}
