//! `EvalSampler` for evaluations that count each sample once, and the mean over ranks.

use tch::{Device, Kind, Tensor};

use crate::{Error, ProcessGroup, ReduceOp, Result};

/// Splits a dataset's indices among the ranks for an evaluation: each index goes to exactly one rank, so nothing is
/// counted twice, and ranks may differ by one sample. (A `DistributedSampler` repeats samples instead.)
///
/// Rank r gets r, r + num_replicas, ... As ranks may have different numbers of batches, the loop over them must not
/// hold any collective operation (a forward pass under `tch::no_grad` has none); [`mean_over_ranks`] comes after it.
///
/// ```
/// let sampler = ddp_runtime::data::EvalSampler::new(10, 4, 1)?;
/// assert_eq!(sampler.indices(), [1, 5, 9]);
/// assert_eq!((sampler.num_samples(), sampler.num_replicas()), (3, 4));
/// # Ok::<(), ddp_runtime::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EvalSampler {
    dataset_len: usize,
    num_replicas: usize,
    rank: usize,
}

impl EvalSampler {
    /// A sampler over `0..dataset_len` for `rank` of `num_replicas`.
    ///
    /// # Errors
    /// [`Error::RankOutOfRange`] unless `rank < num_replicas`.
    pub fn new(dataset_len: usize, num_replicas: usize, rank: usize) -> Result<Self> {
        if rank >= num_replicas {
            return Err(Error::RankOutOfRange { rank, world_size: num_replicas });
        }
        Ok(Self { dataset_len, num_replicas, rank })
    }

    /// Number of ranks that share the dataset.
    pub fn num_replicas(&self) -> usize {
        self.num_replicas
    }

    /// Number of indices that this rank gets; the ranks' numbers add up to the dataset's length.
    pub fn num_samples(&self) -> usize {
        self.dataset_len.saturating_sub(self.rank).div_ceil(self.num_replicas)
    }

    /// This rank's indices, in ascending order.
    pub fn indices(&self) -> Vec<i64> {
        self.indices_from(0)
    }

    pub(super) fn indices_from(&self, seen: usize) -> Vec<i64> {
        (seen.saturating_add(self.rank)..self.dataset_len).step_by(self.num_replicas).map(|i| i as i64).collect()
    }
}

/// The mean over all ranks' samples by their true number: the ranks' `sum`s divided by the ranks' `count`s, on every
/// rank. Without any sample it is NaN.
///
/// `sum`: one element of any floating point or integer dtype, on any device; it is added up in `Double`. Every rank must
/// call it, also one without samples. Waits for the device.
///
/// ```
/// # let context = ddp_runtime::Context::init()?;
/// let (sum, count) = (tch::Tensor::from_slice(&[1.5f32, 2.0, 4.0]).sum(tch::Kind::Float), 3);
/// assert_eq!(ddp_runtime::data::mean_over_ranks(context.group(), &sum, count)?, 2.5);
/// # Ok::<(), ddp_runtime::Error>(())
/// ```
///
/// # Errors
/// [`Error::Invalid`] when `sum` has more than one element; else as [`ProcessGroup::all_reduce`].
pub fn mean_over_ranks(group: &ProcessGroup, sum: &Tensor, count: i64) -> Result<f64> {
    let failed = Error::tch("summing over the ranks");
    if sum.numel() != 1 {
        return Err(Error::Invalid(format!("expected a sum with one element, got shape {:?}", sum.size())));
    }
    let sum = sum.f_to_device_(Device::Cpu, Kind::Double, false, false).map_err(&failed)?;
    let sum = sum.f_double_value(&vec![0; sum.dim()]).map_err(&failed)?;
    // Counts are exact in a Double up to 2^53.
    let mut total = Tensor::f_from_slice(&[sum, count as f64]).map_err(&failed)?;
    group.all_reduce(&mut total, ReduceOp::Sum)?;
    let total = |i| total.f_double_value(&[i]).map_err(&failed);
    Ok(total(0)? / total(1)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mean_over_ranks_divides_by_the_true_count() {
        let context = crate::Context::builder().backend(crate::Backend::Gloo).init().unwrap();
        let mean = |sum: Tensor, count| mean_over_ranks(context.group(), &sum, count);
        assert_eq!(mean(Tensor::from(10.5f32), 3).unwrap(), 3.5);
        assert_eq!(mean(Tensor::from_slice(&[7i64]), 2).unwrap(), 3.5);
        assert!(mean(Tensor::from(0f32), 0).unwrap().is_nan());
        assert!(mean(Tensor::from_slice(&[1, 2]), 2).is_err());
    }
}
