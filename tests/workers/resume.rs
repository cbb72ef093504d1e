//! A run with everything in a snapshot: dropout (random numbers of each rank), AdamW, a scheduler, a gradient scaler, a
//! loader with worker threads, the program's own value. Prints each step's samples and the bits of its loss.

use std::process::ExitCode;

use anyhow::{Result, ensure};
use ddp_runtime::amp::{GradScaler, GradScalerOptions};
use ddp_runtime::data::{DataLoader, Dataset};
use ddp_runtime::lr_scheduler::{CosineAnnealing, CosineAnnealingLr, LrScheduler};
use ddp_runtime::optim::{AdamW, AdamWOptions, Optimizer};
use ddp_runtime::{Context, Ddp, DdpOptions, Goal, Run, Snapshots};
use tch::nn::{self, ModuleT, VarStore};
use tch::{Kind, Tensor};

const SAMPLES: usize = 240;
const BATCH: usize = 5;

pub(crate) fn main() -> ExitCode {
    let args: Vec<String> = ddp_tests::args().collect();
    ddp_runtime::main(|| train(&args))
}

/// Each sample has its index.
struct Numbers;

impl Dataset for Numbers {
    type Item = (Tensor, i64);

    fn len(&self) -> usize {
        SAMPLES
    }

    fn get(&self, index: usize) -> ddp_runtime::Result<Self::Item> {
        let x = (Tensor::arange(8, tch::kind::FLOAT_CPU) + index as i64 * 13).remainder(17) / 17;
        Ok((x, index as i64))
    }
}

/// `resume SNAPSHOTS EPOCHS EVERY_STEPS [late|static|again]`
///
/// `late` wraps the model after it was loaded; `static` declares its graph static; `again` takes steps after the model was
/// loaded, and then loads it once more.
fn train(args: &[String]) -> Result<()> {
    let (dir, epochs, every): (_, u64, u64) = (&args[0], args[1].parse()?, args[2].parse()?);
    let context = Context::init()?;
    tch::manual_seed(100 + context.rank() as i64);
    let vs = VarStore::new(context.device());
    let model = nn::seq_t()
        .add(nn::linear(vs.root() / "in", 8, 32, Default::default()))
        .add_fn_t(|x, train| x.relu().dropout(0.2, train))
        .add(nn::linear(vs.root() / "out", 32, 1, Default::default()));
    let how = args.get(3).map_or("", |how| how);
    // Several buckets, though the model is small.
    let options = DdpOptions {
        first_bucket_bytes: 64,
        bucket_cap_bytes: 1024,
        static_graph: how == "static",
        ..Default::default()
    };
    let wrap = || Ddp::with_options(context.group(), &vs, options.clone());
    let early = if how == "late" { None } else { Some(wrap()?) };
    let mut optimizer = AdamW::new(&vs, AdamWOptions { lr: 1e-2, ..Default::default() });
    let scheduler = CosineAnnealingLr::new(&mut optimizer, CosineAnnealing::new(100))?;
    let options = GradScalerOptions { growth_interval: 7, init_scale: 4.0, ..Default::default() };
    let scaler = GradScaler::new(context.device(), options)?;
    let mut loader = DataLoader::new(&context, Numbers.stacked(), BATCH)?.seed(3).workers(2).device(context.device());

    let snapshots = Snapshots::open(&context, dir)?.every_steps(every).keep_last(2).keep_best(1, Goal::Minimize);
    let run = Run::new(&context, &vs, optimizer).scheduler(scheduler).scaler(scaler).value("mean", 0.0f64);
    let mut run = run.snapshots(snapshots).resume(&mut loader)?;
    if let (true, Some(ddp)) = (how == "again" && run.step() > 0, &early) {
        for _ in 0..3 {
            let x = Tensor::ones([BATCH as i64, 8], (Kind::Float, context.device()));
            ddp.backward(&ddp.forward(|| model.forward_t(&x, true).square().mean(Kind::Float))?)?;
        }
        run.load(&mut loader)?;
    }
    if run.step() > 0 {
        ensure!(run.optimizer.learning_rate() == run.scheduler.last_lr(), "the rate is the scheduler's");
        println!("resumed {} at {}", context.rank(), run.step());
    }
    let ddp = early.map_or_else(wrap, Ok)?;
    while let Some(epoch) = run.next_epoch(epochs) {
        for batch in loader.epoch(epoch)? {
            let (x, index) = batch?;
            run.optimizer.zero_grad()?;
            let target = index.remainder(7).to_kind(Kind::Float).unsqueeze(1);
            let loss = ddp.forward(|| model.forward_t(&x, true).mse_loss(&target, tch::Reduction::Mean))?;
            ddp.backward(&run.scaler.scale(&loss)?)?;
            run.scaler.step(&mut run.optimizer)?;
            run.scaler.update()?;
            run.scheduler.step(&mut run.optimizer)?;
            let loss = loss.double_value(&[]);
            run.value = 0.9 * run.value + 0.1 * loss;
            let samples = Vec::<i64>::try_from(index)?;
            let (rank, step, bits, scale) =
                (context.rank(), run.step() + 1, (loss as f32).to_bits(), run.scaler.get_scale()?);
            // The value is rank 0's in a snapshot, so it is compared there.
            let shown = if rank == 0 { run.value.to_bits() } else { 0 };
            println!("step {rank} {step} {bits:08x} {shown:016x} {scale} {samples:?}");
            run.metric((step as f64 - 20.0).abs());
            run.step_done(&loader)?;
        }
        run.epoch_done()?;
    }
    run.finish()?;
    Ok(())
}
