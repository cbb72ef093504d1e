use std::sync::Arc;

use crate::Result;
use crate::data::{Collate, Collated, Stacked};

/// Samples that are read one at a time, by index: PyTorch's map-style `Dataset`.
///
/// Worker threads share the dataset, so it must be `Sync`; a tensor is not, but [`Shared`](crate::data::Shared) is.
///
/// ```
/// use ddp_runtime::{Error, Result, data::{BatchDataset, Dataset}};
/// use tch::Tensor;
///
/// struct Squares;
///
/// impl Dataset for Squares {
///     type Item = (Tensor, i64);
///     fn len(&self) -> usize { 10 }
///     fn get(&self, index: usize) -> Result<Self::Item> {
///         let x = i64::try_from(index).map_err(Error::other)?;
///         Ok((Tensor::from_slice(&[x as f32, 1.0]), x * x))
///     }
/// }
///
/// let (x, y) = Squares.stacked().batch(&[3, 5])?;
/// assert_eq!(x.size(), [2, 2]);
/// assert_eq!(Vec::<i64>::try_from(y).unwrap(), [9, 25]);
/// # Ok::<(), Error>(())
/// ```
pub trait Dataset: Send + Sync + 'static {
    /// A sample.
    type Item;

    /// Number of samples.
    fn len(&self) -> usize;

    /// Whether there is no sample.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The sample at `index`, which is less than [`len`](Self::len).
    ///
    /// # Errors
    /// Whatever keeps the sample from being read; [`Error::other`](crate::Error::other) wraps any error. It reaches the
    /// training loop as [`Error::Sample`](crate::Error::Sample), as does a panic.
    fn get(&self, index: usize) -> Result<Self::Item>;

    /// This dataset with its samples stacked to batches, as PyTorch's default `collate_fn` does.
    fn stacked(self) -> Stacked<Self>
    where
        Self: Sized,
        Self::Item: Collate,
    {
        Stacked::new(self)
    }

    /// This dataset with batches made by `collate`, a function of the samples in their order.
    ///
    /// ```
    /// use ddp_runtime::{Result, data::{BatchDataset, Dataset}};
    ///
    /// struct Words(Vec<&'static str>);
    ///
    /// impl Dataset for Words {
    ///     type Item = &'static str;
    ///     fn len(&self) -> usize { self.0.len() }
    ///     fn get(&self, index: usize) -> Result<Self::Item> { Ok(self.0[index]) }
    /// }
    ///
    /// let dataset = Words(vec!["one", "two", "three"]).collated(|words| Ok(words.join(" ")));
    /// assert_eq!(dataset.batch(&[2, 0])?, "three one");
    /// # Ok::<(), ddp_runtime::Error>(())
    /// ```
    fn collated<B, F>(self, collate: F) -> Collated<Self, F>
    where
        Self: Sized,
        F: Fn(Vec<Self::Item>) -> Result<B> + Send + Sync + 'static,
    {
        Collated::new(self, collate)
    }
}

/// Samples that are read a batch at a time: what a [`DataLoader`](crate::data::DataLoader) takes.
///
/// ```
/// use ddp_runtime::{Result, data::BatchDataset};
///
/// struct Squares;
///
/// impl BatchDataset for Squares {
///     type Batch = Vec<i64>;
///     fn len(&self) -> usize { 10 }
///     fn batch(&self, indices: &[i64]) -> Result<Vec<i64>> {
///         Ok(indices.iter().map(|x| x * x).collect())
///     }
/// }
///
/// assert_eq!(Squares.batch(&[3, 5])?, [9, 25]);
/// # Ok::<(), ddp_runtime::Error>(())
/// ```
pub trait BatchDataset: Send + Sync + 'static {
    /// A batch.
    type Batch: Send + 'static;

    /// Number of samples.
    fn len(&self) -> usize;

    /// Whether there is no sample.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The samples at `indices`, each from 0 to less than [`len`](Self::len), in this order.
    ///
    /// # Errors
    /// Whatever keeps the batch from being read; it reaches the training loop as [`Error::Batch`](crate::Error::Batch)
    /// (or as it is if it is an [`Error::Sample`](crate::Error::Sample)), as does a panic.
    fn batch(&self, indices: &[i64]) -> Result<Self::Batch>;
}

impl<D: BatchDataset> BatchDataset for Arc<D> {
    type Batch = D::Batch;

    fn len(&self) -> usize {
        D::len(self)
    }

    fn batch(&self, indices: &[i64]) -> Result<Self::Batch> {
        D::batch(self, indices)
    }
}
