//! `DistributedSampler`: PyTorch's exact indices.

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
/// assert_eq!((sampler.num_samples(), sampler.num_replicas()), (3, 4));
/// assert_eq!(sampler.drop_last(true).indices()?, [3, 7]);
///
/// let mut shuffled = ddp_runtime::DistributedSampler::new(10, 4, 3)?.seed(1);
/// shuffled.set_epoch(2); // before each epoch; a `DataLoader` does it
/// let _: Vec<i64> = shuffled.indices()?;
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

    /// Chooses the epoch (from 0) whose permutation [`indices`](Self::indices) returns. Call it before each epoch, or every
    /// epoch sees the same order.
    pub fn set_epoch(&mut self, epoch: u64) {
        self.epoch = epoch;
    }

    /// Number of indices that this rank gets: the same for all ranks.
    pub fn num_samples(&self) -> usize {
        if self.drop_last { self.dataset_len / self.num_replicas } else { self.dataset_len.div_ceil(self.num_replicas) }
    }

    /// Number of ranks that share the dataset.
    pub fn num_replicas(&self) -> usize {
        self.num_replicas
    }

    /// This rank's indices for the chosen epoch, in order.
    ///
    /// # Errors
    /// [`Error::Torch`] when there is no memory for the permutation.
    pub fn indices(&self) -> Result<Vec<i64>> {
        self.indices_from(0)
    }

    /// This rank's indices for what is left of the chosen epoch when all ranks together have seen `seen` samples of it.
    ///
    /// Ranks that go through their indices in step have seen the front of the epoch's permutation, however many they
    /// are; the rest of it is split among this sampler's ranks by the same rule. So the epoch can continue with another
    /// number of ranks and each sample that is left is seen exactly once (but for the repeated indices, or with
    /// `drop_last` the tail, that make the ranks' shares equal). With the same number of ranks these are the indices
    /// that [`indices`](Self::indices) would have given next.
    ///
    /// ```
    /// let mut sampler = ddp_runtime::DistributedSampler::new(10, 2, 1)?.shuffle(false);
    /// assert_eq!(sampler.indices()?, [1, 3, 5, 7, 9]);
    /// assert_eq!(sampler.indices_from(4)?, [5, 7, 9]);
    /// # Ok::<(), ddp_runtime::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`indices`](Self::indices).
    pub fn indices_from(&self, seen: usize) -> Result<Vec<i64>> {
        let start = seen.min(self.dataset_len);
        let left = self.dataset_len - start;
        let count = if self.drop_last { left / self.num_replicas } else { left.div_ceil(self.num_replicas) };
        if count == 0 {
            return Ok(Vec::new());
        }
        let order = self.order()?;
        // Past the end the indices start again from the front, as often as it takes.
        let mine = (0..count).map(|i| order[(start + self.rank + i * self.num_replicas) % self.dataset_len]);
        Ok(mine.collect())
    }

    /// The chosen epoch's permutation, for all ranks.
    fn order(&self) -> Result<Vec<i64>> {
        let len = i64::try_from(self.dataset_len).map_err(|_| Error::Invalid("the dataset is too long".into()))?;
        if !self.shuffle {
            return Ok((0..len).collect());
        }
        let mut order = vec![0; self.dataset_len];
        let seed = self.seed.wrapping_add(self.epoch);
        // SAFETY: `order` has room for `len` numbers.
        check("randperm", |error| unsafe { sys::ddp_randperm(len, seed, order.as_mut_ptr(), error) })?;
        Ok(order)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_dataset_has_no_indices() {
        assert_eq!(DistributedSampler::new(0, 2, 1).unwrap().indices().unwrap(), Vec::<i64>::new());
    }

    #[test]
    fn rank_outside_of_the_world_is_refused() {
        assert!(matches!(DistributedSampler::new(8, 2, 2), Err(Error::RankOutOfRange { rank: 2, world_size: 2 })));
    }
}
