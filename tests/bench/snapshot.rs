//! Saves and loads about 1 GB of model and AdamW state; prints the seconds of each part as JSON. Run by `snapshot.py`.

use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Result;
use ddp_runtime::optim::{AdamW, AdamWOptions, Optimizer};
use ddp_runtime::{Context, Run, Snapshots};
use tch::Kind;
use tch::nn::{self, VarStore};

const LAYERS: usize = 10;
const WIDTH: i64 = 2896;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    ddp_runtime::main(|| measure(&args[0], args[1].parse()?))
}

/// `bench_snapshot FOLDER ROUNDS`
fn measure(dir: &str, rounds: u64) -> Result<()> {
    let context = Context::init()?;
    let vs = VarStore::new(context.device());
    for layer in 0..LAYERS {
        nn::linear(vs.root() / layer, WIDTH, WIDTH, Default::default());
    }
    vs.trainable_variables().iter().map(|v| v.mean(Kind::Float)).sum::<tch::Tensor>().backward();
    let run = |name: &str, durable| -> Result<Run<AdamW>> {
        let mut optimizer = AdamW::new(&vs, AdamWOptions::default());
        optimizer.step()?;
        let snapshots = Snapshots::open(&context, Path::new(dir).join(name))?.keep_last(1).durable(durable);
        let mut run = Run::new(&context, &vs, optimizer).snapshots(snapshots).resume(&mut ())?;
        run.step_done(&())?; // allocates the memory for the copies in the background, as in a loop that saves now and then
        Ok(run)
    };
    let (mut fast, mut safe) = (run("fast", false)?, run("safe", true)?);
    std::thread::sleep(Duration::from_secs(4));
    for round in 1..=rounds {
        let start = Instant::now();
        fast.save()?;
        let first_blocked = start.elapsed().as_secs_f64();
        fast.wait_saved()?;
        let handed_over = start.elapsed().as_secs_f64();

        let start = Instant::now();
        safe.save()?;
        let blocked = start.elapsed().as_secs_f64();
        safe.wait_saved()?;
        let written = start.elapsed().as_secs_f64();

        let start = Instant::now();
        safe.load(&mut ())?;
        let load = start.elapsed().as_secs_f64();
        println!(
            "{}",
            serde_json::json!({
            "first": if round == 1 { Some(first_blocked) } else { None }, "handed_over": handed_over,
            "blocked": blocked, "written": written, "load": load })
        );
    }
    Ok(())
}
