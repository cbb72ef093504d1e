//! Fits `y = w · x + b` to noisy samples, data-parallel: every rank trains on its share of each epoch.

mod settings;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, ensure};
use clap::Parser;
use ddp_runtime::optim::{Optimizer, Sgd, SgdOptions};
use ddp_runtime::{Context, Ddp, DistributedSampler, ReduceOp, Snapshots, State, StateMut, StepReport};
use tch::nn::{self, Module};
use tch::{Device, Kind, Tensor};

const SAMPLES: i64 = 2048;
const TRUE_W: [f32; 2] = [-2.0, 3.4];
const TRUE_B: f64 = 4.2;
const NOISE: f64 = 0.01;

/// Fits a linear model with one worker per GPU: `cargo ddp run -- [OPTIONS]`.
#[derive(Debug, Parser)]
#[command(after_help = settings::HELP)]
struct Args {
    /// Epochs to train, counted from the very first start
    #[arg(long, default_value_t = 20)]
    total_epochs: u64,
    /// Epochs between two snapshots
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..))]
    save_every: u64,
    /// Samples per step and rank
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..))]
    batch_size: u32,
    /// Learning rate
    #[arg(long, default_value_t = 0.03)]
    learning_rate: f64,
    /// Folder for snapshots; training goes on from the newest one in it
    #[arg(long, default_value = "snapshots")]
    snapshots: PathBuf,
    /// File with options [default: train.toml, if there is one]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

fn main() -> ExitCode {
    let args: Args = settings::parse(|args: &Args| args.config.clone());
    ddp_runtime::main(|| train(&args).map(drop))
}

/// The fitted w and b.
fn train(args: &Args) -> Result<Tensor> {
    ensure!(args.learning_rate > 0.0, "--learning-rate must be above 0");

    // Set-up: this worker's rank and device come from the environment, and all ranks meet here.
    let context = Context::init()?;
    let device = context.device();

    // Data: the same on every rank, as the seed is.
    let (x, y) = samples(device);
    let mut sampler = DistributedSampler::new(SAMPLES as usize, context.world_size(), context.rank())?;

    // Model: Ddp makes every rank's first weights equal to rank 0's.
    let vs = nn::VarStore::new(device);
    let model = nn::linear(vs.root(), 2, 1, Default::default());
    let ddp = Ddp::new(context.group(), &vs)?;
    let mut optimizer = Sgd::new(&vs, SgdOptions { lr: args.learning_rate, ..Default::default() });

    // Go on from the newest whole snapshot, if there is one.
    let mut snapshots = Snapshots::open(&context, &args.snapshots)?.every_epochs(args.save_every);
    let mut progress = snapshots.resume(StateMut::new(&vs, &mut optimizer))?.unwrap_or_default();
    if context.is_rank0() && progress.epoch >= args.total_epochs {
        let (done, all) = (progress.epoch, args.total_epochs);
        println!("nothing to train: {done} of {all} epochs are done; see --total-epochs and --snapshots");
    } else if context.is_rank0() && progress.step > 0 {
        println!("going on from epoch {} of {}", progress.epoch, args.total_epochs);
    }

    let all_steps = args.total_epochs * sampler.num_samples().div_ceil(args.batch_size as usize) as u64;
    while progress.epoch < args.total_epochs {
        sampler.set_epoch(progress.epoch); // another shuffle in each epoch, the same on all ranks
        let indices = sampler.indices_from(progress.samples as usize)?; // what is left of it, after a resume
        let mut epoch_loss = Tensor::zeros([], (Kind::Float, device));
        let mut steps = 0;
        for batch in indices.chunks(args.batch_size as usize) {
            let batch = Tensor::from_slice(batch).to_device(device);
            let (x, y) = (x.index_select(0, &batch), y.index_select(0, &batch));

            optimizer.zero_grad()?;
            let loss = ddp.forward(|| model.forward(&x).mse_loss(&y, tch::Reduction::Mean))?;
            ddp.backward(&loss)?; // gradients are averaged over the ranks while they appear
            optimizer.step()?;

            progress.step += 1;
            let samples = (batch.numel() * context.world_size()) as u64; // of all ranks
            progress.samples += samples;
            steps += 1;
            context.report(StepReport::new(progress.epoch, progress.step).of(all_steps).samples(samples));
            epoch_loss += loss.detach(); // stays on the device: reading it here would wait for the GPU
            // Saves when Ctrl-C or SIGTERM asks the run to stop; then `?` leaves the loop on all ranks.
            snapshots.save_if_due(&State::new(&vs, &optimizer), progress)?;
        }

        if steps > 0 {
            // Every rank takes part in the reduction; rank 0 prints.
            epoch_loss /= steps;
            context.group().all_reduce(&mut epoch_loss, ReduceOp::Avg)?;
            if context.is_rank0() {
                let loss = epoch_loss.double_value(&[]);
                println!("epoch {:>3}  loss {loss:.6}", progress.epoch + 1);
                context.report(StepReport::new(progress.epoch, progress.step).loss(loss));
            }
        }

        (progress.epoch, progress.samples) = (progress.epoch + 1, 0);
        snapshots.save_if_due(&State::new(&vs, &optimizer), progress)?; // rank 0 writes while all go on
    }
    snapshots.finish_at(&State::new(&vs, &optimizer), progress)?;

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
    fn train_toml_holds_the_defaults() {
        let from_file: Args = settings::merge(include_str!("../train.toml"), &["linear".into()]).unwrap();
        assert_eq!(format!("{from_file:?}"), format!("{:?}", Args::parse_from(["linear"])));
    }

    #[test]
    fn a_world_of_one_fits_the_samples() {
        let folder = std::env::temp_dir().join(format!("linear-test-{}", std::process::id()));
        let snapshots = folder.to_string_lossy();
        let args = Args::parse_from(["linear", "--total-epochs", "6", "--snapshots", &snapshots]);
        let fitted = train(&args).unwrap();
        std::fs::remove_dir_all(&folder).unwrap();
        let truth = Tensor::from_slice(&[TRUE_W[0], TRUE_W[1], TRUE_B as f32]);
        assert!(fitted.allclose(&truth, 0.0, 0.01, false), "{fitted:?}");
    }
}
