//! `keeper DIR name=number …`: a small run that saves, with possible trouble: losses that are NaN, values that are
//! not finite, other programs in its directory. Prints each step, and at its end the bits of the weights.
//!
//! | name | meaning |
//! |---|---|
//! | `steps` | optimizer steps of the run |
//! | `every`, `keep` | steps between snapshots; number of snapshots to keep |
//! | `pause` | milliseconds between two steps |
//! | `nan`, `rank` | the step in which this rank's samples are NaN |
//! | `policy` | 1: warn, 2: stop, 3: skip, by a guard in the loop; 0: no guard |
//! | `trainer` | 1: the loop is `Trainer`'s |
//! | `read` | 1: resume, and save nothing |
//! | `fail` | 1: rank 1 fails after it has saved because it was asked to stop |
//! | `late` | 1: save at the end only; 2: save even so when there was no step |

use std::collections::HashMap;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};
use ddp_runtime::data::{DataLoader, TensorDataset};
use ddp_runtime::optim::{Optimizer, Sgd, SgdOptions};
use ddp_runtime::{Context, Ddp, Learner, LossGuard, NonFinite, Run, Snapshots, Trainer};
use tch::nn::{self, ModuleT, VarStore};
use tch::{Kind, Tensor};

const BATCH: i64 = 4;

pub(crate) fn main() -> ExitCode {
    let args: Vec<String> = ddp_tests::args().collect();
    ddp_runtime::main(|| train(&args).map_err(|err| after_preemption(&args, err)))
}

/// With `fail=1`, rank 1's own error in place of the preemption.
fn after_preemption(args: &[String], err: anyhow::Error) -> anyhow::Error {
    let is_preempted = matches!(err.downcast_ref(), Some(ddp_runtime::Error::Preempted { .. }));
    let fails = args.iter().any(|arg| arg == "fail=1") && std::env::var("RANK").is_ok_and(|rank| rank == "1");
    if is_preempted && fails { anyhow::anyhow!("can't write the summary") } else { err }
}

struct Settings(HashMap<String, u64>);

impl Settings {
    fn get(&self, name: &str) -> u64 {
        self.0.get(name).copied().unwrap_or(0)
    }

    fn policy(&self) -> NonFinite {
        match self.get("policy") {
            2 => NonFinite::Stop,
            3 => NonFinite::Skip,
            _ => NonFinite::Warn,
        }
    }

    /// A rank's samples of a step, counted from 1.
    fn samples(&self, step: u64, rank: usize) -> Tensor {
        let first = (step as i64 * 2 + rank as i64) * BATCH * 3;
        let x = (Tensor::arange(BATCH * 3, tch::kind::FLOAT_CPU) + first).sin().view([BATCH, 3]);
        if step == self.get("nan") && rank as u64 == self.get("rank") { x * f64::NAN } else { x }
    }
}

/// With BatchNorm, whose statistics are those of the samples.
struct Model(nn::SequentialT);

impl Model {
    fn new(vs: &VarStore) -> Self {
        tch::manual_seed(7);
        Self(
            nn::seq_t()
                .add(nn::linear(vs.root() / "in", 3, 4, Default::default()))
                .add(nn::batch_norm1d(vs.root() / "norm", 4, Default::default()))
                .add(nn::linear(vs.root() / "out", 4, 1, Default::default())),
        )
    }
}

impl Learner for Model {
    type Batch = Tensor;

    fn loss(&self, x: &Tensor) -> Tensor {
        (self.0.forward_t(x, true) - x.sum_dim_intlist(1, true, Kind::Float)).square().mean(Kind::Float)
    }
}

fn train(args: &[String]) -> Result<()> {
    let (dir, args) = args.split_first().context("a directory")?;
    let number = |arg: &String| {
        let (name, number) = arg.split_once('=').context("name=number")?;
        Ok((name.to_owned(), number.parse()?))
    };
    let settings = Settings(args.iter().map(number).collect::<Result<_>>()?);
    let context = Context::init()?;
    let vs = VarStore::new(context.device());
    let model = Model::new(&vs);
    let mut snapshots = Snapshots::open(&context, dir)?;
    if settings.get("read") == 0 && settings.get("late") == 0 {
        snapshots = snapshots.every_steps(settings.get("every"));
        if settings.get("keep") > 0 {
            snapshots = snapshots.keep_last(settings.get("keep") as usize);
        }
    }
    let (step, skipped) = if settings.get("trainer") == 1 {
        by_trainer(&context, &vs, &model, snapshots, &settings)?
    } else {
        by_hand(&context, &vs, &model, snapshots, &settings)?
    };
    let mut variables: Vec<_> = vs.variables().into_iter().collect();
    variables.sort_by(|a, b| a.0.cmp(&b.0));
    let finite = variables.iter().all(|(_, t)| bool::try_from(t.isfinite().all()).unwrap_or(false));
    // BatchNorm's statistics are each rank's own until the next step.
    let trained = variables.iter().filter(|(name, _)| !name.contains("running"));
    let bits: Vec<u32> = trained
        .flat_map(|(_, t)| Vec::<f32>::try_from(t.detach().flatten(0, -1)).unwrap_or_default())
        .map(f32::to_bits)
        .collect();
    println!("rank {} ends with step {step}, finite {finite}, skipped {skipped}, weights {bits:08x?}", context.rank());
    Ok(())
}

fn by_hand(
    context: &Context,
    vs: &VarStore,
    model: &Model,
    snapshots: Snapshots,
    settings: &Settings,
) -> Result<(u64, u64)> {
    let ddp = Ddp::new(context.group(), vs)?;
    let optimizer = Sgd::new(vs, SgdOptions { lr: 0.01, ..Default::default() });
    let run = Run::new(context, vs, optimizer).value("best", f64::INFINITY);
    let mut run = run.snapshots(snapshots).resume(&mut ())?;
    println!("rank {} begins after step {}, best {}", context.rank(), run.step(), run.value);
    if settings.get("read") == 1 {
        return Ok((run.step(), 0));
    }
    let mut guard = LossGuard::new(context, vs, settings.policy());
    while run.step() < settings.get("steps") {
        let step = run.step() + 1;
        run.optimizer.zero_grad()?;
        let loss = ddp.forward(|| model.loss(&settings.samples(step, context.rank()).to_device(context.device())))?;
        ddp.backward(&loss)?;
        if settings.get("policy") == 0 || guard.check(&loss, step)? {
            run.optimizer.step()?;
        }
        if settings.get("policy") == 0 {
            run.log("loss", loss.double_value(&[]))?;
        }
        println!("step {} {step}", context.rank());
        run.step_done(&())?;
        thread::sleep(Duration::from_millis(settings.get("pause")));
    }
    if settings.get("late") == 2 {
        run.save()?;
    }
    run.finish()?;
    Ok((run.step(), guard.skipped()))
}

fn by_trainer(
    context: &Context,
    vs: &VarStore,
    model: &Model,
    snapshots: Snapshots,
    settings: &Settings,
) -> Result<(u64, u64)> {
    // Each rank's batches, one after the other, as the sampler gives them without a shuffle.
    let steps = settings.get("steps");
    let ranks = context.world_size();
    let rows = (1..=steps).flat_map(|step| {
        let ranks: Vec<Tensor> = (0..ranks).map(|rank| settings.samples(step, rank)).collect();
        (0..BATCH).flat_map(move |row| ranks.iter().map(|x| x.get(row)).collect::<Vec<_>>()).collect::<Vec<_>>()
    });
    let samples = Tensor::stack(&rows.collect::<Vec<_>>(), 0);
    let mut loader =
        DataLoader::new(context, TensorDataset::new(samples)?, BATCH as usize)?.shuffle(false).device(context.device());
    let mut skipped = 0;
    let outcome = Trainer::new(context, vs, Sgd::new(vs, SgdOptions { lr: 0.01, ..Default::default() }))?
        .snapshots(snapshots)
        .non_finite(settings.policy())
        .on_epoch(|report| {
            println!("epoch loss {:?}", report.loss);
            skipped = report.skipped_steps;
        })
        .fit(model, 1, &mut loader, None)?;
    Ok((outcome.progress.step, skipped))
}
