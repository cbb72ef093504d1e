//! `Trainer`: against a handwritten loop, and through snapshots.

use std::process::ExitCode;

use anyhow::{Result, bail, ensure};
use ddp_runtime::amp::{GradScaler, GradScalerOptions};
use ddp_runtime::data::{DataLoader, EvalSampler, TensorDataset};
use ddp_runtime::lr_scheduler::{CosineAnnealing, CosineAnnealingLr, LrScheduler, Step, StepLr};
use ddp_runtime::optim::{AdamW, AdamWOptions, Optimizer, Sgd, SgdOptions, clip_grad_norm};
use ddp_runtime::{Context, Ddp, DistributedSampler, Goal, Learner, Snapshots, StepEvery, Trainer};
use tch::nn::{self, ModuleT, VarStore};
use tch::{Device, Kind, Reduction, Tensor};

const SAMPLES: i64 = 136;
const BATCH: usize = 4;
const ACCUMULATE: usize = 3;

pub(crate) fn main() -> ExitCode {
    let args: Vec<String> = ddp_tests::args().collect();
    ddp_runtime::main(|| match args[0].as_str() {
        "check" => check(),
        "run" => run(&args[1]),
        other => bail!("no such action: {other}"),
    })
}

type Pair = (Tensor, Tensor);

/// With BatchNorm, whose statistics are buffers.
struct Mlp(nn::SequentialT);

impl Mlp {
    fn new(vs: &VarStore) -> Self {
        tch::manual_seed(5);
        Self(
            nn::seq_t()
                .add(nn::linear(vs.root() / "in", 6, 16, Default::default()))
                .add(nn::batch_norm1d(vs.root() / "norm", 16, Default::default()))
                .add_fn(|x| x.relu())
                .add(nn::linear(vs.root() / "out", 16, 1, Default::default())),
        )
    }
}

impl Learner for Mlp {
    type Batch = Pair;

    fn loss(&self, (x, y): &Pair) -> Tensor {
        self.0.forward_t(x, true).mse_loss(y, Reduction::Mean)
    }

    fn metric(&self, (x, y): &Pair) -> Option<(Tensor, i64)> {
        Some((self.0.forward_t(x, false).mse_loss(y, Reduction::Sum), y.size()[0]))
    }
}

fn samples() -> Result<TensorDataset<Pair>> {
    let x = Tensor::arange(SAMPLES * 6, tch::kind::FLOAT_CPU).view([SAMPLES, 6]).sin();
    let y = x.sum_dim_intlist(1, true, Kind::Float);
    Ok(TensorDataset::new((x, y))?)
}

type Pairs<S> = DataLoader<TensorDataset<Pair>, S>;

fn loaders(context: &Context) -> Result<(Pairs<DistributedSampler>, Pairs<EvalSampler>)> {
    let device = context.device();
    let train = DataLoader::new(context, samples()?, BATCH)?.seed(1).device(device);
    Ok((train, DataLoader::eval(context, samples()?, 16)?.device(device)))
}

fn scaler(context: &Context) -> Result<GradScaler> {
    let options = GradScalerOptions { init_scale: 1024.0, growth_interval: 5, ..Default::default() };
    Ok(GradScaler::new(context.device(), options)?)
}

/// The bits of all variables.
fn bits(vs: &VarStore) -> Result<String> {
    let variables: std::collections::BTreeMap<_, _> = vs.variables().into_iter().collect();
    let bits = variables.iter().map(|(name, t)| {
        let numbers = Vec::<f32>::try_from(t.detach().to_kind(Kind::Float).flatten(0, -1))?;
        Ok(format!("{name} {:08x?}", numbers.iter().map(|x| x.to_bits()).collect::<Vec<_>>()))
    });
    Ok(bits.collect::<Result<Vec<_>>>()?.join("; "))
}

fn check() -> Result<()> {
    let context = Context::init()?;
    let by_hand = by_hand(&context, 3)?;

    let vs = VarStore::new(context.device());
    let learner = Mlp::new(&vs);
    let mut optimizer = AdamW::new(&vs, AdamWOptions { lr: 0.02, ..Default::default() });
    let scheduler = CosineAnnealingLr::new(&mut optimizer, CosineAnnealing::new(40))?;
    let (mut train, test) = loaders(&context)?;
    let mut reports = Vec::new();
    let outcome = Trainer::new(&context, &vs, optimizer)?
        .scheduler(scheduler, StepEvery::Step)
        .accumulate(ACCUMULATE)
        .clip_grad_norm(0.5)
        .scaler(scaler(&context)?)
        .on_epoch(|report| reports.push(report.clone()))
        .fit(&learner, 3, &mut train, Some(&test))?;
    ensure!(bits(&vs)? == by_hand, "the trainer's model is another than that by hand");
    // 68 samples per rank are 17 batches: 6 steps, the last of two batches.
    ensure!(outcome.progress.step == 18 && outcome.progress.epoch == 3, "{outcome:?}");
    ensure!(reports.len() == 3 && reports.iter().all(|report| report.samples == 136), "{reports:?}");
    let metrics: Vec<f64> = reports.iter().filter_map(|report| report.metric).collect();
    let best = metrics.iter().copied().fold(f64::INFINITY, f64::min);
    ensure!(metrics.len() == 3 && metrics[2] < 0.5 * metrics[0], "{reports:?}");
    ensure!(outcome.metric == Some(best) && !outcome.stopped_early, "{outcome:?}");
    ensure!(reports.iter().rfind(|report| report.is_best).is_some_and(|r| r.metric == Some(best)), "{reports:?}");
    ensure!(reports.iter().all(|report| report.grad_norm.is_some_and(|norm| norm > 0.0)), "{reports:?}");
    let seen = context.group().all_gather_value(&reports.iter().map(|r| (r.loss, r.metric)).collect::<Vec<_>>())?;
    ensure!(seen.iter().all(|other| *other == seen[0]), "ranks report different things: {seen:?}");

    skipped_steps(&context)?;
    early_stopping(&context)?;
    autocast(&context)?;
    println!("the trainer is right");
    Ok(())
}

/// A scale that is too large at first: steps are skipped until it has come down, and a scheduler does not count them.
fn skipped_steps(context: &Context) -> Result<()> {
    for every in [StepEvery::Step, StepEvery::Epoch] {
        let vs = VarStore::new(context.device());
        let learner = Mlp::new(&vs);
        let mut optimizer = AdamW::new(&vs, AdamWOptions { lr: 1.0, ..Default::default() });
        let scheduler = StepLr::new(&mut optimizer, Step { gamma: 0.5, ..Step::new(1) })?;
        let (mut train, _) = loaders(context)?;
        let options = GradScalerOptions { init_scale: 3e38, ..Default::default() };
        let mut reports = Vec::new();
        let outcome = Trainer::new(context, &vs, optimizer)?
            .scheduler(scheduler, every)
            .scaler(GradScaler::new(context.device(), options)?)
            .on_epoch(|report| reports.push(report.clone()))
            .fit(&learner, 1, &mut train, None)?;
        let [report] = &reports[..] else { bail!("one epoch: {reports:?}") };
        let (steps, skipped) = (outcome.progress.step, report.skipped_steps);
        ensure!((1..steps).contains(&skipped), "{every:?}: {report:?}");
        let taken = if every == StepEvery::Step { steps - skipped } else { 0 };
        ensure!(report.learning_rate == 0.5f64.powi(taken as i32), "{every:?}: {report:?}");
    }
    Ok(())
}

/// The same with the parts instead of the trainer.
fn by_hand(context: &Context, epochs: u64) -> Result<String> {
    let vs = VarStore::new(context.device());
    let model = Mlp::new(&vs);
    let ddp = Ddp::new(context.group(), &vs)?;
    let mut optimizer = AdamW::new(&vs, AdamWOptions { lr: 0.02, ..Default::default() });
    let mut scheduler = CosineAnnealingLr::new(&mut optimizer, CosineAnnealing::new(40))?;
    let mut scaler = scaler(context)?;
    let (train, _) = loaders(context)?;
    for epoch in 0..epochs {
        let batches = train.epoch(epoch)?.collect::<ddp_runtime::Result<Vec<_>>>()?;
        for group in batches.chunks(ACCUMULATE) {
            optimizer.zero_grad()?;
            for (i, batch) in group.iter().enumerate() {
                let backward = || {
                    let loss = ddp.forward(|| model.loss(batch))? / group.len() as f64;
                    ddp.backward(&scaler.scale(&loss)?)
                };
                if i + 1 < group.len() { ddp.no_sync(backward)? } else { backward()? }
            }
            scaler.unscale(&optimizer)?;
            let _norm = clip_grad_norm(&vs, 0.5, 2.0)?;
            scaler.step(&mut optimizer)?;
            scaler.update()?;
            scheduler.step(&mut optimizer)?;
        }
        // Like the trainer before it evaluates.
        let _ = tch::no_grad(|| ddp.forward(|| Tensor::from(0f32)))?;
    }
    bits(&vs)
}

/// With a learning rate of 0 nothing improves.
fn early_stopping(context: &Context) -> Result<()> {
    let vs = VarStore::new(context.device());
    let learner = Mlp::new(&vs);
    let (mut train, test) = loaders(context)?;
    let mut epochs = 0;
    struct Frozen<'a>(&'a Mlp);
    impl Learner for Frozen<'_> {
        type Batch = Pair;
        fn loss(&self, batch: &Pair) -> Tensor {
            self.0.loss(batch)
        }
        fn metric(&self, (_, y): &Pair) -> Option<(Tensor, i64)> {
            Some((Tensor::from(1f32) * y.size()[0], y.size()[0]))
        }
    }
    let outcome = Trainer::new(context, &vs, Sgd::new(&vs, SgdOptions { lr: 0.0, ..Default::default() }))?
        .early_stopping(2, Goal::Minimize)
        .on_epoch(|_| epochs += 1)
        .fit(&Frozen(&learner), 100, &mut train, Some(&test))?;
    // The first is the best, then three in a row are not.
    ensure!(outcome.stopped_early && outcome.progress.epoch == 4 && epochs == 4, "{outcome:?}");
    Ok(())
}

fn autocast(context: &Context) -> Result<()> {
    // The same first weights on every device.
    tch::manual_seed(4);
    let mut vs = VarStore::new(Device::Cpu);
    let learner = Mlp::new(&vs);
    vs.set_device(context.device());
    let (mut train, test) = loaders(context)?;
    let optimizer = Sgd::new(&vs, SgdOptions { lr: 0.05, ..Default::default() });
    let mut metrics = Vec::new();
    Trainer::new(context, &vs, optimizer)?
        .autocast(Kind::BFloat16)?
        .on_epoch(|report| metrics.extend(report.metric))
        .fit(&learner, 4, &mut train, Some(&test))?;
    ensure!(metrics[3] < 0.5 * metrics[0], "it does not learn in bfloat16: {metrics:?}");
    Ok(())
}

/// Many epochs with snapshots, for a request to stop.
fn run(dir: &str) -> Result<()> {
    let context = Context::init()?;
    let vs = VarStore::new(context.device());
    let learner = Mlp::new(&vs);
    let mut optimizer = Sgd::new(&vs, SgdOptions { lr: 1e-3, momentum: 0.9, ..Default::default() });
    let scheduler = CosineAnnealingLr::new(&mut optimizer, CosineAnnealing::new(40))?;
    let (mut train, test) = loaders(&context)?;
    let outcome = Trainer::new(&context, &vs, optimizer)?
        .scheduler(scheduler, StepEvery::Epoch)
        .accumulate(ACCUMULATE)
        .snapshots(Snapshots::open(&context, dir)?.every_epochs(3).keep_last(1).keep_best(1, Goal::Minimize))
        .fit(&learner, 60, &mut train, Some(&test))?;
    println!("rank {} ends with {outcome:?}; {}", context.rank(), bits(&vs)?);
    Ok(())
}
