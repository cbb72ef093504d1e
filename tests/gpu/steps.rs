//! Training steps per second on a GPU: `gpu_steps [MODEL[:VARIANT]...]` prints a line of JSON for each model and way to
//! clear gradients. Its Python twin is `steps.py`; `ratios.py` compares the two.

mod models;
mod values;

use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Result, bail};
use clap::Parser;
use ddp_runtime::{Context, Ddp, DdpOptions, cuda};
use models::Setup;
use tch::{Device, Tensor};

const WARM_UP_STEPS: usize = 10;
const PRINTED_LOSSES: usize = 5;
const ROUNDS: usize = 5;
const HOST_TRIES: usize = 9;

#[derive(Parser)]
struct Args {
    /// Tiny models and rounds, to try the program on a CPU
    #[arg(long)]
    small: bool,
    /// Length of a round; half of it for variants other than `none`
    #[arg(long, default_value_t = 0.7)]
    seconds: f64,
    /// Models, each with all of its variants or with one [default: all]
    #[arg(value_name = "MODEL[:VARIANT]")]
    models: Vec<String>,
}

fn main() -> ExitCode {
    let args = Args::parse();
    ddp_runtime::main(|| run(&args))
}

fn run(args: &Args) -> Result<()> {
    let context = Context::init()?;
    for (name, variant) in chosen(&args.models)? {
        measure(&context, name, variant, args)?;
        if context.device().is_cuda() {
            cuda::empty_cache()?;
        }
    }
    Ok(())
}

/// The models of the command line, each with a variant.
fn chosen(wanted: &[String]) -> Result<Vec<(&str, &str)>> {
    let wanted = match wanted {
        [] => models::names().to_vec(),
        _ => wanted.iter().map(String::as_str).collect(),
    };
    let mut chosen = Vec::new();
    for wanted in wanted {
        match wanted.split_once(':') {
            Some((name, variant @ ("none" | "zero" | "batched"))) => chosen.push((name, variant)),
            Some((_, other)) => bail!("unknown variant `{other}`, expected none, zero or batched"),
            None => chosen.extend(models::variants(wanted)?.iter().map(|&variant| (wanted, variant))),
        }
    }
    Ok(chosen)
}

fn measure(context: &Context, name: &str, variant: &str, args: &Args) -> Result<()> {
    let device = context.device();
    let Setup { vs, loss, mut optimizer } = models::start(name, args.small, context)?;
    // Memory that was allocated to fill the model does not count.
    if device.is_cuda() {
        cuda::reset_peak_memory_stats(device)?;
    }
    let options = DdpOptions { batched_grad_copy: variant == "batched", ..Default::default() };
    let ddp = Ddp::with_options(context.group(), &vs, options)?;
    let mut step = || -> Result<Tensor> {
        optimizer.zero_grad_with(variant != "zero")?;
        let loss = ddp.forward(&loss)?;
        ddp.backward(&loss)?;
        optimizer.step()?;
        Ok(loss)
    };

    let losses = (0..WARM_UP_STEPS).map(|_| Ok(step()?.detach())).collect::<Result<Vec<_>>>()?;
    // Few enough that all their kernels fit in the GPU's queue.
    let host_steps = if matches!(name, "linear" | "mlp") { 8 } else { 1 };
    let mut host_ms = (0..HOST_TRIES)
        .map(|_| Ok(seconds(device, host_steps, false, &mut step)? * 1e3 / host_steps as f64))
        .collect::<Result<Vec<_>>>()?;
    host_ms.sort_by(f64::total_cmp);

    let probe = seconds(device, host_steps, true, &mut step)? / host_steps as f64;
    let round = if variant == "none" { args.seconds } else { args.seconds / 2.0 };
    let round = if args.small { 0.05 } else { round };
    let steps = context.group().broadcast_value(&((round / probe).ceil() as usize), 0)?;
    let rates =
        (0..ROUNDS).map(|_| Ok(steps as f64 / seconds(device, steps, true, &mut step)?)).collect::<Result<Vec<_>>>()?;

    let peak_bytes = if device.is_cuda() { cuda::memory_stats(device)?.peak_allocated_bytes } else { 0 };
    let parameters: usize = vs.trainable_variables().iter().map(Tensor::numel).sum();
    let losses: Vec<f64> = losses[..PRINTED_LOSSES].iter().map(|loss| loss.double_value(&[])).collect();
    if context.is_rank0() {
        let line = serde_json::json!({
            "model": name, "variant": variant, "ranks": context.world_size(),
            "device": if device.is_cuda() { "cuda" } else { "cpu" },
            "steps_per_s": rates, "host_ms": host_ms[HOST_TRIES / 2], "peak_bytes": peak_bytes,
            "losses": losses, "parameters": parameters,
        });
        println!("{line}");
    }
    Ok(())
}

/// The time that `steps` steps take: on the device, or (not `complete`) until the host has started their last kernel.
fn seconds(device: Device, steps: usize, complete: bool, step: &mut impl FnMut() -> Result<Tensor>) -> Result<f64> {
    let synchronize = || if device.is_cuda() { cuda::synchronize(device) } else { Ok(()) };
    synchronize()?;
    let start = Instant::now();
    for _ in 0..steps {
        let _loss = step()?;
    }
    if complete {
        synchronize()?;
    }
    Ok(start.elapsed().as_secs_f64())
}
