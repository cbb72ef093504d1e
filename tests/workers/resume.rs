//! A run with all that a snapshot holds: dropout (random numbers of each rank), AdamW, a scheduler, a gradient scaler, a
//! loader with worker threads, a value of its own. Prints each step's samples and the bits of its loss.

use std::process::ExitCode;

use anyhow::{Result, ensure};
use ddp_runtime::amp::{GradScaler, GradScalerOptions};
use ddp_runtime::data::{DataLoader, Dataset};
use ddp_runtime::lr_scheduler::{CosineAnnealing, CosineAnnealingLr, LrScheduler};
use ddp_runtime::optim::{AdamW, AdamWOptions, Optimizer};
use ddp_runtime::{Best, Context, Ddp, DdpOptions, Snapshots, State, StateMut};
use tch::nn::{self, ModuleT, VarStore};
use tch::{Kind, Tensor};

const SAMPLES: usize = 240;
const BATCH: usize = 5;

pub(crate) fn main() -> ExitCode {
    let args: Vec<String> = ddp_tests::args().collect();
    ddp_runtime::main(|| train(&args))
}

/// Each sample knows its index.
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
    let mut options = DdpOptions::default();
    // Several buckets, though the model is small.
    (options.first_bucket_bytes, options.bucket_cap_bytes) = (64, 1024);
    options.static_graph = how == "static";
    let wrap = || Ddp::with_options(context.group(), &vs, &options);
    let early = if how == "late" { None } else { Some(wrap()?) };
    let mut optimizer = AdamW::new(&vs, AdamWOptions { lr: 1e-2, ..Default::default() });
    let mut scheduler = CosineAnnealingLr::new(&mut optimizer, CosineAnnealing::new(100))?;
    let options = GradScalerOptions { growth_interval: 7, init_scale: 4.0, ..Default::default() };
    let mut scaler = GradScaler::new(context.device(), options)?;
    let mut loader = DataLoader::new(&context, Numbers.stacked(), BATCH)?.seed(3).workers(2).device(context.device());
    let mut mean = 0.0f64;

    let mut snapshots = Snapshots::open(&context, dir)?.every_steps(every).keep_last(2).keep_best(1, Best::Min);
    let mut resume = || {
        let state = StateMut::new(&vs, &mut optimizer).scheduler(&mut scheduler).scaler(&mut scaler);
        snapshots.resume(state.value("mean", &mut mean))
    };
    let mut progress = resume()?.unwrap_or_default();
    if let (true, Some(ddp)) = (how == "again" && progress.step > 0, &early) {
        for _ in 0..3 {
            let x = Tensor::ones([BATCH as i64, 8], (Kind::Float, context.device()));
            ddp.backward(&ddp.forward(|| model.forward_t(&x, true).square().mean(Kind::Float))?)?;
        }
        progress = resume()?.unwrap_or_default();
    }
    if progress.step > 0 {
        ensure!(optimizer.learning_rate() == scheduler.last_lr(), "the rate is the scheduler's");
        println!("resumed {} at {}", context.rank(), progress.step);
    }
    let ddp = early.map_or_else(wrap, Ok)?;
    loader.resume_at(progress.epoch, progress.samples);
    while progress.epoch < epochs {
        for batch in loader.epoch(progress.epoch)? {
            let (x, index) = batch?;
            optimizer.zero_grad()?;
            let target = index.remainder(7).to_kind(Kind::Float).unsqueeze(1);
            let loss = ddp.forward(|| model.forward_t(&x, true).mse_loss(&target, tch::Reduction::Mean))?;
            ddp.backward(&scaler.scale(&loss)?)?;
            scaler.step(&mut optimizer)?;
            scaler.update()?;
            scheduler.step(&mut optimizer)?;
            progress.step += 1;
            progress.samples = loader.position().samples;
            context.report_step(progress.epoch, progress.step);
            let loss = loss.double_value(&[]);
            mean = 0.9 * mean + 0.1 * loss;
            let samples = Vec::<i64>::try_from(index)?;
            let (rank, step, bits, scale) =
                (context.rank(), progress.step, (loss as f32).to_bits(), scaler.get_scale()?);
            // `mean` is rank 0's in a snapshot, so it is compared there.
            let shown = if rank == 0 { mean.to_bits() } else { 0 };
            println!("step {rank} {step} {bits:08x} {shown:016x} {scale} {samples:?}");
            let state = State::new(&vs, &optimizer)
                .scheduler(&scheduler)
                .scaler(&scaler)
                .value("mean", &mean)
                .metric((step as f64 - 20.0).abs());
            snapshots.save_if_due(&state, progress)?;
        }
        (progress.epoch, progress.samples) = (progress.epoch + 1, 0);
    }
    let state = State::new(&vs, &optimizer).scheduler(&scheduler).scaler(&scaler).value("mean", &mean);
    snapshots.finish_at(&state, progress)?;
    Ok(())
}
