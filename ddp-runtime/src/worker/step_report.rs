//! `StepReport`: the numbers of a step that the launcher shows.

/// An optimizer step that is done, for the launcher to show.
#[derive(Clone, Copy, Debug, PartialEq)]
#[must_use]
pub(crate) struct StepReport {
    pub(crate) epoch: u64,
    pub(crate) step: u64,
    pub(crate) loss: Option<f64>,
    pub(crate) steps: Option<u64>,
    pub(crate) samples: Option<u64>,
    pub(crate) learning_rate: Option<f64>,
    pub(crate) grad_norm: Option<f64>,
}

impl StepReport {
    /// Step number `step` over all epochs, from 1, which belongs to `epoch`, from 0.
    pub(crate) fn new(epoch: u64, step: u64) -> Self {
        let (loss, steps, samples, learning_rate, grad_norm) = (None, None, None, None, None);
        Self { epoch, step, loss, steps, samples, learning_rate, grad_norm }
    }

    /// The loss. On a GPU, reading it waits for the step to end: report it now and then, not each time.
    pub(crate) fn loss(self, loss: f64) -> Self {
        Self { loss: Some(loss), ..self }
    }

    /// The number of steps that the run will have.
    pub(crate) fn total_steps(self, steps: u64) -> Self {
        Self { steps: Some(steps), ..self }
    }

    /// The number of samples in this step, of all ranks together.
    pub(crate) fn samples(self, samples: u64) -> Self {
        Self { samples: Some(samples), ..self }
    }

    /// The learning rate of the step.
    pub(crate) fn learning_rate(self, learning_rate: f64) -> Self {
        Self { learning_rate: Some(learning_rate), ..self }
    }

    /// The norm of the gradients. As with the loss, reading it from a GPU waits for the step to end.
    pub(crate) fn grad_norm(self, grad_norm: f64) -> Self {
        Self { grad_norm: Some(grad_norm), ..self }
    }
}
