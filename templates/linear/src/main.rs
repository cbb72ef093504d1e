//! Fits `y = w · x + b` to noisy samples, data-parallel: every rank trains on its share of each epoch.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, ensure};
use clap::Parser;
use ddp_runtime::data::{DataLoader, TensorDataset};
use ddp_runtime::optim::{Optimizer, Sgd, SgdOptions};
use ddp_runtime::{Context, Ddp, Mean, Run, Snapshots, settings};
use tch::nn::{self, Module};
use tch::{Device, Kind, Reduction, Tensor};

const SAMPLES: i64 = 2048;
const TRUE_W: [f32; 2] = [-2.0, 3.4];
const TRUE_B: f64 = 4.2;
const NOISE: f64 = 0.01;

/// Fits a linear model with one worker per GPU: `cargo ddp run -- [OPTIONS]`.
#[derive(Debug, Parser)]
struct Args {
    /// Epochs to train, counted from the very first start
    #[arg(long, default_value_t = 20)]
    total_epochs: u64,
    /// Epochs between two snapshots
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..))]
    save_every: u64,
    /// Keep only the newest snapshot, and one for every K steps; 0 keeps all
    #[arg(long, value_name = "K", default_value_t = 0)]
    keep_every: u64,
    /// Samples per step and rank
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..))]
    batch_size: u32,
    /// Learning rate
    #[arg(long, default_value_t = 0.03)]
    learning_rate: f64,
    /// Directory for snapshots; training resumes from the newest one in it
    #[arg(long, default_value = "snapshots")]
    snapshots: PathBuf,
}

fn main() -> ExitCode {
    let args: Args = settings::parse(); // flags, and options from train.toml
    ddp_runtime::main(|| train(&args).map(drop))
}

/// The fitted w and b.
fn train(args: &Args) -> Result<Tensor> {
    ensure!(args.learning_rate > 0.0, "--learning-rate must be above 0");

    // Setup: this worker's rank and device come from the environment, and all ranks join here.
    let context = Context::init()?;
    let device = context.device();

    // Data: the loader gives each rank its share of every epoch, in another order each time.
    let mut train = DataLoader::new(&context, TensorDataset::new(samples(device))?, args.batch_size as usize)?;

    // Model: Ddp copies rank 0's first weights to all ranks.
    let vs = nn::VarStore::new(device);
    let model = nn::linear(vs.root(), 2, 1, Default::default());
    let ddp = Ddp::new(context.group(), &vs)?;
    let optimizer = Sgd::new(&vs, SgdOptions { lr: args.learning_rate, ..Default::default() });

    // The run resumes from the newest valid snapshot, if there is one.
    let snapshots = Snapshots::open(&context, &args.snapshots)?.every_epochs(args.save_every);
    let snapshots = snapshots.keep_every(args.keep_every);
    let mut run = Run::new(&context, &vs, optimizer).snapshots(snapshots).resume(&mut train)?;
    let (done, all) = (run.epoch(), args.total_epochs);
    if context.is_rank0() && done >= all {
        println!("nothing to train: {done} of {all} epochs are done; see --total-epochs and --snapshots");
    } else if context.is_rank0() && run.step() > 0 {
        println!("resuming from epoch {done} of {all}");
    }

    while let Some(epoch) = run.next_epoch(args.total_epochs) {
        let mut losses = Mean::new();
        for batch in train.epoch(epoch)? {
            let (x, y) = batch?;
            run.optimizer.zero_grad()?;
            let loss = ddp.forward(|| model.forward(&x).mse_loss(&y, Reduction::Mean))?;
            ddp.backward(&loss)?; // gradients are all-reduced while backward runs
            run.optimizer.step()?;
            losses.add(&loss)?; // stays on the device: reading the loss here would wait for the GPU
            // Counts the step, and saves when Ctrl-C or SIGTERM asks the run to stop: then `?` ends it on all ranks.
            run.step_done(&train)?;
        }
        if losses.count() > 0 {
            let loss = losses.over_ranks(context.group())?; // every rank takes part; rank 0 prints
            if context.is_rank0() {
                println!("epoch {:>3}  loss {loss:.6}", epoch + 1);
            }
            run.log("loss", loss)?;
        }
        run.epoch_done()?; // saves if it is time: rank 0 writes in the background
    }
    run.finish()?;

    let w = Vec::<f32>::try_from(model.ws.flatten(0, -1).to_device(Device::Cpu))?;
    let b = model.bs.as_ref().map_or(0.0, |b| b.double_value(&[0]) as f32);
    println!("w = {w:?} (true: {TRUE_W:?}), b = {b:?} (true: {TRUE_B:?})");
    Ok(Tensor::from_slice(&[w[0], w[1], b]))
}

/// Inputs of shape [SAMPLES, 2] and targets of shape [SAMPLES, 1], both `Float`.
fn samples(device: Device) -> (Tensor, Tensor) {
    tch::manual_seed(42);
    let x = Tensor::randn([SAMPLES, 2], (Kind::Float, Device::Cpu));
    let noise = Tensor::randn([SAMPLES, 1], (Kind::Float, Device::Cpu)) * NOISE;
    let y = x.matmul(&Tensor::from_slice(&TRUE_W).view([2, 1])) + TRUE_B + noise;
    (x.to_device(device), y.to_device(device))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn world_of_one_fits_the_samples() {
        let folder = std::env::temp_dir().join(format!("linear-test-{}", std::process::id()));
        let snapshots = folder.to_string_lossy();
        let args = Args::parse_from(["linear", "--total-epochs", "6", "--snapshots", &snapshots]);
        let fitted = train(&args).unwrap();
        std::fs::remove_dir_all(&folder).unwrap();
        let truth = Tensor::from_slice(&[TRUE_W[0], TRUE_W[1], TRUE_B as f32]);
        assert!(fitted.allclose(&truth, 0.0, 0.01, false), "{fitted:?}");
    }
}
