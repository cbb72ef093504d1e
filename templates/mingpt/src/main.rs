//! Trains a GPT on a text, letter by letter, data-parallel: every rank trains on its share of each epoch.

use std::f64::consts::PI;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, ensure};
use clap::{ArgAction, Parser};
use ddp_runtime::amp::Autocast;
use ddp_runtime::data::{BatchDataset, DataLoader, EvalSampler};
use ddp_runtime::lr_scheduler::{Lambda, LambdaLr, LrScheduler};
use ddp_runtime::metrics::Metrics;
use ddp_runtime::optim::{AdamW, AdamWOptions, Optimizer, ParamGroup, clip_grad_norm};
use ddp_runtime::{Context, Ddp, Goal, Mean, Run, Snapshots, settings};
use gpt::model::{Config, Gpt};
use gpt::text::{Text, Windows};
use tch::nn::VarStore;
use tch::{Kind, Tensor};

/// Trains a GPT with one worker per GPU: `cargo ddp run -- [OPTIONS]`.
#[derive(Debug, Parser)]
struct Args {
    /// Text to learn, in UTF-8
    #[arg(long, default_value = "data/text.txt")]
    text: PathBuf,
    /// Share of the text to train on; the rest is for testing
    #[arg(long, default_value_t = 0.9)]
    train_split: f64,
    /// Share of the text to use at all, from its front
    #[arg(long, default_value_t = 1.0)]
    truncate: f64,
    /// Blocks of attention and MLP
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(i64).range(1..))]
    n_layer: i64,
    /// Heads of attention per block
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(i64).range(1..))]
    n_head: i64,
    /// Numbers per token: a multiple of the heads
    #[arg(long, default_value_t = 128, value_parser = clap::value_parser!(i64).range(1..))]
    n_embd: i64,
    /// Characters that the model sees at a time
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(i64).range(1..))]
    block_size: i64,
    /// Dropout of embeddings, attention and branches
    #[arg(long, default_value_t = 0.0)]
    dropout: f64,
    /// Epochs to train, counted from the very first start
    #[arg(long, default_value_t = 2)]
    max_epochs: u64,
    /// Windows of text per step and rank
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..))]
    batch_size: u32,
    /// Highest learning rate, after the warm-up; it falls to a tenth along half a cosine
    #[arg(long, default_value_t = 0.003)]
    learning_rate: f64,
    /// Steps in which the learning rate rises
    #[arg(long, default_value_t = 50)]
    warmup_steps: u64,
    /// Weight decay of the matrices; there is none for biases, norms and embeddings
    #[arg(long, default_value_t = 0.1)]
    weight_decay: f64,
    /// Highest norm of the gradients
    #[arg(long, default_value_t = 1.0)]
    grad_norm_clip: f64,
    /// Compute products in BFloat16 (mixed precision): for GPUs, and processors with AMX
    #[arg(long, default_value_t = false, action = ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    use_amp: bool,
    /// Seed of the first weights, the order of windows and the dropout
    #[arg(long, default_value_t = 1)]
    seed: u32,
    /// Steps between two lines of the log
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..))]
    log_every: u64,
    /// Epochs between two snapshots
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    save_every: u64,
    /// Keep one snapshot for every K steps as well, so that `cargo ddp run --at-step N` reaches each step; 0 is none
    #[arg(long, value_name = "K", default_value_t = 0)]
    keep_every: u64,
    /// Directory for snapshots; training resumes from the newest one in it
    #[arg(long, default_value = "snapshots")]
    snapshots: PathBuf,
}

fn main() -> ExitCode {
    let args: Args = settings::parse(); // flags, and options from train.toml
    ddp_runtime::main(|| train(&args))
}

fn train(args: &Args) -> Result<()> {
    ensure!(args.n_embd % args.n_head == 0, "--n-embd {} is no multiple of --n-head {}", args.n_embd, args.n_head);
    ensure!((0.0..=1.0).contains(&args.truncate), "--truncate must be from 0 to 1");
    ensure!((0.0..=1.0).contains(&args.train_split), "--train-split must be from 0 to 1");
    ensure!((0.0..1.0).contains(&args.dropout), "--dropout must be at least 0 and less than 1");

    // Setup: this worker's rank and device come from the environment, and all ranks join here.
    let context = Context::init()?;
    let (device, group, seed) = (context.device(), context.group(), u64::from(args.seed));

    // Data: each rank gets its share of the windows; in the evaluation every window counts once.
    let text = Text::read(&args.text, args.truncate)?;
    let vocabulary = text.vocabulary.characters();
    let (train, test) = text.split(args.train_split, args.block_size as usize, seed)?;
    let mut train = DataLoader::new(&context, train, args.batch_size as usize)?.seed(seed).workers(1).device(device);
    let test = DataLoader::eval(&context, test, args.batch_size as usize)?.device(device);

    // Model: Ddp copies rank 0's first weights to all ranks; dropout is random on each.
    tch::manual_seed(i64::from(args.seed) + context.rank() as i64);
    let Args { n_layer, n_head, n_embd, block_size, dropout, .. } = *args;
    let config = Config { vocabulary, n_layer, n_head, n_embd, block_size, dropout };
    let vs = VarStore::new(device);
    let model = Gpt::new(vs.root(), &config);
    let ddp = Ddp::new(group, &vs)?;
    let all_steps = args.max_epochs * train.batches_per_epoch() as u64;
    let mut optimizer = optimizer(&vs, args)?;
    let scheduler = LambdaLr::new(&mut optimizer, schedule(args.warmup_steps, all_steps))?;
    let autocast = if args.use_amp { Autocast::new(device, Kind::BFloat16)? } else { Autocast::disabled(device)? };
    let loss_of = |(x, y): &(Tensor, Tensor), train| autocast.run(|| model.loss(x, y, train));

    // The run resumes from the newest valid snapshot, if there is one.
    let snapshots = Snapshots::open(&context, &args.snapshots)?.every_epochs(args.save_every);
    let snapshots = snapshots.keep_every(args.keep_every).keep_last(2).keep_best(1, Goal::Minimize);
    let metrics = Metrics::open(&context)?; // for TensorBoard and `cargo ddp plot`
    let mut run = Run::new(&context, &vs, optimizer)
        .scheduler(scheduler)
        .value("gpt", config.clone()) // for `sample`, which makes the same model
        .snapshots(snapshots)
        .metrics(&metrics)
        .resume(&mut train)?;
    ensure!(run.value == config, "the snapshots are of another model or text: give another directory with --snapshots");
    if context.is_rank0() {
        let weights: usize = vs.trainable_variables().iter().map(Tensor::numel).sum();
        let (step, windows) = (run.step(), train.dataset().len());
        println!("{weights} weights, {windows} windows of text, step {step} of {all_steps}");
        let (done, all) = (run.epoch(), args.max_epochs);
        if done >= all {
            println!("nothing to train: {done} of {all} epochs are done; see --max-epochs and --snapshots");
        }
    }

    while let Some(epoch) = run.next_epoch(args.max_epochs) {
        let mut losses = Mean::new(); // since the last line of the log
        for batch in train.epoch(epoch)? {
            let batch = batch?;
            run.optimizer.zero_grad()?;
            let loss = ddp.forward(|| loss_of(&batch, true))?;
            ddp.backward(&loss)?; // gradients are all-reduced while backward runs
            let norm = clip_grad_norm(&vs, args.grad_norm_clip, 2.0)?;
            let (step, learning_rate) = (run.step() + 1, run.optimizer.learning_rate());
            run.optimizer.step()?;
            run.scheduler.step(&mut run.optimizer)?;

            run.log("train/loss", &loss)?; // the mean over the ranks, without waiting for them
            run.log("train/learning_rate", learning_rate)?;
            losses.add(&loss)?;
            if step.is_multiple_of(args.log_every) {
                let loss = std::mem::take(&mut losses).over_ranks(group)?; // waits for all ranks
                let norm = norm.double_value(&[]);
                run.log("train/grad_norm", norm)?;
                if context.is_rank0() {
                    println!("step {step:>5}  loss {loss:.6}  lr {learning_rate:.2e}  grad norm {norm:.2}");
                }
            }
            // Counts the step, and saves when Ctrl-C or SIGTERM asks the run to stop: then `?` ends it on all ranks.
            run.step_done(&train)?;
        }

        let test_loss = evaluate(&context, &test, |batch| loss_of(batch, false))?;
        if context.is_rank0() {
            println!("epoch {:>4}  test loss {test_loss:.6}", epoch + 1);
        }
        run.log("test/loss", test_loss)?;
        run.metric(test_loss); // for the best snapshot
        run.epoch_done()?; // saves if it is time: rank 0 writes in the background
    }
    Ok(run.finish()?)
}

/// AdamW with weight decay for the matrices alone.
fn optimizer(vs: &VarStore, args: &Args) -> Result<AdamW> {
    let decayed = AdamWOptions {
        lr: args.learning_rate,
        betas: (0.9, 0.95),
        weight_decay: args.weight_decay,
        ..Default::default()
    };
    let is_matrix = |name: &str, weights: &Tensor| weights.dim() == 2 && !name.starts_with('w'); // wte, wpe: embeddings
    let groups = [ParamGroup::new(is_matrix, decayed), ParamGroup::rest(AdamWOptions { weight_decay: 0.0, ..decayed })];
    Ok(AdamW::with_groups(vs, groups)?)
}

/// The factor of the learning rate: up in a line, then down to a tenth along half a cosine. It counts in steps, so a run
/// that resumes with more epochs has the curve of those.
fn schedule(warmup: u64, all: u64) -> Lambda {
    Lambda::new(move |step| {
        if step < warmup {
            return (step + 1) as f64 / warmup as f64;
        }
        let done = (step - warmup) as f64 / (all.saturating_sub(warmup)).max(1) as f64;
        0.1 + 0.45 * (1.0 + (PI * done.min(1.0)).cos())
    })
}

/// The mean loss over all windows of the test part. No rank waits for another inside of the loop, as ranks may have
/// different numbers of windows.
fn evaluate(
    context: &Context,
    test: &DataLoader<Windows, EvalSampler>,
    loss: impl Fn(&(Tensor, Tensor)) -> Tensor,
) -> Result<f64> {
    let _guard = tch::no_grad_guard();
    let mut losses = Mean::new();
    for batch in test.epoch(0)? {
        let batch = batch?;
        let windows = batch.0.size()[0];
        losses.add_sum(&(loss(&batch) * windows), windows)?;
    }
    Ok(losses.over_ranks(context.group())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn learning_rate_rises_and_falls() {
        use ddp_runtime::lr_scheduler::Schedule;
        let schedule = schedule(10, 110);
        let factor = |step| schedule.next(step, &[1.0], &[1.0]).unwrap()[0];
        assert_eq!((factor(0), factor(9), factor(10)), (0.1, 1.0, 1.0));
        assert!((factor(60) - 0.55).abs() < 1e-12 && (factor(110) - 0.1).abs() < 1e-12 && factor(500) == factor(110));
    }
}
