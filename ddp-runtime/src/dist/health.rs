//! Whether a run's loss and weights are finite numbers.

use std::sync::{Arc, Mutex, PoisonError};

use crate::worker::say::say;

/// What was seen of a run's losses and weights. Clones share it. The first value that is not finite is reported, by rank 0.
#[derive(Clone, Debug)]
pub(crate) struct Health(Arc<Mutex<Inner>>);

#[derive(Debug)]
struct Inner {
    reports: bool,
    since: Option<u64>,
}

impl Health {
    pub(crate) fn new(rank: usize) -> Self {
        Self(Arc::new(Mutex::new(Inner { reports: rank == 0, since: None })))
    }

    /// The loss at `step`. A finite one ends what began with one that was not.
    pub(crate) fn see_loss(&self, step: u64, loss: f64) {
        if loss.is_finite() {
            self.lock().since = None;
            return;
        }
        self.lock().since.get_or_insert(step);
        self.report(&format!(
            "the loss is {loss} at step {step}; training continues (see `NonFinite` to stop or to skip such steps)"
        ));
    }

    /// A weight at `step` is not finite.
    pub(crate) fn see_weights(&self, step: u64, name: &str) {
        self.lock().since.get_or_insert(step);
        self.report(&format!("{name} has values that are not finite numbers at step {step}; training continues"));
    }

    /// A run resumes from a snapshot that was saved in this state.
    pub(crate) fn resumed(&self, since: Option<u64>) {
        self.lock().since = since;
    }

    /// The step since which the loss or the weights are not finite.
    pub(crate) fn non_finite_since(&self) -> Option<u64> {
        self.lock().since
    }

    /// Prints a warning, unless there was one.
    pub(crate) fn report(&self, message: &str) {
        if std::mem::replace(&mut self.lock().reports, false) {
            say(format_args!("warning: {message}"));
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn health_returns_with_a_finite_loss() {
        let health = Health::new(1);
        health.see_loss(1, 0.5);
        assert_eq!(health.non_finite_since(), None);
        health.see_loss(2, f64::INFINITY);
        health.see_loss(3, f64::NAN);
        health.see_weights(4, "w");
        assert_eq!(health.clone().non_finite_since(), Some(2));
        health.see_loss(5, -1.0);
        assert_eq!(health.non_finite_since(), None);
    }
}
