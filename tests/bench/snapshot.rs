//! Saves and loads about 1 GB of model and AdamW state; prints the seconds of each part as JSON. Run by `snapshot.py`.

use std::process::ExitCode;
use std::time::Instant;

use anyhow::Result;
use ddp_runtime::optim::{AdamW, AdamWOptions, Optimizer};
use ddp_runtime::{Context, Progress, Snapshots, State, StateMut};
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
    let mut optimizer = AdamW::new(&vs, AdamWOptions::default());
    vs.trainable_variables().iter().map(|v| v.mean(Kind::Float)).sum::<tch::Tensor>().backward();
    optimizer.step()?;

    let mut snapshots = Snapshots::open(&context, dir)?.keep_last(1);
    for round in 1..=rounds {
        if round == 1 {
            // As in a loop that saves now and then: the memory for the copies is got ready meanwhile.
            snapshots.save_if_due(&State::new(&vs, &optimizer), Progress::default())?;
            std::thread::sleep(std::time::Duration::from_secs(2));
        }
        snapshots = snapshots.durable(false);
        let start = Instant::now();
        snapshots.save(&State::new(&vs, &optimizer), Progress { step: 2 * round - 1, ..Progress::default() })?;
        let first_blocked = start.elapsed().as_secs_f64();
        snapshots.finish()?;
        let handed_over = start.elapsed().as_secs_f64();
        snapshots = snapshots.durable(true);

        let start = Instant::now();
        snapshots.save(&State::new(&vs, &optimizer), Progress { step: 2 * round, ..Progress::default() })?;
        let blocked = start.elapsed().as_secs_f64();
        snapshots.finish()?;
        let written = start.elapsed().as_secs_f64();

        let start = Instant::now();
        snapshots.resume(StateMut::new(&vs, &mut optimizer))?;
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
