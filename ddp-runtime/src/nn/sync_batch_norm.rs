//! `SyncBatchNorm`: batch normalization over the batches of all ranks.

use std::borrow::Borrow;
use std::cell::Cell;

use tch::nn::{BatchNormConfig, ModuleT, Path};
use tch::{Kind, Tensor};

use crate::error::check;
use crate::{Error, ProcessGroup, Result, sys};

/// Batch normalization with the statistics of all ranks' batches: `torch.nn.SyncBatchNorm`
/// (`torch/nn/modules/batchnorm.py`, `torch/nn/modules/_functions.py`).
///
/// Input and output: `[N, C, ...]` of 2 to 5 dimensions, `Float` or `Double`; with `Float` parameters also `Half` and
/// `BFloat16`, which are accumulated in `Float`. `N` and the dimensions after `C` may differ between ranks: each value counts
/// the same. A rank may have an empty batch.
///
/// In training, each forward pass gathers the ranks' means, variances and counts, and each backward pass adds up two numbers
/// per channel. So all ranks must run the same layers in the same order, forward and backward. In evaluation, and in a
/// group of one rank, it is tch's [`batch_norm`](tch::nn::batch_norm2d), without communication.
///
/// The variables are those of tch's layers (`weight`, `bias`, `running_mean`, `running_var`), so weights and snapshots of one
/// fit the other. Unlike Python's layer, which refuses CPU tensors, it also runs on the CPU. A second derivative is an error.
///
/// With [`Ddp`](crate::Ddp), pass [`Context::group`](crate::Context::group). If ranks use different parameters in a step
/// ([`find_unused_parameters`](crate::DdpOptions::find_unused_parameters)), the order of its collectives and of DDP's may
/// differ between ranks: then pass a [group](ProcessGroup::new_group) of all ranks that only these layers use.
/// [`Ddp::join`](crate::Ddp::join) does not take part in its collectives.
///
/// ```
/// use ddp_runtime::{Context, Ddp, nn::sync_batch_norm};
/// use tch::{Kind, Tensor, nn::{self, ModuleT}};
///
/// # fn main() -> Result<(), ddp_runtime::Error> {
/// let context = Context::init()?;
/// let vs = nn::VarStore::new(context.device());
/// let root = vs.root();
/// let model = nn::seq_t()
///     .add(nn::conv2d(&root / "conv", 3, 8, 3, Default::default()))
///     .add(sync_batch_norm(&root / "norm", context.group(), 8, Default::default()))
///     .add_fn(|x| x.relu());
/// let ddp = Ddp::new(context.group(), &vs)?;
///
/// let x = Tensor::randn([4, 3, 8, 8], (Kind::Float, context.device()));
/// let loss = ddp.forward(|| model.forward_t(&x, true).mean(Kind::Float))?;
/// ddp.backward(&loss)?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct SyncBatchNorm {
    group: ProcessGroup,
    channels: i64,
    config: BatchNormConfig,
    /// The mean of each channel, `[C]`, over the batches so far; `None` if it is not tracked.
    pub running_mean: Option<Tensor>,
    /// The unbiased variance of each channel, `[C]`, likewise.
    pub running_var: Option<Tensor>,
    /// The weight, `[C]`, unless [`affine`](BatchNormConfig::affine) is off.
    pub ws: Option<Tensor>,
    /// The bias, `[C]`, likewise.
    pub bs: Option<Tensor>,
    /// Whether the ranks have compared their first calls.
    compared: Cell<bool>,
}

/// A layer for `channels` channels, whose batches are those of all ranks in `group`.
///
/// `config` is tch's, with its meaning (PyTorch's defaults, but for the weight: uniform from 0 to 1).
pub fn sync_batch_norm<'a>(
    path: impl Borrow<Path<'a>>,
    group: &ProcessGroup,
    channels: i64,
    config: BatchNormConfig,
) -> SyncBatchNorm {
    let path = path.borrow();
    let mut norm = sync_batch_norm_untracked(path, group, channels, config);
    norm.running_mean = Some(path.zeros_no_train("running_mean", &[channels]));
    norm.running_var = Some(path.ones_no_train("running_var", &[channels]));
    norm
}

/// As [`sync_batch_norm`], without running statistics (`track_running_stats=False`): in evaluation, the statistics are those
/// of this rank's batch.
pub fn sync_batch_norm_untracked<'a>(
    path: impl Borrow<Path<'a>>,
    group: &ProcessGroup,
    channels: i64,
    config: BatchNormConfig,
) -> SyncBatchNorm {
    let path = path.borrow();
    let variable = |name, init| config.affine.then(|| path.var(name, &[channels], init));
    SyncBatchNorm {
        group: group.clone(),
        channels,
        config,
        running_mean: None,
        running_var: None,
        ws: variable("weight", config.ws_init),
        bs: variable("bias", config.bs_init),
        compared: Cell::new(false),
    }
}

impl SyncBatchNorm {
    /// Normalizes `xs` by the batch of all ranks (`train`), or by the running statistics.
    ///
    /// [`forward_t`](ModuleT::forward_t) is the same with a panic for an error, as of tch's layers.
    ///
    /// # Errors
    /// [`Error::Invalid`] for another shape, dtype or device than the layer's. In the first pass in training, unless the group
    /// [does not compare](crate::ContextBuilder::check_collectives): an error of one rank is [`Error::CallsDiffer`] on
    /// the others, and so are layers that differ. [`Error::Torch`] when a rank is gone, and, on the CPU, for one value
    /// per channel in all batches together; [`Error::Timeout`] when ranks do not arrive.
    pub fn f_forward_t(&self, xs: &Tensor, train: bool) -> Result<Tensor> {
        let checked = self.check_input(xs);
        if !train || self.group.world_size() == 1 {
            checked?;
            return self.forward_alone(xs, train);
        }
        if self.compared.get() {
            checked?;
        } else {
            self.group.check_equal_or(checked, "SyncBatchNorm", &self.words(xs))?;
            self.compared.set(true);
        }
        let pointer = |tensor: &Option<Tensor>| tensor.as_ref().map_or(std::ptr::null(), Tensor::as_ptr);
        let norm = sys::ddp_batch_norm {
            weight: pointer(&self.ws),
            bias: pointer(&self.bs),
            running_mean: pointer(&self.running_mean),
            running_var: pointer(&self.running_var),
            momentum: self.config.momentum,
            eps: self.config.eps,
        };
        let (group, input) = (self.group.as_ptr(), xs.as_ptr());
        let mut result = std::ptr::null_mut();
        // SAFETY: the group and the tensors are live for the call, and the graph keeps its own references; `result` is
        // written on success only.
        check("SyncBatchNorm", |error| unsafe { sys::ddp_sync_batch_norm(group, input, &norm, &mut result, error) })?;
        // SAFETY: the call made this tensor for its caller, and nobody else has it.
        Ok(unsafe { Tensor::from_ptr(result) })
    }

    fn forward_alone(&self, xs: &Tensor, train: bool) -> Result<Tensor> {
        xs.f_batch_norm(
            self.ws.as_ref(),
            self.bs.as_ref(),
            self.running_mean.as_ref(),
            self.running_var.as_ref(),
            train || self.running_mean.is_none(),
            self.config.momentum,
            self.config.eps,
            self.config.cudnn_enabled,
        )
        .map_err(Error::tch("SyncBatchNorm"))
    }

    fn check_input(&self, xs: &Tensor) -> Result<()> {
        if !xs.defined() {
            return Err(Error::Invalid("the input of SyncBatchNorm is an undefined tensor".into()));
        }
        let size = xs.size();
        if !(2..=5).contains(&size.len()) || size[1] != self.channels || self.channels == 0 {
            let channels = self.channels;
            let problem =
                format!("SyncBatchNorm expects input [N, {channels}, ...] of 2 to 5 dimensions, got {size:?}");
            return Err(Error::Invalid(problem));
        }
        let kind = xs.kind();
        let is_half = matches!(kind, Kind::Half | Kind::BFloat16);
        if !is_half && !matches!(kind, Kind::Float | Kind::Double) {
            return Err(Error::Invalid(format!("SyncBatchNorm expects floating point input, got {kind:?}")));
        }
        let Some(own) = self.ws.as_ref().or(self.running_mean.as_ref()) else { return Ok(()) };
        if own.kind() != kind && !(is_half && own.kind() == Kind::Float) {
            let problem = format!("SyncBatchNorm with {:?} parameters can't take {kind:?} input", own.kind());
            return Err(Error::Invalid(problem));
        }
        if own.device() != xs.device() {
            let (own, device) = (own.device(), xs.device());
            return Err(Error::Invalid(format!(
                "the input of SyncBatchNorm is on {device:?}, but the layer is on {own:?}"
            )));
        }
        Ok(())
    }

    /// What must be equal on all ranks.
    fn words(&self, xs: &Tensor) -> String {
        let Self { channels, config: BatchNormConfig { eps, momentum, affine, .. }, .. } = self;
        let tracked = if self.running_mean.is_some() { "tracked" } else { "untracked" };
        let device = if xs.defined() && xs.device().is_cuda() { "CUDA" } else { "the CPU" };
        let kind = if xs.defined() && xs.kind() == Kind::Double { Kind::Double } else { Kind::Float };
        let affine = if *affine { "affine" } else { "not affine" };
        format!(
            "SyncBatchNorm({channels}, eps {eps}, momentum {momentum}, {affine}, {tracked}) in {kind:?} on {device}"
        )
    }
}

impl ModuleT for SyncBatchNorm {
    /// As [`f_forward_t`](SyncBatchNorm::f_forward_t).
    ///
    /// # Panics
    /// With its error.
    fn forward_t(&self, xs: &Tensor, train: bool) -> Tensor {
        self.f_forward_t(xs, train).unwrap_or_else(|err| panic!("{err}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Backend, Context};
    use tch::Device;
    use tch::nn::{VarStore, batch_norm2d};

    const FLOAT: (Kind, Device) = (Kind::Float, Device::Cpu);

    fn pair(config: BatchNormConfig) -> (VarStore, SyncBatchNorm, VarStore, tch::nn::BatchNorm) {
        let context = Context::builder().backend(Backend::Gloo).init().unwrap();
        let (ours, theirs) = (VarStore::new(Device::Cpu), VarStore::new(Device::Cpu));
        let norm = sync_batch_norm(ours.root() / "norm", context.group(), 3, config);
        let reference = batch_norm2d(theirs.root() / "norm", 3, config);
        (ours, norm, theirs, reference)
    }

    #[test]
    fn sync_batch_norm_on_one_rank_is_batch_norm_to_the_last_bit() {
        for affine in [true, false] {
            let (mut vs, norm, theirs, reference) = pair(BatchNormConfig { affine, ..Default::default() });
            vs.copy(&theirs).unwrap();
            let mut names: [Vec<String>; 2] = [&vs, &theirs].map(|vs| vs.variables().into_keys().collect());
            names.iter_mut().for_each(|names| names.sort());
            assert_eq!(names[0], names[1]);
            let x = Tensor::randn([4, 3, 5, 5], FLOAT);
            for train in [true, false] {
                assert_eq!(norm.forward_t(&x, train), reference.forward_t(&x, train));
            }
            assert_eq!(norm.running_var.unwrap(), reference.running_var);
        }
    }

    #[test]
    fn sync_batch_norm_refuses_wrong_inputs() {
        let (_vs, norm, ..) = pair(Default::default());
        for (x, problem) in [
            (Tensor::zeros([3], FLOAT), "of 2 to 5 dimensions, got [3]"),
            (Tensor::zeros([1, 3, 1, 1, 1, 1], FLOAT), "of 2 to 5 dimensions"),
            (Tensor::zeros([4, 2], FLOAT), "expects input [N, 3, ...]"),
            (Tensor::zeros([4, 3], (Kind::Int64, Device::Cpu)), "floating point input, got Int64"),
            (Tensor::zeros([4, 3], (Kind::Double, Device::Cpu)), "with Float parameters can't take Double"),
            (Tensor::new(), "undefined"),
        ] {
            for train in [true, false] {
                let Err(Error::Invalid(message)) = norm.f_forward_t(&x, train) else { panic!("{problem}") };
                assert!(message.contains(problem), "{message}");
            }
        }
    }

    #[test]
    #[should_panic(expected = "expects input [N, 3, ...] of 2 to 5 dimensions, got [4, 2]")]
    fn forward_t_panics_with_the_error() {
        let (_vs, norm, ..) = pair(Default::default());
        let _ = norm.forward_t(&Tensor::zeros([4, 2], FLOAT), true);
    }
}
