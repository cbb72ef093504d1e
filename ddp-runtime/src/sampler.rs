use crate::error::check;
use crate::{Error, Result, sys};

/// Splits a dataset's indices among the ranks, with PyTorch's exact indices
/// (`torch/utils/data/distributed.py`, `DistributedSampler`).
///
/// The permutation comes from libtorch's own `randperm`, with a generator seeded by `seed + epoch`, so every rank draws
/// the same one and takes each `num_replicas`-th index of it. When the length is not divisible, indices from the front
/// are repeated at the end, or with `drop_last` the tail is left out: all ranks get the same number.
///
/// ```
/// let sampler = ddp_runtime::DistributedSampler::new(10, 4, 3)?.shuffle(false);
/// assert_eq!(sampler.indices()?, [3, 7, 1]); // 10 and 11 are padded with 0 and 1
/// # Ok::<(), ddp_runtime::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DistributedSampler {
    dataset_len: usize,
    num_replicas: usize,
    rank: usize,
    shuffle: bool,
    seed: u64,
    drop_last: bool,
    epoch: u64,
}

impl DistributedSampler {
    /// A sampler over `0..dataset_len` for `rank` of `num_replicas`: shuffled, seed 0, without `drop_last`.
    ///
    /// # Errors
    /// [`Error::RankOutOfRange`] unless `rank < num_replicas`.
    pub fn new(dataset_len: usize, num_replicas: usize, rank: usize) -> Result<Self> {
        if rank >= num_replicas {
            return Err(Error::RankOutOfRange { rank, world_size: num_replicas });
        }
        Ok(Self { dataset_len, num_replicas, rank, shuffle: true, seed: 0, drop_last: false, epoch: 0 })
    }

    /// Whether the indices are permuted, differently in each epoch.
    pub fn shuffle(mut self, shuffle: bool) -> Self {
        self.shuffle = shuffle;
        self
    }

    /// The seed of the permutations. It must be the same on all ranks.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Leave out the tail that can't be split evenly, instead of repeating indices.
    pub fn drop_last(mut self, drop_last: bool) -> Self {
        self.drop_last = drop_last;
        self
    }

    /// Chooses the epoch (from 0) whose permutation [`indices`](Self::indices) gives. Call it before each epoch, or every
    /// epoch sees the same order.
    pub fn set_epoch(&mut self, epoch: u64) {
        self.epoch = epoch;
    }

    /// Number of indices that this rank gets: the same for all ranks.
    pub fn num_samples(&self) -> usize {
        if self.drop_last { self.dataset_len / self.num_replicas } else { self.dataset_len.div_ceil(self.num_replicas) }
    }

    /// This rank's indices for the chosen epoch, in order.
    ///
    /// # Errors
    /// [`Error::Torch`] when there is no memory for the permutation.
    pub fn indices(&self) -> Result<Vec<i64>> {
        let len = i64::try_from(self.dataset_len).map_err(|_| Error::Invalid("the dataset is too long".into()))?;
        let order: Vec<i64> = if self.shuffle {
            let mut order = vec![0; self.dataset_len];
            let seed = self.seed.wrapping_add(self.epoch);
            // SAFETY: `order` has room for `len` numbers.
            check("randperm", |error| unsafe { sys::ddp_randperm(len, seed, order.as_mut_ptr(), error) })?;
            order
        } else {
            (0..len).collect()
        };
        // Past the end the indices start again from the front, as often as it takes.
        let mine = (0..self.num_samples()).map(|i| order[(self.rank + i * self.num_replicas) % self.dataset_len]);
        Ok(mine.collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_dataset_has_no_indices() {
        assert_eq!(DistributedSampler::new(0, 2, 1).unwrap().indices().unwrap(), Vec::<i64>::new());
    }

    #[test]
    fn a_rank_outside_is_refused() {
        assert!(matches!(DistributedSampler::new(8, 2, 2), Err(Error::RankOutOfRange { rank: 2, world_size: 2 })));
    }

    #[test]
    fn epochs_differ_and_repeat() {
        let mut sampler = DistributedSampler::new(100, 2, 0).unwrap();
        let first = sampler.indices().unwrap();
        sampler.set_epoch(1);
        assert_ne!(sampler.indices().unwrap(), first);
        sampler.set_epoch(0);
        assert_eq!(sampler.indices().unwrap(), first);
    }
}
