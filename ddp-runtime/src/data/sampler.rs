use crate::data::EvalSampler;
use crate::{DistributedSampler, Result};

/// Which samples a rank sees in an epoch, and in which order.
pub trait Sampler {
    /// Number of ranks that share the dataset.
    fn num_replicas(&self) -> usize;

    /// Number of this rank's samples in a whole epoch.
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
