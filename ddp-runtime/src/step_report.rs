/// An optimizer step that is done, for the launcher to show: see [`Context::report`](crate::Context::report).
#[derive(Clone, Copy, Debug, PartialEq)]
#[must_use]
pub struct StepReport {
    pub(crate) epoch: u64,
    pub(crate) step: u64,
    pub(crate) loss: Option<f64>,
    pub(crate) steps: Option<u64>,
    pub(crate) samples: Option<u64>,
}

impl StepReport {
    /// Step number `step` over all epochs, from 1, which belongs to `epoch`, from 0.
    pub fn new(epoch: u64, step: u64) -> Self {
        Self { epoch, step, loss: None, steps: None, samples: None }
    }

    /// The loss. On a GPU, reading it waits for the step to end: give it now and then, not each time.
    pub fn loss(self, loss: f64) -> Self {
        Self { loss: Some(loss), ..self }
    }

    /// The number of steps that the whole run will have.
    pub fn of(self, steps: u64) -> Self {
        Self { steps: Some(steps), ..self }
    }

    /// The number of samples in this step, of all ranks together.
    pub fn samples(self, samples: u64) -> Self {
        Self { samples: Some(samples), ..self }
    }
}
