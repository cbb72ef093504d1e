/// An optimizer step that is done, for the launcher to show: see [`Context::report`](crate::Context::report).
#[derive(Clone, Copy, Debug, PartialEq)]
#[must_use]
pub struct StepReport {
    pub(crate) epoch: u64,
    pub(crate) step: u64,
    pub(crate) loss: Option<f64>,
    pub(crate) steps: Option<u64>,
    pub(crate) samples: Option<u64>,
    pub(crate) learning_rate: Option<f64>,
    pub(crate) grad_norm: Option<f64>,
    pub(crate) memory: Option<u64>,
}

impl StepReport {
    /// Step number `step` over all epochs, from 1, which belongs to `epoch`, from 0.
    pub fn new(epoch: u64, step: u64) -> Self {
        let (loss, steps, samples, learning_rate, grad_norm, memory) = (None, None, None, None, None, None);
        Self { epoch, step, loss, steps, samples, learning_rate, grad_norm, memory }
    }

    /// The loss. On a GPU, reading it waits for the step to end: give it now and then, not each time.
    pub fn loss(self, loss: f64) -> Self {
        Self { loss: Some(loss), ..self }
    }

    /// The number of steps that the run will have.
    pub fn of(self, steps: u64) -> Self {
        Self { steps: Some(steps), ..self }
    }

    /// The number of samples in this step, of all ranks together.
    pub fn samples(self, samples: u64) -> Self {
        Self { samples: Some(samples), ..self }
    }

    /// The learning rate of the step.
    pub fn learning_rate(self, learning_rate: f64) -> Self {
        Self { learning_rate: Some(learning_rate), ..self }
    }

    /// The norm of the gradients. As with the loss, reading it from a GPU waits for the step to end.
    pub fn grad_norm(self, grad_norm: f64) -> Self {
        Self { grad_norm: Some(grad_norm), ..self }
    }

    /// Memory that this worker uses, in bytes: on its GPU, or as a process.
    pub fn memory(self, bytes: u64) -> Self {
        Self { memory: Some(bytes), ..self }
    }
}
