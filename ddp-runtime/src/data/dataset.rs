//! The traits `Dataset` and `BatchDataset`, their adapters, and the seeds of samples.

use std::sync::Arc;

use crate::data::Collate;
use crate::worker::panics::caught;
use crate::{Error, Result};

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

    /// The sample at `index` as epoch `epoch` (from 0) is to see it: for augmentation. By default it is
    /// [`get`](Self::get)'s, the same in every epoch. What a [`DataLoader`](crate::data::DataLoader) calls.
    ///
    /// Its random choices should follow from the epoch and the index alone ([`sample_seed`](crate::data::sample_seed)), so
    /// that they depend neither on the worker thread nor on a restart.
    ///
    /// ```
    /// use ddp_runtime::{Result, data::{BatchDataset, Dataset, sample_seed}};
    ///
    /// struct Noisy(Vec<f64>);
    ///
    /// impl Dataset for Noisy {
    ///     type Item = f64;
    ///     fn len(&self) -> usize { self.0.len() }
    ///     fn get(&self, index: usize) -> Result<f64> { Ok(self.0[index]) }
    ///     fn get_in_epoch(&self, epoch: u64, index: usize) -> Result<f64> {
    ///         let noise = sample_seed(42, epoch, index as u64) as f64 / u64::MAX as f64;
    ///         Ok(self.get(index)? + noise)
    ///     }
    /// }
    ///
    /// let noisy = Noisy(vec![1.0, 2.0]).stacked();
    /// assert_eq!(noisy.batch_in_epoch(3, &[1])?, noisy.batch_in_epoch(3, &[1])?);
    /// assert_ne!(noisy.batch_in_epoch(3, &[1])?, noisy.batch_in_epoch(4, &[1])?);
    /// # Ok::<(), ddp_runtime::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`get`](Self::get).
    fn get_in_epoch(&self, epoch: u64, index: usize) -> Result<Self::Item> {
        let _ = epoch;
        self.get(index)
    }

    /// This dataset with its samples stacked to batches, as PyTorch's default `collate_fn` does.
    fn stacked(self) -> Stacked<Self>
    where
        Self: Sized,
        Self::Item: Collate,
    {
        Stacked { dataset: self }
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
        Collated { dataset: self, collate }
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
    /// (or unchanged if it is an [`Error::Sample`](crate::Error::Sample)), as does a panic.
    fn batch(&self, indices: &[i64]) -> Result<Self::Batch>;

    /// The samples as epoch `epoch` (from 0) is to see them: for augmentation, as
    /// [`Dataset::get_in_epoch`](crate::data::Dataset::get_in_epoch). By default they are [`batch`](Self::batch)'s, the
    /// same in every epoch. What a [`DataLoader`](crate::data::DataLoader) calls.
    ///
    /// # Errors
    /// As [`batch`](Self::batch).
    fn batch_in_epoch(&self, epoch: u64, indices: &[i64]) -> Result<Self::Batch> {
        let _ = epoch;
        self.batch(indices)
    }
}

/// A [`Dataset`] whose samples are stacked, one after another as they are read: see [`Dataset::stacked`].
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
#[derive(Clone, Debug)]
pub struct Stacked<D> {
    dataset: D,
}

impl<D: Dataset> BatchDataset for Stacked<D>
where
    D::Item: Collate,
{
    type Batch = <D::Item as Collate>::Batch;

    fn len(&self) -> usize {
        self.dataset.len()
    }

    fn batch(&self, indices: &[i64]) -> Result<Self::Batch> {
        self.stack(indices, |index| self.dataset.get(index))
    }

    fn batch_in_epoch(&self, epoch: u64, indices: &[i64]) -> Result<Self::Batch> {
        self.stack(indices, |index| self.dataset.get_in_epoch(epoch, index))
    }
}

impl<D: Dataset> Stacked<D>
where
    D::Item: Collate,
{
    fn stack(&self, indices: &[i64], get: impl Fn(usize) -> Result<D::Item>) -> Result<<D::Item as Collate>::Batch> {
        let mut stack = D::Item::stack(indices.len());
        for &index in indices {
            sample(&self.dataset, index, &get)?.push(&mut stack)?;
        }
        D::Item::finish(stack)
    }
}

/// A [`Dataset`] whose batches are made by a function: reads all samples of a batch, and calls it.
///
/// [`Dataset::collated`], which has an example, makes it.
#[derive(Clone, Debug)]
pub struct Collated<D, F> {
    dataset: D,
    collate: F,
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
        self.collate(indices, |index| self.dataset.get(index))
    }

    fn batch_in_epoch(&self, epoch: u64, indices: &[i64]) -> Result<B> {
        self.collate(indices, |index| self.dataset.get_in_epoch(epoch, index))
    }
}

impl<D: Dataset, F> Collated<D, F> {
    fn collate<B>(&self, indices: &[i64], get: impl Fn(usize) -> Result<D::Item>) -> Result<B>
    where
        F: Fn(Vec<D::Item>) -> Result<B>,
    {
        let samples: Result<Vec<_>> = indices.iter().map(|&index| sample(&self.dataset, index, &get)).collect();
        (self.collate)(samples?)
    }
}

/// One sample, as `get` gives it; what goes wrong names its index.
fn sample<D: Dataset>(dataset: &D, index: i64, get: impl Fn(usize) -> Result<D::Item>) -> Result<D::Item> {
    let Some(index) = usize::try_from(index).ok().filter(|&index| index < dataset.len()) else {
        return Err(Error::Invalid(format!(
            "sample {index} is out of range: the dataset has {} samples",
            dataset.len()
        )));
    };
    caught(|| get(index)).map_err(|reason| Error::Sample { index, reason: Box::new(reason) })
}

/// A seed for the random choices about one sample in one epoch: well mixed (splitmix64's finalizer, Steele et al., 2014),
/// and the same on any rank, in any worker thread, and after a restart. See
/// [`Dataset::get_in_epoch`](crate::data::Dataset::get_in_epoch).
pub fn sample_seed(seed: u64, epoch: u64, index: u64) -> u64 {
    [seed, epoch, index].into_iter().fold(0, |mixed, next| mix(mixed ^ next))
}

fn mix(state: u64) -> u64 {
    let z = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl<D: BatchDataset> BatchDataset for Arc<D> {
    type Batch = D::Batch;

    fn len(&self) -> usize {
        D::len(self)
    }

    fn batch(&self, indices: &[i64]) -> Result<Self::Batch> {
        D::batch(self, indices)
    }

    fn batch_in_epoch(&self, epoch: u64, indices: &[i64]) -> Result<Self::Batch> {
        D::batch_in_epoch(self, epoch, indices)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sample_seeds_depend_on_run_epoch_and_index() {
        assert_eq!(mix(0), 0xe220_a839_7b1d_cdaf, "splitmix64's first number for seed 0");
        let mut seeds: Vec<u64> = (0..1000).map(|i| sample_seed(i / 100, i / 10 % 10, i % 10)).collect();
        assert_eq!(seeds, (0..1000).map(|i| sample_seed(i / 100, i / 10 % 10, i % 10)).collect::<Vec<_>>());
        seeds.sort_unstable();
        seeds.dedup();
        assert_eq!(seeds.len(), 1000);
    }
}
