//! Which samples a rank sees.

pub(crate) mod distributed;
mod eval;

pub use eval::{EvalSampler, mean_over_ranks};

use crate::{DistributedSampler, Result};

/// Which samples a rank sees in an epoch, and in which order.
///
/// ```
/// use ddp_runtime::{Result, data::{BatchDataset, DataLoader, Sampler, TensorDataset}};
///
/// /// The newest samples, from the last one on, for a single rank.
/// struct Newest(usize);
///
/// impl Sampler for Newest {
///     fn num_replicas(&self) -> usize { 1 }
///     fn num_samples(&self) -> usize { 4 }
///     fn indices(&self, _epoch: u64, seen: usize) -> Result<Vec<i64>> {
///         Ok((self.0 as i64 - 4..self.0 as i64).rev().skip(seen).collect())
///     }
/// }
///
/// let dataset = TensorDataset::new(tch::Tensor::from_slice(&[0i64, 1, 2, 3, 4, 5, 6]))?;
/// let loader = DataLoader::with_sampler(dataset, Newest(7), 3)?;
/// assert_eq!((loader.dataset().len(), loader.batches_per_epoch()), (7, 2));
/// let first = loader.epoch(0)?.next().expect("there are two")?;
/// assert_eq!(first, tch::Tensor::from_slice(&[6i64, 5, 4]));
/// # Ok::<(), ddp_runtime::Error>(())
/// ```
pub trait Sampler {
    /// Number of ranks that share the dataset.
    fn num_replicas(&self) -> usize;

    /// Number of this rank's samples in a complete epoch.
    fn num_samples(&self) -> usize;

    /// This rank's indices for `epoch` (from 0), or for the rest of it when all ranks together have seen `seen` samples.
    ///
    /// # Errors
    /// The sampler's own.
    fn indices(&self, epoch: u64, seen: usize) -> Result<Vec<i64>>;
}

impl Sampler for DistributedSampler {
    fn num_replicas(&self) -> usize {
        self.num_replicas()
    }

    fn num_samples(&self) -> usize {
        self.num_samples()
    }

    fn indices(&self, epoch: u64, seen: usize) -> Result<Vec<i64>> {
        let mut sampler = self.clone();
        sampler.set_epoch(epoch);
        sampler.indices_from(seen)
    }
}

/// All epochs are the same.
impl Sampler for EvalSampler {
    fn num_replicas(&self) -> usize {
        self.num_replicas()
    }

    fn num_samples(&self) -> usize {
        self.num_samples()
    }

    fn indices(&self, _epoch: u64, seen: usize) -> Result<Vec<i64>> {
        Ok(self.indices_from(seen))
    }
}
