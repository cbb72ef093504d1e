//! A run as spans of `tracing`.

use std::sync::{Mutex, PoisonError};

use tracing::field::Empty;
use tracing::{Span, info_span};

/// The spans of a context: `run`, and in it `epoch` and `step`. They are not entered, so they belong to no thread. A step
/// lasts from the report of the one before until its own report, and an epoch until a step of another epoch is reported.
#[derive(Debug)]
pub(super) struct Spans {
    run: Span,
    current: Mutex<Current>,
}

#[derive(Debug)]
struct Current {
    /// The number of the epoch, once a step of it was reported.
    number: Option<u64>,
    epoch: Span,
    step: Span,
}

impl Spans {
    pub(super) fn new(rank: usize, world_size: usize, restarts: u32) -> Self {
        let run = info_span!(parent: None, "run", rank, world_size, restarts);
        let current = Current { number: None, epoch: epoch_in(&run), step: step_in(&run) };
        Self { run, current: Mutex::new(current) }
    }

    /// A step is done: its span ends, and the next one's begins.
    pub(super) fn step_done(&self, epoch: u64, step: u64, loss: Option<f64>) {
        if self.run.is_disabled() {
            return;
        }
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.number.is_some_and(|number| number != epoch) {
            (current.number, current.epoch) = (None, epoch_in(&self.run));
        }
        if current.number.replace(epoch).is_none() {
            current.epoch.record("epoch", epoch);
        }
        current.step.record("epoch", epoch);
        current.step.record("step", step);
        if let Some(loss) = loss {
            current.step.record("loss", loss);
        }
        current.step = step_in(&self.run);
    }
}

fn epoch_in(run: &Span) -> Span {
    info_span!(parent: run, "epoch", epoch = Empty)
}

fn step_in(run: &Span) -> Span {
    info_span!(parent: run, "step", epoch = Empty, step = Empty, loss = Empty)
}
