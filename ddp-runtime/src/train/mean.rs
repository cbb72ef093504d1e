//! `Mean`: a mean over steps and ranks, summed up on the device.

use tch::{Kind, Tensor};

use crate::data::mean_over_ranks;
use crate::{Error, ProcessGroup, Result};

/// A mean of losses, or of anything else, over steps and ranks. The sum stays on the device: adding to it does not wait for
/// a GPU.
///
/// ```
/// use ddp_runtime::{Context, Mean};
/// use tch::Tensor;
///
/// # fn main() -> ddp_runtime::Result<()> {
/// let context = Context::init()?;
/// let mut losses = Mean::new();
/// losses.add(&Tensor::from(1.0f32))?;
/// losses.add(&Tensor::from(2.0f32))?;
/// assert_eq!(losses.over_ranks(context.group())?, 1.5);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Default)]
pub struct Mean {
    /// A `Double` scalar.
    sum: Option<Tensor>,
    count: i64,
}

impl Mean {
    /// A mean of nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a number: a scalar tensor of any floating point dtype, on any device. Its graph is not kept.
    ///
    /// # Errors
    /// [`Error::Torch`].
    pub fn add(&mut self, value: &Tensor) -> Result<()> {
        self.add_sum(value, 1)
    }

    /// Adds a sum of `count` numbers, such as a batch's loss times its number of samples.
    ///
    /// # Errors
    /// [`Error::Torch`].
    pub fn add_sum(&mut self, sum: &Tensor, count: i64) -> Result<()> {
        let sum = sum.f_detach().and_then(|sum| match &self.sum {
            Some(so_far) => so_far.f_add(&sum),
            None => sum.f_to_kind(Kind::Double),
        });
        self.sum = Some(sum.map_err(Error::tch("summing"))?);
        self.count += count;
        Ok(())
    }

    /// How many numbers were added on this rank.
    pub fn count(&self) -> i64 {
        self.count
    }

    /// The mean of the numbers of all ranks; NaN if there are none. Waits for the device. Every rank must call it, also a
    /// rank without numbers.
    ///
    /// # Errors
    /// As [`ProcessGroup::all_reduce`].
    pub fn over_ranks(&self, group: &ProcessGroup) -> Result<f64> {
        mean_over_ranks(group, self.sum.as_ref().unwrap_or(&Tensor::from(0f64)), self.count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mean_weights_values_by_their_count() {
        let context = crate::Context::builder().backend(crate::Backend::Gloo).init().unwrap();
        let mut mean = Mean::new();
        assert!(mean.over_ranks(context.group()).unwrap().is_nan());
        mean.add_sum(&Tensor::from(3f32).set_requires_grad(true), 2).unwrap();
        mean.add(&Tensor::from(6f64)).unwrap();
        assert_eq!((mean.over_ranks(context.group()).unwrap(), mean.count()), (3.0, 3));
    }
}
