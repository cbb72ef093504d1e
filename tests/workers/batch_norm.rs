//! `SyncBatchNorm` on several ranks, against tch's batch norm of all ranks' batches in one process.

use std::process::ExitCode;

use anyhow::{Context as _, Result, ensure};
use ddp_runtime::amp::Autocast;
use ddp_runtime::nn::{sync_batch_norm, sync_batch_norm_untracked};
use ddp_runtime::{Context, Ddp, DdpOptions, Error, ProcessGroup, ReduceOp};
use tch::nn::{self, BatchNormConfig, ModuleT, VarStore};
use tch::{Device, Kind, Tensor};

pub(crate) fn main() -> ExitCode {
    ddp_runtime::main(work)
}

fn work() -> Result<()> {
    let context = Context::init()?;
    ensure!(context.world_size() > 1, "one rank alone has nobody to exchange statistics with");
    for dims in [&[][..], &[5], &[4, 3], &[2, 3, 2]] {
        layer(&context, &Case { dims, ..Case::default() }).with_context(|| format!("dimensions {dims:?}"))?;
    }
    let sizes: [(&str, Size); 4] = [
        ("uneven", |rank, _| rank as i64 * 3 + 1),
        ("first empty", |rank, _| if rank == 0 { 0 } else { rank as i64 + 2 }),
        ("last empty", |rank, world| if rank + 1 == world { 0 } else { rank as i64 + 2 }),
        ("one only", |rank, _| if rank == 1 { 6 } else { 0 }),
    ];
    for (name, size) in sizes {
        layer(&context, &Case { size, ..Case::default() }).context(name)?;
        layer(&context, &Case { size, affine: false, ..Case::default() })
            .with_context(|| format!("{name}, not affine"))?;
    }
    for (input, parameters) in [
        (Kind::Double, Kind::Double),
        (Kind::BFloat16, Kind::Float),
        (Kind::Half, Kind::Float),
        (Kind::BFloat16, Kind::BFloat16),
    ] {
        layer(&context, &Case { input, parameters, ..Case::default() })
            .with_context(|| format!("{input:?}, {parameters:?}"))?;
    }
    layer(&context, &Case { strided: true, ..Case::default() }).context("strided")?;
    layer(&context, &Case { tracked: false, ..Case::default() }).context("untracked")?;

    nothing_at_all(&context)?;
    autocast(&context)?;
    second_derivative(&context)?;
    dropped_group(&context)?;
    mistakes(&context)?;

    model(&context, &DdpOptions::default(), 1).context("Ddp")?;
    // A bucket for each parameter, so that buckets and statistics take turns.
    let mut options = DdpOptions::default();
    (options.bucket_cap_bytes, options.first_bucket_bytes) = (1, 1);
    model(&context, &options, 1).context("Ddp with tiny buckets")?;
    model(&context, &options, 3).context("no_sync")?;
    options.static_graph = true;
    model(&context, &options, 1).context("static graph")?;
    options.static_graph = false;
    options.find_unused_parameters = true;
    model(&context, &options, 1).context("find_unused_parameters")?;
    ranks_that_differ(&context, &options).context("ranks that use different parameters")?;
    println!("SyncBatchNorm is right");
    Ok(())
}

/// The size of a rank's batch, given its number and the number of ranks.
type Size = fn(usize, usize) -> i64;

/// One layer on random batches.
struct Case<'a> {
    dims: &'a [i64],
    size: Size,
    input: Kind,
    parameters: Kind,
    affine: bool,
    tracked: bool,
    /// The channels are the last dimension in memory.
    strided: bool,
}

impl Default for Case<'_> {
    fn default() -> Self {
        let (input, parameters) = (Kind::Float, Kind::Float);
        Self { dims: &[4, 3], size: |_, _| 4, input, parameters, affine: true, tracked: true, strided: false }
    }
}

const CHANNELS: i64 = 3;

/// The reference: tch's layer in double precision.
fn reference(case: &Case, config: BatchNormConfig) -> (VarStore, nn::BatchNorm) {
    let mut vs = VarStore::new(Device::Cpu);
    let mut norm = nn::batch_norm1d(vs.root(), CHANNELS, config);
    norm.nd = case.dims.len().max(1);
    vs.set_kind(Kind::Double);
    (vs, norm)
}

fn layer(context: &Context, case: &Case) -> Result<()> {
    let (device, rank, world) = (context.device(), context.rank(), context.world_size());
    let sizes: Vec<i64> = (0..world).map(|rank| (case.size)(rank, world)).collect();
    let (start, length) = (sizes[..rank].iter().sum::<i64>(), sizes[rank]);
    let total: i64 = sizes.iter().sum();

    // The same numbers on all ranks.
    tch::manual_seed(7);
    let config = BatchNormConfig { affine: case.affine, momentum: 0.3, ..Default::default() };
    let (_whole_vs, whole) = reference(case, config);
    let mut vs = VarStore::new(Device::Cpu);
    let norm = if case.tracked { sync_batch_norm } else { sync_batch_norm_untracked }(
        &vs.root(),
        context.group(),
        CHANNELS,
        config,
    );
    if case.affine {
        tch::no_grad(|| {
            norm.ws.as_ref().expect("it is affine").shallow_clone().copy_(whole.ws.as_ref().expect("it is affine"));
            for bias in [norm.bs.as_ref(), whole.bs.as_ref()].into_iter().flatten() {
                bias.shallow_clone().copy_(&Tensor::from_slice(&[0.5f32, -0.25, 2.0]));
            }
        });
    }
    vs.set_kind(case.parameters);
    vs.set_device(device);

    let bound = match (case.input, case.parameters) {
        (Kind::Double, _) => 1e-11,
        (Kind::BFloat16, _) => 4e-2,
        (Kind::Half, _) => 5e-3,
        _ => 2e-5,
    };
    let close = |what: &str, ours: &Tensor, theirs: &Tensor| -> Result<()> {
        let (ours, theirs) = (ours.to_device(Device::Cpu).to_kind(Kind::Double), theirs.to_kind(Kind::Double));
        ensure!(ours.size() == theirs.size(), "{what}: {:?} for {:?}", ours.size(), theirs.size());
        let difference = if theirs.numel() == 0 { 0.0 } else { (&ours - &theirs).abs().max().double_value(&[]) };
        let scale = if theirs.numel() == 0 { 0.0 } else { theirs.abs().max().double_value(&[]).max(1.0) };
        ensure!(difference <= bound * scale, "{what}: {ours} for {theirs}, by {difference:e}");
        Ok(())
    };

    for step in 0..2 {
        let shape: Vec<i64> = [total, CHANNELS].iter().chain(case.dims).copied().collect();
        // Ranks have different means and spreads, and so has each channel.
        let mut per_sample = vec![1; shape.len()];
        per_sample[0] = -1;
        let offsets = Tensor::arange(total, (Kind::Double, Device::Cpu)).view(per_sample.as_slice());
        let mut x = (Tensor::randn(&shape, (Kind::Double, Device::Cpu)) * (&offsets + 1)
            + &offsets * 0.5
            + 3.0 * f64::from(step))
        .to_kind(case.input);
        if case.strided {
            x = x.transpose(1, -1).contiguous().transpose(1, -1);
        }
        let factors = Tensor::randn(&shape, (Kind::Double, Device::Cpu)).to_kind(case.input);

        let whole_x = x.to_kind(Kind::Double).detach().set_requires_grad(true);
        let whole_y = whole.forward_t(&whole_x, true);
        (&whole_y * factors.to_kind(Kind::Double)).sum(Kind::Double).backward();

        let mine = |tensor: &Tensor| tensor.narrow(0, start, length);
        let x = mine(&x).to_device(device).set_requires_grad(true);
        let y = norm.f_forward_t(&x, true)?;
        ensure!(y.kind() == case.input, "{:?} became {:?}", case.input, y.kind());
        (&y * mine(&factors).to_device(device)).sum(Kind::Double).backward();

        close("output", &y, &mine(&whole_y))?;
        close("input gradient", &x.grad(), &mine(&whole_x.grad()))?;
        let pairs = [(norm.ws.as_ref(), whole.ws.as_ref()), (norm.bs.as_ref(), whole.bs.as_ref())];
        for (ours, theirs) in pairs.into_iter().filter_map(|(ours, theirs)| ours.zip(theirs)) {
            let mut sum = ours.grad().to_kind(Kind::Double);
            context.group().all_reduce(&mut sum, ReduceOp::Sum)?;
            close("weight or bias gradient", &sum, &theirs.grad())?;
            for tensor in [ours, theirs] {
                let _ = tensor.grad().zero_();
            }
        }
        if let (Some(mean), Some(var)) = (&norm.running_mean, &norm.running_var) {
            close("running mean", mean, &whole.running_mean)?;
            close("running variance", var, &whole.running_var)?;
            close("evaluation", &norm.f_forward_t(&x, false)?, &mine(&whole.forward_t(&whole_x, false)))?;
        } else {
            let alone = Tensor::batch_norm(
                &x,
                norm.ws.as_ref(),
                norm.bs.as_ref(),
                None::<&Tensor>,
                None,
                true,
                0.0,
                1e-5,
                true,
            );
            ensure!(norm.f_forward_t(&x, false)? == alone, "evaluation uses this rank's batch");
            ensure!(!alone.allclose(&y, 1e-3, 1e-3, false), "this rank's statistics are not those of all");
        }
    }
    Ok(())
}

/// A batch of nothing on all ranks, and one value in all.
fn nothing_at_all(context: &Context) -> Result<()> {
    let vs = VarStore::new(context.device());
    let norm = sync_batch_norm(vs.root(), context.group(), CHANNELS, Default::default());
    let empty = Tensor::zeros([0, CHANNELS], (Kind::Float, context.device())).set_requires_grad(true);
    let y = norm.f_forward_t(&empty, true)?;
    ensure!(y.size() == [0, CHANNELS], "{:?}", y.size());
    y.sum(Kind::Float).backward();
    ensure!(norm.ws.as_ref().is_some_and(|weight| weight.grad().abs().sum(Kind::Float).double_value(&[]) == 0.0));
    let unchanged = || norm.running_var.as_ref().is_some_and(|var| *var == Tensor::ones_like(var));
    ensure!(unchanged(), "running statistics without a sample: {:?}", norm.running_var);
    if !context.device().is_cuda() {
        let x = Tensor::zeros([i64::from(context.rank() == 1), CHANNELS], (Kind::Float, context.device()));
        let result = norm.f_forward_t(&x, true);
        ensure!(
            matches!(&result, Err(Error::Torch { message, .. }) if message.contains("more than one value")),
            "{result:?}"
        );
        ensure!(unchanged(), "running statistics after an error");
    }
    Ok(())
}

fn autocast(context: &Context) -> Result<()> {
    let vs = VarStore::new(context.device());
    let linear = nn::linear(&vs.root() / "linear", CHANNELS, CHANNELS, Default::default());
    let norm = sync_batch_norm(&vs.root() / "norm", context.group(), CHANNELS, Default::default());
    let ddp = Ddp::new(context.group(), &vs)?;
    let x = Tensor::randn([8, CHANNELS], (Kind::Float, context.device())) + context.rank() as f64;
    let bfloat16 = Autocast::new(context.device(), Kind::BFloat16)?;
    let mut kind = None;
    let loss = ddp.forward(|| {
        bfloat16.run(|| {
            let y = norm.forward_t(&x.apply(&linear), true);
            kind = Some(y.kind());
            y.to_kind(Kind::Float).square().mean(Kind::Float)
        })
    })?;
    ddp.backward(&loss)?;
    ensure!(kind == Some(Kind::BFloat16), "{kind:?}");
    let gradient = linear.ws.grad();
    ensure!(gradient.kind() == Kind::Float && bool::try_from(gradient.isfinite().all())?, "{gradient}");
    Ok(())
}

fn second_derivative(context: &Context) -> Result<()> {
    let vs = VarStore::new(context.device());
    let norm = sync_batch_norm(vs.root(), context.group(), CHANNELS, Default::default());
    let x = Tensor::randn([4, CHANNELS], (Kind::Float, context.device())).set_requires_grad(true);
    let loss = norm.f_forward_t(&x, true)?.square().sum(Kind::Float);
    let result = Tensor::f_run_backward(&[loss], &[x], true, true);
    ensure!(result.is_err_and(|err| err.to_string().contains("double backward")), "a second derivative is an error");
    Ok(())
}

/// The graph holds the group after all other handles are dropped. (An NCCL group ends with its last handle.)
fn dropped_group(context: &Context) -> Result<()> {
    if context.device().is_cuda() {
        return Ok(());
    }
    let vs = VarStore::new(context.device());
    let x = Tensor::randn([4, CHANNELS], (Kind::Float, context.device())).set_requires_grad(true);
    let loss = {
        let own = own_group(context)?;
        let norm = sync_batch_norm(vs.root(), &own, CHANNELS, Default::default());
        norm.f_forward_t(&x, true)?.pow_tensor_scalar(3).sum(Kind::Float)
    };
    loss.backward();
    ensure!(x.grad().abs().sum(Kind::Float).double_value(&[]) > 0.0, "there is a gradient");
    Ok(())
}

/// A group of all ranks.
fn own_group(context: &Context) -> Result<ProcessGroup> {
    let all: Vec<usize> = (0..context.world_size()).collect();
    context.group().new_group(&all)?.context("this rank is in it")
}

/// A mistake of one rank in its first call is an error on all ranks.
fn mistakes(context: &Context) -> Result<()> {
    let vs = VarStore::new(context.device());
    let norm = sync_batch_norm(vs.root(), context.group(), CHANNELS, Default::default());
    let wrong = context.rank() == 1;
    let float = (Kind::Float, context.device());
    let x = Tensor::ones([4, if wrong { CHANNELS + 1 } else { CHANNELS }], float);
    let expected = |result: &Result<Tensor, Error>| match result {
        Err(Error::Invalid(problem)) => wrong && problem.contains("expects input [N, 3, ...]"),
        Err(Error::CallsDiffer { rank, there, .. }) => {
            !wrong && *rank == 1 && there.contains("expects input [N, 3, ...]")
        }
        _ => false,
    };
    let result = norm.f_forward_t(&x, true);
    ensure!(expected(&result), "{result:?}");
    let _ = norm.f_forward_t(&Tensor::randn([4, CHANNELS], float), true)?;

    let config = BatchNormConfig { eps: if wrong { 1e-3 } else { 1e-5 }, ..Default::default() };
    let norm = sync_batch_norm(vs.root(), context.group(), CHANNELS, config);
    let result = norm.f_forward_t(&Tensor::randn([4, CHANNELS], float), true);
    ensure!(matches!(&result, Err(Error::CallsDiffer { there, .. }) if there.contains("eps 0.001")), "{result:?}");
    Ok(())
}

/// A convolutional network with an unused layer.
struct Model {
    vs: VarStore,
    layers: Vec<Box<dyn ModuleT>>,
}

impl Model {
    fn new(context: &Context, norm: impl Fn(nn::Path, i64) -> Box<dyn ModuleT>) -> Self {
        tch::manual_seed(11);
        let mut vs = VarStore::new(Device::Cpu);
        let root = vs.root();
        let padded = nn::ConvConfig { padding: 1, ..Default::default() };
        let layers: Vec<Box<dyn ModuleT>> = vec![
            Box::new(nn::conv2d(&root / "a", 2, 4, 3, padded)),
            norm(&root / "norm_a", 4),
            Box::new(nn::conv2d(&root / "b", 4, 3, 3, padded)),
            norm(&root / "norm_b", 3),
            Box::new(nn::conv2d(&root / "c", 3, 2, 3, padded)),
        ];
        vs.set_device(context.device());
        Self { vs, layers }
    }

    fn loss(&self, x: &Tensor) -> Tensor {
        let y = self.layers.iter().fold(x.shallow_clone(), |x, layer| layer.forward_t(&x, true).tanh());
        y.square().mean(Kind::Float)
    }

    fn values(&self) -> Vec<(String, Tensor)> {
        let mut values: Vec<_> = self.vs.variables().into_iter().collect();
        values.sort_by(|a, b| a.0.cmp(&b.0));
        values
    }

    fn step(&self) {
        tch::no_grad(|| {
            for variable in self.vs.trainable_variables() {
                let mut gradient = variable.grad();
                if gradient.defined() {
                    let _ = variable.shallow_clone().f_sub_(&(&gradient * 0.5)).expect("it is of the same shape");
                    let _ = gradient.zero_();
                }
            }
        });
    }
}

/// Three steps, each of `micro` batches, on all ranks and on the full batch.
fn model(context: &Context, options: &DdpOptions, micro: i64) -> Result<()> {
    let whole = Model::new(context, |path, channels| Box::new(nn::batch_norm2d(path, channels, Default::default())));
    let ours = Model::new(context, |path, channels| {
        Box::new(sync_batch_norm(path, context.group(), channels, Default::default()))
    });
    if options.find_unused_parameters {
        let _ = nn::linear(&ours.vs.root() / "unused", 2, 2, Default::default());
    }
    let ddp = Ddp::with_options(context.group(), &ours.vs, options.clone())?;
    let (rank, world) = (context.rank() as i64, context.world_size() as i64);
    for step in 0..3 {
        for i in 0..micro {
            tch::manual_seed(step * 10 + i);
            let all = Tensor::randn([2 * world, 2, 5, 5], (Kind::Float, Device::Cpu)).to_device(context.device());
            whole.loss(&all).backward();
            let pass = || ddp.backward(&ddp.forward(|| ours.loss(&all.narrow(0, 2 * rank, 2)))?);
            if i + 1 < micro { ddp.no_sync(pass) } else { pass() }?;
        }
        whole.step();
        ours.step();
        let named: std::collections::HashMap<_, _> = ours.vs.variables();
        for (name, theirs) in whole.values() {
            let difference = (&named[&name] - theirs).abs().max().double_value(&[]);
            ensure!(difference < 1e-5, "step {step}: {name} differs by {difference:e}");
        }
    }
    Ok(())
}

/// Rank 0 alone uses a layer, so that DDP reduces its buckets at other times on the others: the norm has a group of its own.
fn ranks_that_differ(context: &Context, options: &DdpOptions) -> Result<()> {
    let own = own_group(context)?;
    let vs = VarStore::new(context.device());
    let root = vs.root();
    let first = nn::linear(&root / "first", CHANNELS, CHANNELS, Default::default());
    let norm = sync_batch_norm(&root / "norm", &own, CHANNELS, Default::default());
    let rare = nn::linear(&root / "rare", CHANNELS, CHANNELS, Default::default());
    let ddp = Ddp::with_options(context.group(), &vs, options.clone())?;
    for _ in 0..3 {
        let x = Tensor::randn([4, CHANNELS], (Kind::Float, context.device())) + context.rank() as f64;
        let loss = ddp.forward(|| {
            let y = norm.forward_t(&x.apply(&first), true);
            let y = if context.rank() == 0 { y.apply(&rare) } else { y };
            y.pow_tensor_scalar(4).mean(Kind::Float)
        })?;
        ddp.backward(&loss)?;
    }
    for variable in vs.trainable_variables() {
        let gradient = variable.grad().copy();
        let mut average = gradient.copy();
        context.group().all_reduce(&mut average, ReduceOp::Avg)?;
        ensure!(gradient.allclose(&average, 1e-6, 1e-6, false), "all ranks hold the average");
        ensure!(gradient.abs().max().double_value(&[]) > 0.0, "there is a gradient");
    }
    Ok(())
}
