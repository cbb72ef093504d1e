//! Writes a text with a model from a snapshot: `cargo run --bin sample -- [OPTIONS]`.

use std::io::{Write, stdout};
use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use ddp_runtime::{Goal, SavedModel};
use gpt::model::{Config, Gpt};
use gpt::text::Vocabulary;
use tch::nn::VarStore;
use tch::{Device, Kind, Tensor};

/// Writes a text with a trained model.
#[derive(Parser)]
struct Args {
    /// Folder of the snapshots, of which the best is taken; or one snapshot, `snapshots/step-…`
    #[arg(long, default_value = "snapshots")]
    snapshots: PathBuf,
    /// What the text begins with
    #[arg(long, default_value = "\n")]
    prompt: String,
    /// How many characters to write
    #[arg(long, default_value_t = 500)]
    length: usize,
    /// Below 1 likely characters become likelier, above 1 less so
    #[arg(long, default_value_t = 0.8)]
    temperature: f64,
    /// Sample from this many likeliest characters
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(i64).range(1..))]
    top_k: i64,
    /// Another seed gives another text
    #[arg(long, default_value_t = 1)]
    seed: i64,
}

fn main() -> Result<()> {
    let args = Args::parse();
    ensure!(args.temperature > 0.0, "--temperature must be above 0");
    ensure!(!args.prompt.is_empty(), "--prompt needs at least one character");

    let saved = match args.snapshots.join("state.json").exists() {
        true => Some(SavedModel::open(&args.snapshots)?),
        false => SavedModel::best(&args.snapshots, Goal::Minimize)?,
    };
    let saved = saved.with_context(|| format!("no snapshot in {}: train first", args.snapshots.display()))?;
    let config: Config = saved.value("gpt")?.context("the snapshot is not of this program's training")?;
    let vs = VarStore::new(Device::cuda_if_available());
    let model = Gpt::new(vs.root(), &config);
    saved.load(&vs)?;

    let vocabulary = Vocabulary::from_text(&config.vocabulary);
    let mut tokens = vocabulary.encode(&args.prompt)?;
    tch::manual_seed(args.seed);
    let _guard = tch::no_grad_guard();
    let mut out = stdout().lock();
    write!(out, "{}", args.prompt)?;
    for _ in 0..args.length {
        let seen = &tokens[tokens.len().saturating_sub(config.block_size as usize)..];
        let seen = Tensor::from_slice(seen).unsqueeze(0).to_device(vs.device());
        let scores = model.scores(&seen, false).get(0).get(-1) / args.temperature;
        let (scores, candidates) = scores.topk(args.top_k.min(scores.numel() as i64), -1, true, true);
        let chosen = scores.softmax(-1, Kind::Float).multinomial(1, false);
        let token = candidates.index_select(0, &chosen).int64_value(&[0]);
        tokens.push(token);
        write!(out, "{}", vocabulary.decode(token))?;
        out.flush()?; // a character at a time, as on a typewriter
    }
    writeln!(out)?;
    Ok(())
}
