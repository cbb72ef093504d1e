//! Communication hooks: how gradients travel between ranks, in your own code.
//!
//! [`Ddp::register_comm_hook`](crate::Ddp::register_comm_hook) takes a closure that is called with each bucket of gradients
//! as soon as backward has filled it (`torch/nn/parallel/distributed.py`, `register_comm_hook`). The closure starts the
//! communication and returns a [`HookWork`], which finishes it at the end of the backward pass. Backward continues in the
//! meantime. [`PowerSgd`] is a hook that sends gradients as products of small matrices.

mod callbacks;
mod power_sgd;

use std::fmt;

use tch::Tensor;

use crate::{Error, ProcessGroup, ReduceOp, Result};

pub(crate) use callbacks::{Failure, register};
pub use power_sgd::{Compression, PowerSgd, PowerSgdOptions};

/// Some of a model's gradients in one flat tensor (`torch.distributed.GradBucket`).
///
/// The tensors are handles of the reducer's own memory, which the next step reuses: do not keep them beyond the
/// [`HookWork`].
#[derive(Debug)]
pub struct GradBucket {
    index: usize,
    is_last: bool,
    buffer: Tensor,
    gradients: Vec<Tensor>,
    parameters: Vec<Tensor>,
    names: Vec<String>,
}

impl GradBucket {
    /// The number of the bucket in its step, from 0. The parameters in it change once, after the first step, when DDP
    /// rebuilds its buckets.
    pub fn index(&self) -> usize {
        self.index
    }

    /// Whether the bucket is the last one of this step.
    pub fn is_last(&self) -> bool {
        self.is_last
    }

    /// The gradients one after another, as one dimension. They are this rank's, and not divided by the number of ranks.
    pub fn buffer(&self) -> &Tensor {
        &self.buffer
    }

    /// The gradients in the shapes of their parameters: views of [`buffer`](Self::buffer).
    pub fn gradients(&self) -> &[Tensor] {
        &self.gradients
    }

    /// The parameters, in the order of [`gradients`](Self::gradients).
    pub fn parameters(&self) -> &[Tensor] {
        &self.parameters
    }

    /// The names of the parameters, in the order of [`gradients`](Self::gradients).
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// The buffer, by value.
    pub fn into_buffer(self) -> Tensor {
        self.buffer
    }
}

/// Communication that a hook has started, and what finishes it (the `Future` that a hook returns in Python).
///
/// `finish` runs once, at the end of the backward pass, in the order of the buckets. It waits for what was started, and gives
/// the tensor whose values become the bucket's gradients: contiguous, with the number of elements, the dtype and the device of
/// [`GradBucket::buffer`]. It may start more collectives and wait for them. On CUDA,
/// [`Work::wait`](crate::Work::wait) only makes the stream wait, on which the gradients are used afterwards.
///
/// If the backward pass fails, `finish` is dropped without a call.
pub struct HookWork {
    finish: Box<dyn FnOnce() -> Result<Tensor> + Send>,
}

impl HookWork {
    /// Communication that `finish` completes.
    pub fn new(finish: impl FnOnce() -> Result<Tensor> + Send + 'static) -> Self {
        Self { finish: Box::new(finish) }
    }

    /// Gradients that are complete already.
    pub fn ready(gradients: Tensor) -> Self {
        Self::new(move || Ok(gradients))
    }
}

impl fmt::Debug for HookWork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HookWork")
    }
}

/// Averages a bucket over the ranks of `group`
/// (`torch/distributed/algorithms/ddp_comm_hooks/default_hooks.py`, `allreduce_hook`).
///
/// Like Python's, it divides the gradients before it sums them. DDP without a hook multiplies them by the reciprocal, which
/// may differ in the last bit if the number of ranks is not a power of two.
///
/// ```
/// use ddp_runtime::{Context, Ddp, comm_hook};
/// use tch::nn;
///
/// # fn main() -> ddp_runtime::Result<()> {
/// let context = Context::init()?;
/// let vs = nn::VarStore::new(context.device());
/// let _model = nn::linear(vs.root(), 2, 1, Default::default());
/// let ddp = Ddp::new(context.group(), &vs)?;
/// let group = context.group().clone();
/// ddp.register_comm_hook(move |bucket| comm_hook::all_reduce(&group, bucket))?;
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// [`Error::Torch`] and [`Error::Timeout`] from the group.
pub fn all_reduce(group: &ProcessGroup, bucket: GradBucket) -> Result<HookWork> {
    let mut buffer = bucket.into_buffer();
    let _ = buffer.f_div_scalar_(group.world_size() as f64).map_err(failed)?;
    let work = group.all_reduce_async(&mut buffer, ReduceOp::Sum)?;
    Ok(HookWork::new(move || work.wait().map(|()| buffer)))
}

/// An error of libtorch in a hook of this module.
fn failed(err: tch::TchError) -> Error {
    Error::tch("communication hook")(err)
}
