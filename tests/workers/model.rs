//! Models whose gradients would not be averaged, with tied weights, or with tensors that cannot be sent. Prints the
//! errors. `model SCENARIO DIR` trains a few steps with snapshots in DIR.

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Result, bail, ensure};
use ddp_runtime::data::{DataLoader, Position, TensorDataset};
use ddp_runtime::optim::{AdamW, AdamWOptions, Optimizer};
use ddp_runtime::{Context, Ddp, DdpOptions, Learner, Run, Snapshots, Trainer};
use tch::nn::{self, Module, VarStore};
use tch::{Kind, Tensor};

const STEPS: u64 = 3;

pub(crate) fn main() -> ExitCode {
    ddp_runtime::main(|| {
        let args: Vec<String> = ddp_tests::args().collect();
        let [scenario, dir] = args.as_slice() else { bail!("model SCENARIO DIR") };
        let context = Context::init()?;
        // A rank that refuses its model alone may be gone before the other has joined.
        context.group().barrier()?;
        let outcome = match scenario.as_str() {
            "tied" => tied(&context, Path::new(dir)),
            "trainer" => trainer(&context, 16, Path::new(dir)),
            "trainer-empty" => trainer(&context, 3, Path::new(dir)),
            // One rank alone fails: the launcher ends the other, which waits for it.
            "skipped-by-rank-1" => return train(&context, scenario, Path::new(dir)),
            _ => train(&context, scenario, Path::new(dir)),
        };
        match outcome {
            Ok(()) => println!("rank {} trained", context.rank()),
            Err(err) => println!("rank {} refused: {err:#}", context.rank()),
        }
        Ok(())
    })
}

fn batch(context: &Context, step: u64) -> Tensor {
    (Tensor::arange(12, (Kind::Float, context.device())).view([4, 3]) + (context.rank() as i64 * 5 + step as i64)) / 10
}

fn train(context: &Context, scenario: &str, dir: &Path) -> Result<()> {
    let mut vs = VarStore::new(context.device());
    tch::manual_seed(context.rank() as i64);
    let first = nn::linear(vs.root() / "first", 3, 3, Default::default());
    if scenario == "unfrozen" {
        vs.freeze();
    }
    let second = nn::linear(vs.root() / "second", 3, 1, Default::default());
    for kind in [Kind::ComplexFloat, Kind::Bool, Kind::Int16, Kind::Int8] {
        if scenario == format!("{kind:?}") {
            let _ = vs.root().add("mask", Tensor::zeros([2], (kind, context.device())), false);
        }
    }
    let ones = || Tensor::ones([2], (Kind::Float, context.device()));
    match scenario {
        "sparse" => drop(vs.root().add("mask", ones().to_sparse_sparse_dim(1), false)),
        "quantized" => drop(vs.root().add("mask", ones().quantize_per_tensor(0.1, 0, Kind::QInt8), false)),
        _ => {}
    }

    let options = DdpOptions {
        find_unused_parameters: scenario.ends_with("find-unused"),
        static_graph: scenario.ends_with("static-graph"),
        ..Default::default()
    };
    let ddp = Ddp::with_options(context.group(), &vs, options)?;
    let mut third = None;
    match scenario {
        "added" => third = Some(nn::linear(vs.root() / "third", 3, 3, Default::default())),
        "unfrozen" => vs.unfreeze(),
        _ => {}
    }
    let optimizer = AdamW::new(&vs, AdamWOptions::default());
    let snapshots = Snapshots::open(context, dir)?.every_steps(1).blocking(true);
    let mut run = Run::new(context, &vs, optimizer).snapshots(snapshots).resume(&mut ())?;
    println!("rank {} begins at step {}", context.rank(), run.step());
    for step in run.step() + 1..=STEPS {
        let last = step == STEPS;
        if scenario.starts_with("frozen") && step == 2 {
            let _ = first.bs.as_ref().map(|bias| bias.set_requires_grad(false));
        }
        match (scenario, step) {
            ("converted", 2) => vs.double(),
            ("converted-and-back", 2) => (vs.double(), vs.float()).1,
            _ => {}
        }
        run.optimizer.zero_grad()?;
        let loss = || {
            if scenario == "added-in-forward" && third.is_none() {
                third = Some(nn::linear(vs.root() / "third", 3, 3, Default::default()));
            }
            let x = batch(context, step).to_kind(second.ws.kind());
            let skips = last
                && (scenario.starts_with("skipped") && scenario != "skipped-by-rank-1"
                    || context.rank() == 1 && scenario == "skipped-by-rank-1");
            let x = if skips { x } else { first.forward(&x) };
            let x = third.as_ref().map_or_else(|| x.shallow_clone(), |third| third.forward(&x));
            if scenario == "no-parameter" && last {
                return Tensor::ones([1], (Kind::Float, context.device())).set_requires_grad(true).sum(Kind::Float);
            }
            second.forward(&x).square().mean(Kind::Float)
        };
        match scenario {
            "no-forward" => ddp.backward(&second.forward(&first.forward(&batch(context, step))).sum(Kind::Float))?,
            "without-ddp" => {
                second.forward(&first.forward(&batch(context, step))).square().mean(Kind::Float).f_backward()?;
            }
            "skipped-by-plain-backward" => ddp.forward(loss)?.f_backward()?,
            "second-loss" | "second-loss-by-plain-backward" => {
                let mut loss = loss;
                let (a, b) = (ddp.forward(&mut loss)?, ddp.forward(&mut loss)?);
                ddp.backward(&a)?;
                if scenario == "second-loss" { ddp.backward(&b)? } else { b.f_backward()? }
            }
            _ => ddp.backward(&ddp.forward(loss)?)?,
        }
        run.optimizer.step()?;
        run.step_done(&Position { epoch: 0, samples: step * 8 })?;
    }
    Ok(())
}

/// A miniature language model with tied weights. Their names are added in an order that differs by rank.
fn tied(context: &Context, dir: &Path) -> Result<()> {
    let vs = VarStore::new(context.device());
    tch::manual_seed(context.rank() as i64);
    let matrix = vs.root().var("wte", &[5, 3], nn::Init::Randn { mean: 0.0, stdev: 1.0 });
    for name in ["head", "out"] {
        let _ = vs.root().add(name, matrix.shallow_clone(), true);
    }
    let inner = nn::linear(vs.root() / "inner", 3, 3, Default::default());
    let ddp = Ddp::new(context.group(), &vs)?;
    let names: Vec<_> = ddp.parameter_names().collect();
    let optimizer = AdamW::new(&vs, AdamWOptions::default());
    let snapshots = Snapshots::open(context, dir)?.every_steps(1).blocking(true);
    let mut run = Run::new(context, &vs, optimizer).snapshots(snapshots).resume(&mut ())?;
    println!("rank {} resumed at {} with {}", context.rank(), run.step(), names.join(" "));
    for _ in 0..STEPS {
        run.optimizer.zero_grad()?;
        let tokens = Tensor::from_slice(&[0i64, 1, 2, 3, (4 + context.rank() as i64) % 5]).to_device(context.device());
        let loss = ddp.forward(|| {
            let x = inner.forward(&matrix.index_select(0, &tokens));
            x.matmul(&matrix.tr()).cross_entropy_for_logits(&tokens)
        })?;
        ddp.backward(&loss)?;
        run.optimizer.step()?;
        run.step_done(&())?;
    }
    Ok(())
}

struct Line(nn::Linear);

impl Learner for Line {
    type Batch = Tensor;

    fn loss(&self, x: &Tensor) -> Tensor {
        self.0.forward(x).square().mean(Kind::Float)
    }
}

/// Two epochs of full batches.
fn trainer(context: &Context, samples: i64, dir: &Path) -> Result<()> {
    let vs = VarStore::new(context.device());
    let learner = Line(nn::linear(vs.root(), 3, 1, Default::default()));
    let x = Tensor::ones([samples, 3], (Kind::Float, context.device()));
    let mut train = DataLoader::new(context, TensorDataset::new(x)?, 4)?.drop_last_batch(true);
    let optimizer = AdamW::new(&vs, AdamWOptions::default());
    let snapshots = Snapshots::open(context, dir)?.every_epochs(1);
    let outcome = Trainer::new(context, &vs, optimizer)?.snapshots(snapshots).fit(&learner, 2, &mut train, None)?;
    ensure!(outcome.progress.epoch == 2, "{outcome:?}");
    Ok(())
}
