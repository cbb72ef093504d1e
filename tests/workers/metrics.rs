//! `Metrics`: values for TensorBoard, values that differ by rank, and ranks that log different names.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use ddp_runtime::data::{DataLoader, TensorDataset};
use ddp_runtime::metrics::{Metrics, MetricsOptions, Reduce};
use ddp_runtime::optim::{Sgd, SgdOptions};
use ddp_runtime::{Context, Learner, Run, Snapshots, Trainer};
use tch::nn::{self, Module, VarStore};
use tch::{Kind, Tensor};

pub(crate) fn main() -> ExitCode {
    let args: Vec<String> = ddp_tests::args().collect();
    ddp_runtime::main(|| match args[0].as_str() {
        "all" => all(),
        "ahead" => ahead(),
        "differ" => differ(&args[1]),
        "resume" => resume(&args[1], args[2].parse()?, args[3] == "flush"),
        "trainer" => trainer(&args[1]),
        other => bail!("no such action: {other}"),
    })
}

/// One of each kind.
fn all() -> Result<()> {
    let context = Context::init()?;
    let metrics = Metrics::open(&context)?;
    let rank = context.rank() as f64;
    metrics.hparams(
        [("lr", 0.125.into()), ("batch", 32.into()), ("model", "linear".into()), ("amp", true.into())],
        ["loss", "accuracy"],
    )?;
    for step in 1..=300u64 {
        let loss = Tensor::from(1.0 / step as f64 + rank).to_kind(Kind::Float);
        metrics.log("loss", &loss, step)?;
        metrics.log_as("slowest", step as f64 * (rank + 1.0), step, Reduce::Max)?;
        metrics.log_rank0("rank0/only", step, step)?;
        metrics.throughput(64, step)?;
    }
    metrics.log("odd", f64::NAN, 300)?;
    let values = Tensor::arange(1000, tch::kind::DOUBLE_CPU) / 999 + rank;
    metrics.histogram("weights", &values, 300)?;
    let image = (Tensor::arange(3 * 4 * 5, tch::kind::INT64_CPU) * 4).view([3, 4, 5]).to_kind(Kind::Uint8);
    metrics.image("picture", &image, 300)?;
    metrics.finish()?;
    Ok(())
}

/// Rank 0 logs everything before rank 1 logs anything: nobody waits in `log`.
fn ahead() -> Result<()> {
    const STEPS: u64 = 1000;
    let context = Context::init()?;
    let metrics = Metrics::with_options(&context, MetricsOptions { every_steps: Some(100), ..Default::default() })?;
    let log = || {
        (1..=STEPS).try_for_each(|step| {
            metrics.log("loss", step as f64 + context.rank() as f64, step)?;
            metrics.log("accuracy", 0.5, step)
        })
    };
    if context.rank() == 1 {
        context.group().barrier()?;
        log()?;
    } else {
        log()?;
        context.group().barrier()?;
    }
    metrics.flush()?;
    println!("rank {}: {} collectives", context.rank(), metrics.collectives());
    metrics.finish()?;
    Ok(())
}

/// Ranks that do not log the same.
fn differ(how: &str) -> Result<()> {
    let context = Context::init()?;
    let metrics = Metrics::open(&context)?;
    let odd = context.rank() == 1;
    let start = Instant::now();
    for step in 1..=50u64 {
        match how {
            "names" => metrics.log(if odd { "accuracy" } else { "loss" }, 1.0, step)?,
            "nothing" if odd => {}
            "sometimes" if odd && step.is_multiple_of(2) => {}
            "names-for-ever" => loop {
                // The loop continues until it gets the error.
                ensure!(start.elapsed() < Duration::from_secs(300), "no rank heard of it");
                metrics.log(if odd { "accuracy" } else { "loss" }, 1.0, step + start.elapsed().as_millis() as u64)?;
            },
            _ => metrics.log("loss", 1.0, step)?,
        }
    }
    metrics.finish()?;
    Ok(())
}

/// `resume DIR KILL_AT flush|lose`: a loop with snapshots each 10 steps; dies at a step, in its first attempt.
fn resume(dir: &str, kill_at: u64, flush: bool) -> Result<()> {
    let context = Context::init()?;
    let vs = VarStore::new(context.device());
    let _weight = vs.root().zeros("weight", &[1]);
    let optimizer = Sgd::new(&vs, SgdOptions { lr: 0.5, ..Default::default() });
    let metrics = Metrics::open(&context)?;
    let snapshots = Snapshots::open(&context, dir)?.every_steps(10);
    let mut run = Run::new(&context, &vs, optimizer).snapshots(snapshots).resume(&mut ())?;
    let attempt = f64::from(context.restart_count());
    while run.step() < 45 {
        let step = run.step() + 1;
        // The steps are as fast as they can be: most of them wait for an exchange when the rank dies.
        metrics.log("loss", 1.0 / step as f64 + 100.0 * attempt, step)?;
        run.step_done(&())?;
        if context.restart_count() == 0 && step == kill_at {
            if flush {
                metrics.flush()?;
            }
            run.wait_saved()?;
            context.group().barrier()?;
            if context.rank() == 1 {
                std::process::abort();
            }
        }
    }
    run.finish()?;
    metrics.finish()?;
    Ok(())
}

struct Line(nn::Linear);

impl Learner for Line {
    type Batch = (Tensor, Tensor);

    fn loss(&self, (x, y): &Self::Batch) -> Tensor {
        self.0.forward(x).mse_loss(y, tch::Reduction::Mean)
    }

    fn metric(&self, (x, y): &Self::Batch) -> Option<(Tensor, i64)> {
        Some((self.0.forward(x).mse_loss(y, tch::Reduction::Sum), y.size()[0]))
    }
}

/// The trainer logs by itself; rank 0 prints what it reported.
fn trainer(dir: &str) -> Result<()> {
    let context = Context::init()?;
    tch::manual_seed(4);
    let vs = VarStore::new(context.device());
    let learner = Line(nn::linear(vs.root(), 4, 1, Default::default()));
    let x = Tensor::arange(256 * 4, tch::kind::FLOAT_CPU).view([256, 4]).sin();
    let y = x.sum_dim_intlist(1, true, Kind::Float);
    let mut train = DataLoader::new(&context, TensorDataset::new((x.copy(), y.copy()))?, 8)?.device(context.device());
    let test = DataLoader::eval(&context, TensorDataset::new((x, y))?, 64)?.device(context.device());
    let metrics = Metrics::open_in(&context, dir)?;
    let optimizer = Sgd::new(&vs, SgdOptions { lr: 0.05, ..Default::default() });
    let rank0 = context.is_rank0();
    Trainer::new(&context, &vs, optimizer)?
        .accumulate(2)
        .clip_grad_norm(10.0)
        .metrics(&metrics)
        .metric_name("eval/mse")
        .on_epoch(|report| {
            if let (true, Some(loss), Some(metric)) = (rank0, report.loss, report.metric) {
                println!("epoch {} {loss} {metric}", report.step);
            }
        })
        .fit(&learner, 3, &mut train, Some(&test))?;
    metrics.finish()?;
    Ok(())
}
