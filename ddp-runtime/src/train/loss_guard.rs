//! `LossGuard`: what happens when a loss is NaN or infinite.

use std::collections::VecDeque;

use tch::nn::VarStore;
use tch::{Device, Kind, Tensor};

use crate::cuda::side_stream::{Copies, SideStream, pinned_bytes};
use crate::dist::health::Health;
use crate::dist::params;
use crate::worker::deferred::Deferred;
use crate::worker::process::process;
use crate::{Context, Error, ProcessGroup, Result};

/// What a run does about a loss that is not a finite number (NaN, infinite).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NonFinite {
    /// Rank 0 prints a warning, once, and training continues.
    #[default]
    Warn,
    /// All ranks end with [`Error::NonFiniteLoss`] before the optimizer's step.
    Stop,
    /// All ranks leave out the optimizer's step, and BatchNorm's statistics are as before it. When the weights are not
    /// finite themselves, no later step can be taken either: then all ranks end with [`Error::NonFiniteLoss`].
    Skip,
}

/// Looks at the losses of a training loop, so that a loss that is not a finite number is noticed.
/// [`Trainer::non_finite`](crate::Trainer::non_finite) uses one.
///
/// [`Warn`](NonFinite::Warn) never waits for a GPU: the warning is printed when the GPU has computed the loss. For
/// [`Stop`](NonFinite::Stop) and [`Skip`](NonFinite::Skip) the ranks exchange a number in each step, and wait for the loss
/// to be computed: a loss that is bad on one rank alone stops or skips the step on all.
///
/// ```
/// use ddp_runtime::optim::{Optimizer, Sgd, SgdOptions};
/// use ddp_runtime::{Context, Ddp, LossGuard, NonFinite};
/// use tch::{Kind, Tensor, nn, nn::Module};
/// # fn main() -> ddp_runtime::Result<()> {
/// let context = Context::init()?;
/// let vs = nn::VarStore::new(context.device());
/// let model = nn::linear(vs.root(), 2, 1, Default::default());
/// let ddp = Ddp::new(context.group(), &vs)?;
/// let mut optimizer = Sgd::new(&vs, SgdOptions::default());
/// // After `Run::resume`:
/// let mut guard = LossGuard::new(&context, &vs, NonFinite::Skip);
/// for step in 1..=3 {
///     let x = Tensor::full([8, 2], if step == 2 { f64::NAN } else { 1.0 }, (Kind::Float, context.device()));
///     optimizer.zero_grad()?;
///     let loss = ddp.forward(|| model.forward(&x).square().mean(Kind::Float))?;
///     ddp.backward(&loss)?;
///     if guard.check(&loss, step)? {
///         optimizer.step()?;
///     }
/// }
/// assert_eq!(guard.skipped(), 1);
/// assert_eq!(model.ws.isfinite().all().int64_value(&[]), 1);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct LossGuard {
    policy: NonFinite,
    group: ProcessGroup,
    health: Health,
    weights: Vec<Tensor>,
    /// Buffers, and what they held after the last step that was taken.
    buffers: Vec<(Tensor, Tensor)>,
    /// Losses on a GPU that were not looked at yet, oldest first.
    pending: VecDeque<Pending>,
    /// Where they are copied; made for the first of them.
    stream: Option<SideStream>,
    skipped: u64,
    /// The newest loss that a GPU has computed.
    latest: Option<f64>,
}

/// More pending losses than a GPU's queue has room for; with more, the loop waits for the oldest.
const MOST_PENDING: usize = 1024;

impl LossGuard {
    /// A guard for the training of the model in `vs`. Make it after a snapshot is loaded.
    pub fn new(context: &Context, vs: &VarStore, policy: NonFinite) -> Self {
        process().deferred.finish(); // the losses of the guard before
        let skips = policy == NonFinite::Skip;
        // Statistics are vectors; copies of what is larger (frozen weights) would cost too much.
        let buffers = params::buffers(vs).into_iter().filter(|(_, buffer)| skips && buffer.dim() <= 1);
        Self {
            policy,
            group: context.group().clone(),
            health: context.health().clone(),
            weights: params::trained(vs).into_iter().map(|(_, weights)| weights).collect(),
            buffers: buffers.map(|(_, buffer)| (buffer.shallow_clone(), buffer.copy())).collect(),
            pending: VecDeque::new(),
            stream: None,
            skipped: 0,
            latest: None,
        }
    }

    /// Looks at this rank's loss in step number `step` (over all epochs, from 1), and returns whether the optimizer's step is
    /// to be taken: always, unless the policy is to skip. Call it between backward and that step, on every rank; with
    /// [`Stop`](NonFinite::Stop) and [`Skip`](NonFinite::Skip) not in [`Ddp::join`](crate::Ddp::join).
    ///
    /// # Errors
    /// [`Error::NonFiniteLoss`] on all ranks, by the policy; [`Error::Torch`], also when another rank is gone.
    pub fn check(&mut self, loss: &Tensor, step: u64) -> Result<bool> {
        if self.policy == NonFinite::Warn {
            self.warn_of(loss, step)?;
            return Ok(true);
        }
        let value = number(loss)?;
        let is_bad = !value.is_finite();
        let broken = is_bad && !self.has_finite_weights()?;
        // The first of the ranks with a bad loss has the largest number.
        let place = if is_bad { self.group.world_size() - self.group.rank() } else { 0 };
        let mine = [i64::try_from(place).unwrap_or(i64::MAX), i64::from(broken)];
        let [place, broken] = self.group.largest("comparing losses", mine)?;
        if place == 0 {
            self.health.see_loss(step, value);
            for (buffer, copy) in &mut self.buffers {
                tch::no_grad(|| copy.f_copy_(buffer)).map_err(failed)?;
            }
            return Ok(true);
        }
        let rank = self.group.world_size().saturating_sub(usize::try_from(place).unwrap_or(0));
        if self.policy == NonFinite::Stop || broken != 0 {
            return Err(Error::NonFiniteLoss { rank, step, weights: broken != 0 });
        }
        for (buffer, copy) in &mut self.buffers {
            tch::no_grad(|| buffer.f_copy_(copy)).map_err(failed)?;
        }
        self.skipped += 1;
        self.health.report(&format!(
            "the loss of rank {rank} is not a finite number at step {step}: all ranks skip this step and later ones like it"
        ));
        Ok(false)
    }

    /// How many steps it has skipped.
    pub fn skipped(&self) -> u64 {
        self.skipped
    }

    /// Looks at the losses that are still pending, and waits for them.
    pub(crate) fn look(&mut self) -> Result<()> {
        for pending in self.pending.drain(..) {
            self.latest = Some(pending.see(&self.health)?);
        }
        Ok(())
    }

    /// Looks at a loss on the CPU now, and at those on a GPU that have been computed by now.
    fn warn_of(&mut self, loss: &Tensor, step: u64) -> Result<()> {
        let device = loss.device();
        if device == Device::Cpu {
            self.health.see_loss(step, number(loss)?);
            return Ok(());
        }
        let stream = match &mut self.stream {
            Some(stream) => stream,
            none => none.insert(SideStream::new(device)?),
        };
        self.pending.push_back(Pending::copy(loss, step, stream)?);
        let is_due = |pending: &VecDeque<Pending>| {
            pending.len() > MOST_PENDING || pending.front().is_some_and(|oldest| oldest.copies.are_done())
        };
        while is_due(&self.pending)
            && let Some(oldest) = self.pending.pop_front()
        {
            self.latest = Some(oldest.see(&self.health)?);
        }
        Ok(())
    }

    /// The newest loss that a GPU has computed, as far as it was looked at.
    pub(crate) fn latest(&self) -> Option<f64> {
        self.latest
    }

    fn has_finite_weights(&self) -> Result<bool> {
        let finite = |weights: &Tensor| bool::try_from(weights.f_isfinite()?.f_all()?);
        self.weights.iter().try_fold(true, |so_far, weights| Ok(so_far && finite(weights)?)).map_err(failed)
    }
}

impl Drop for LossGuard {
    /// The last losses are looked at, too, unless the program has failed: a GPU may wait for a rank that is gone.
    fn drop(&mut self) {
        let pending = std::mem::take(&mut self.pending);
        if !pending.is_empty() {
            process().deferred.defer(Left { losses: pending, health: self.health.clone() });
        }
    }
}

/// A loss on its way from a GPU.
#[derive(Debug)]
struct Pending {
    step: u64,
    /// In pinned memory.
    value: Tensor,
    copies: Copies,
}

impl Pending {
    fn copy(loss: &Tensor, step: u64, stream: &SideStream) -> Result<Self> {
        let sum = tch::no_grad(|| loss.f_sum(Kind::Double)?.f_view([1])).map_err(failed)?;
        let mut value = pinned_bytes(8)?.f_view_dtype(Kind::Double).map_err(failed)?;
        stream.to_host(&sum, &mut value)?;
        Ok(Self { step, value, copies: stream.end()? })
    }

    /// Waits for the copy.
    fn see(self, health: &Health) -> Result<f64> {
        self.copies.wait()?;
        let loss = number(&self.value)?;
        health.see_loss(self.step, loss);
        Ok(loss)
    }
}

/// Losses that a dropped guard did not look at.
struct Left {
    losses: VecDeque<Pending>,
    health: Health,
}

impl Deferred for Left {
    fn finish(self: Box<Self>) {
        for loss in self.losses {
            let _ = loss.see(&self.health); // fails if the GPU is lost, which the program's own calls report
        }
    }
}

/// A loss as a number: that of several elements is finite if all of them are.
fn number(loss: &Tensor) -> Result<f64> {
    let sum = tch::no_grad(|| loss.f_sum(Kind::Double)?.f_double_value(&[]));
    sum.map_err(failed)
}

fn failed(err: tch::TchError) -> Error {
    Error::tch("checking the loss")(err)
}
