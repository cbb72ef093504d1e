//! `LambdaLr`: a learning rate from a function of the epoch.

use std::fmt;

use serde_json::Value;

use super::schedule::each;
use super::{Schedule, Scheduler};
use crate::Result;

/// Multiplies the base rate by a function of the epoch: `torch.optim.lr_scheduler.LambdaLR`.
///
/// The function is not part of the state: after a restart, the program passes it again.
pub struct Lambda {
    factor: Box<dyn Fn(u64) -> f64 + Send>,
}

/// A scheduler with the rule [`Lambda`].
pub type LambdaLr = Scheduler<Lambda>;

impl Lambda {
    /// The factor of each epoch, counted from 0.
    pub fn new(factor: impl Fn(u64) -> f64 + Send + 'static) -> Self {
        Self { factor: Box::new(factor) }
    }
}

impl fmt::Debug for Lambda {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lambda").finish_non_exhaustive()
    }
}

impl Schedule for Lambda {
    fn name(&self) -> &'static str {
        "LambdaLR"
    }

    fn first(&self, lrs: &[f64], base_lrs: &[f64]) -> Result<Vec<f64>> {
        self.next(0, lrs, base_lrs)
    }

    fn next(&self, epoch: u64, _lrs: &[f64], base_lrs: &[f64]) -> Result<Vec<f64>> {
        let factor = (self.factor)(epoch);
        Ok(each(base_lrs, |base| base * factor))
    }

    fn settings(&self) -> Value {
        Value::Null
    }

    fn load_settings(&mut self, _settings: &Value) -> Result<()> {
        Ok(())
    }
}
