//! Classifies images of handwritten digits, data-parallel: every rank trains on its share of each epoch.

mod images;
mod model;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, ensure};
use clap::{ArgAction, Parser};
use ddp_runtime::data::{BatchDataset, DataLoader};
use ddp_runtime::lr_scheduler::{CosineAnnealing, CosineAnnealingLr};
use ddp_runtime::metrics::Metrics;
use ddp_runtime::optim::{AdamW, AdamWOptions};
use ddp_runtime::{Context, Goal, SavedModel, Snapshots, StepEvery, Trainer, settings};
use images::Images;
use model::Network;
use tch::nn;

/// Classifies images with one worker per GPU: `cargo ddp run -- [OPTIONS]`.
#[derive(Debug, Parser)]
struct Args {
    /// Folder with the images: those of this project, MNIST's or Fashion-MNIST's four IDX files
    #[arg(long, default_value = "data")]
    data: PathBuf,
    /// Epochs to train, counted from the very first start
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..))]
    total_epochs: u64,
    /// Samples per step and rank
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..))]
    batch_size: u32,
    /// Highest learning rate; it falls to 0 along half a cosine, whose length is that of the run's very first start
    #[arg(long, default_value_t = 0.003)]
    learning_rate: f64,
    /// Weight decay
    #[arg(long, default_value_t = 0.01)]
    weight_decay: f64,
    /// Turn, scale and move the images a little, differently in each epoch
    #[arg(long, default_value_t = true, action = ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    augment: bool,
    /// Stop after more than this many epochs in a row without a better accuracy
    #[arg(long, default_value_t = 10)]
    patience: u64,
    /// Epochs between two snapshots
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    save_every: u64,
    /// Keep one snapshot for every K steps as well, so that `cargo ddp run --at-step N` reaches each step; 0 is none
    #[arg(long, value_name = "K", default_value_t = 0)]
    keep_every: u64,
    /// Seed of the first weights, the order and the augmentation
    #[arg(long, default_value_t = 1)]
    seed: u32,
    /// Directory for snapshots; training resumes from the newest one in it
    #[arg(long, default_value = "snapshots")]
    snapshots: PathBuf,
}

fn main() -> ExitCode {
    let args: Args = settings::parse(); // flags, and options from train.toml
    ddp_runtime::main(|| train(&args))
}

fn train(args: &Args) -> Result<()> {
    ensure!(args.learning_rate > 0.0, "--learning-rate must be above 0");

    // Setup: this worker's rank and device come from the environment, and all ranks join here.
    let context = Context::init()?;
    let device = context.device();

    // Data: each rank gets its share, batches are made in a thread ahead of the loop. In the evaluation every image
    // counts once, whatever the number of ranks.
    let (batch_size, seed) = (args.batch_size as usize, u64::from(args.seed));
    let images = Images::open(&args.data, "train", args.augment.then_some(seed))?;
    let size = images.size();
    let mut train = DataLoader::new(&context, images, batch_size)?.seed(seed).workers(1).device(device);
    let test = DataLoader::eval(&context, Images::open(&args.data, "t10k", None)?, 256)?.device(device);

    // Model: all ranks start with rank 0's weights; dropout is random on each.
    tch::manual_seed(i64::from(args.seed) + context.rank() as i64);
    let vs = nn::VarStore::new(device);
    let network = Network::new(vs.root(), size);
    let options = AdamWOptions { lr: args.learning_rate, weight_decay: args.weight_decay, ..Default::default() };
    let mut optimizer = AdamW::new(&vs, options);
    let schedule = CosineAnnealingLr::new(&mut optimizer, CosineAnnealing::new(args.total_epochs))?;

    // Keeps the newest two snapshots and the best one. The run is also saved when Ctrl-C or SIGTERM asks it to stop.
    let snapshots = Snapshots::open(&context, &args.snapshots)?.every_epochs(args.save_every);
    let snapshots = snapshots.keep_every(args.keep_every).keep_last(2).keep_best(1, Goal::Maximize);

    // The loop: resumes from the newest valid snapshot, if there is one, and prints a line per epoch.
    let metrics = Metrics::open(&context)?;
    let outcome = Trainer::new(&context, &vs, optimizer)?
        .scheduler(schedule, StepEvery::Epoch)
        .clip_grad_norm(1.0)
        .early_stopping(args.patience, Goal::Maximize)
        .metrics(&metrics)
        .metric_name("eval/accuracy")
        .snapshots(snapshots)
        .fit(&network, args.total_epochs, &mut train, Some(&test))?;
    metrics.finish()?;

    if context.is_rank0() {
        let accuracy = 100.0 * outcome.metric.unwrap_or_default();
        let best = SavedModel::best(&args.snapshots, Goal::Maximize)?;
        let folder = best.map_or("none".into(), |saved| saved.folder().display().to_string());
        println!("best accuracy {accuracy:.2} % of {} test images; snapshot: {folder}", test.dataset().len());
    }
    Ok(())
}
