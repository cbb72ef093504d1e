//! What a snapshot saves besides the model and the random numbers.

use crate::train::optim::Optimizer;
use crate::train::stateful::Stateful;

/// The name of a value of the program's own in the manifest.
pub(crate) fn value_name(name: &str) -> String {
    format!("value.{name}")
}

/// What a snapshot holds of a run, besides the model and the random numbers: it is saved from here and loaded into it.
pub(crate) struct Contents<'a> {
    pub(crate) optimizer: &'a mut dyn Optimizer,
    /// Schedulers, the scaler, values, and other objects.
    pub(crate) parts: Vec<&'a mut dyn Stateful>,
    /// What the model is judged by now.
    pub(crate) metric: Option<f64>,
}
