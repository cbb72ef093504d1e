//! Learning rate schedulers with PyTorch's rates to the last bit (`torch.optim.lr_scheduler`).
//!
//! A [`Schedule`] is a rule with its settings, a [`Scheduler`] applies it to an optimizer. Making a scheduler sets the
//! optimizer's first learning rate; [`LrScheduler::step`] sets the next one, after [`Optimizer::step`], once per epoch
//! or per batch, as the rule is meant. Every rank runs the same schedule, so nothing is sent between ranks.
//!
//! ```
//! use ddp_runtime::lr_scheduler::{CosineAnnealing, Linear, LrScheduler, Schedule, SequentialLr};
//! use ddp_runtime::Stateful;
//! use ddp_runtime::optim::{Optimizer, Sgd, SgdOptions};
//! use tch::{Device, nn};
//!
//! # fn main() -> ddp_runtime::Result<()> {
//! let vs = nn::VarStore::new(Device::Cpu);
//! let mut optimizer = Sgd::new(&vs, SgdOptions { lr: 0.4, ..Default::default() });
//! // Five epochs of warm-up, then half a cosine.
//! let warm_up = Linear { start_factor: 0.25, total_iters: 5, ..Default::default() };
//! let schedules = [warm_up.boxed(), CosineAnnealing::new(95).boxed()];
//! let mut scheduler = SequentialLr::new(&mut optimizer, schedules, [5])?;
//! assert_eq!(optimizer.learning_rate(), 0.1);
//! for _epoch in 0..5 {
//!     // ... optimizer.step()? for each batch ...
//!     scheduler.step(&mut optimizer)?;
//! }
//! assert_eq!(optimizer.learning_rate(), 0.4);
//!
//! // After a restart, an optimizer and a scheduler that are made in the same way continue from the state. A `Run` does this.
//! let state = scheduler.state_dict()?;
//! scheduler.load_state_dict(&state)?;
//! scheduler.restore_optimizer(&mut optimizer)?;
//! # Ok(())
//! # }
//! ```
//!
//! # What differs from Python
//! PyTorch keeps the rate that an optimizer was
//! made with as its `initial_lr`; here it is the rate that the scheduler found. Make all schedules of a [`SequentialLr`]
//! with it, rather than several schedulers for one optimizer.

mod cosine;
mod exact;
mod lambda;
mod linear;
mod one_cycle;
mod plateau;
mod schedule;
mod scheduler;
mod sequential;
mod state;
mod step;

pub use cosine::{CosineAnnealing, CosineAnnealingLr, CosineAnnealingWarmRestarts, CosineAnnealingWarmRestartsLr};
pub use lambda::{Lambda, LambdaLr};
pub use linear::{Linear, LinearLr};
pub use one_cycle::{AnnealStrategy, CycleMomentum, OneCycle, OneCycleLr};
pub use plateau::{PlateauMode, ReduceLrOnPlateau, ReduceLrOnPlateauOptions, ThresholdMode};
pub use schedule::Schedule;
pub use scheduler::Scheduler;
pub use sequential::SequentialLr;
pub use step::{Exponential, ExponentialLr, MultiStep, MultiStepLr, Step, StepLr};

use crate::Result;
use crate::train::optim::Optimizer;
use crate::train::stateful::Stateful;

/// What a training loop and a snapshot need of a scheduler: `torch.optim.lr_scheduler.LRScheduler`.
///
/// Its [state](Stateful) has, as in PyTorch, the settings, too; it is the value `scheduler`. Floats are text, so that they come
/// back to the last bit whatever the JSON passes through. Loading it leaves the optimizer's rates alone until
/// [`restore_optimizer`](Stateful::restore_optimizer) sets them.
///
/// [`ReduceLrOnPlateau`] is not one of these, because its step needs a metric.
pub trait LrScheduler: Stateful {
    /// Sets the optimizer's next learning rate; call it after [`Optimizer::step`].
    ///
    /// Most rules continue from the optimizer's rate, so one that was changed by hand is respected, as in PyTorch.
    ///
    /// # Errors
    /// [`Error::Invalid`](crate::Error::Invalid) where the schedule has no rate, such as after the end of [`OneCycle`];
    /// then nothing changes.
    fn step(&mut self, optimizer: &mut dyn Optimizer) -> Result<()>;

    /// The learning rate that was set last; of several parameter groups, the first one's.
    fn last_lr(&self) -> f64 {
        self.last_lrs().first().copied().unwrap_or(f64::NAN)
    }

    /// The learning rates that were set last, one per parameter group (PyTorch's `get_last_lr`).
    fn last_lrs(&self) -> &[f64];

    /// The momentum that was set last, if the schedule sets one.
    fn last_momentum(&self) -> Option<f64> {
        None
    }
}

impl<L: LrScheduler + ?Sized> LrScheduler for Box<L> {
    fn step(&mut self, optimizer: &mut dyn Optimizer) -> Result<()> {
        (**self).step(optimizer)
    }

    fn last_lrs(&self) -> &[f64] {
        (**self).last_lrs()
    }

    fn last_momentum(&self) -> Option<f64> {
        (**self).last_momentum()
    }
}

fn set(optimizer: &mut dyn Optimizer, lrs: &[f64], momentum: Option<f64>) -> Result<()> {
    optimizer.set_learning_rates(lrs)?;
    match momentum {
        Some(momentum) => optimizer.set_momenta(&vec![momentum; lrs.len()]),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests;
