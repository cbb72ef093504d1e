//! Host time of what a step does besides forward and backward, and of gradients in `Ddp`'s buckets: `bench_optim [ROUNDS]`
//! prints microseconds per call, the median of the rounds. The model has many small parameters, so that kernels take next to
//! no time.

use std::process::ExitCode;
use std::time::Instant;

use anyhow::Result;
use ddp_runtime::amp::{GradScaler, GradScalerOptions};
use ddp_runtime::optim::*;
use ddp_runtime::{Context, Ddp, DdpOptions};
use tch::nn::{Init, VarStore};
use tch::{Kind, Tensor};

const PARAMETERS: usize = 300;
const CALLS: u32 = 200;

fn main() -> ExitCode {
    let rounds = std::env::args().nth(1).and_then(|rounds| rounds.parse().ok()).unwrap_or(7);
    ddp_runtime::main(|| measure(rounds))
}

fn measure(rounds: usize) -> Result<()> {
    let context = Context::init()?;
    let vs = VarStore::new(context.device());
    let parameters: Vec<Tensor> =
        (0..PARAMETERS).map(|i| vs.root().var(&format!("weight{i}"), &[8], Init::Const(1.0))).collect();
    let backward = || parameters.iter().map(|p| p.sum(Kind::Float)).sum::<Tensor>().backward();
    let mut sgd = Sgd::new(&vs, SgdOptions { lr: 1e-6, momentum: 0.9, ..Default::default() });
    let mut adamw = AdamW::new(&vs, AdamWOptions { lr: 1e-6, ..Default::default() });
    let mut scaler = GradScaler::new(context.device(), GradScalerOptions { init_scale: 1.0, ..Default::default() })?;
    backward();

    println!("{PARAMETERS} parameters, microseconds per call, median of {rounds} (min to max):");
    report("SGD step", rounds, || sgd.step().map_err(Into::into))?;
    report("AdamW step", rounds, || adamw.step().map_err(Into::into))?;
    report("AdamW step and update of a GradScaler", rounds, || {
        scaler.step(&mut adamw)?;
        scaler.update().map_err(Into::into)
    })?;
    report("clip_grad_norm of a VarStore", rounds, || clip_grad_norm(&vs, 1.0, 2.0).map(drop).map_err(Into::into))?;
    report("clip_grad_norm of a list", rounds, || {
        clip_grad_norm(&parameters[..], 1.0, 2.0).map(drop).map_err(Into::into)
    })?;
    report("grad_norm of a VarStore", rounds, || grad_norm(&vs, 2.0).map(drop).map_err(Into::into))?;
    report("zero_grad to zero", rounds, || sgd.zero_grad_with(false).map_err(Into::into))?;

    for (batched, set_to_none) in [(false, true), (false, false), (true, true), (true, false)] {
        let options = DdpOptions { batched_grad_copy: batched, ..Default::default() };
        let ddp = Ddp::with_options(context.group(), &vs, options)?;
        let cleared = if set_to_none { "none" } else { "zero" };
        let what = format!("clear to {cleared}, Ddp{}", if batched { " with batched copies" } else { "" });
        report(&what, rounds, || {
            sgd.zero_grad_with(set_to_none)?;
            let loss = ddp.forward(|| parameters.iter().map(|p| p.sum(Kind::Float)).sum::<Tensor>())?;
            ddp.backward(&loss).map_err(Into::into)
        })?;
    }
    Ok(())
}

fn report(what: &str, rounds: usize, mut call: impl FnMut() -> Result<()>) -> Result<()> {
    let mut times = Vec::new();
    for round in 0..=rounds {
        let start = Instant::now();
        (0..CALLS).try_for_each(|_| call())?;
        if round > 0 {
            times.push(start.elapsed().as_secs_f64() * 1e6 / f64::from(CALLS));
        }
    }
    times.sort_by(f64::total_cmp);
    println!("  {what:38} {:8.1}  ({:.1} to {:.1})", times[rounds / 2], times[0], times[rounds - 1]);
    Ok(())
}
