//! Ten thousand steps with all features that a step may use; prints the resident memory along the way.

use std::process::ExitCode;

use anyhow::{Context as _, Result};
use ddp_runtime::amp::{Autocast, GradScaler, GradScalerOptions};
use ddp_runtime::data::{DataLoader, TensorDataset};
use ddp_runtime::lr_scheduler::{CosineAnnealing, CosineAnnealingLr, LrScheduler};
use ddp_runtime::optim::{AdamW, AdamWOptions, Optimizer, clip_grad_norm, clip_grad_value};
use ddp_runtime::{Context, Ddp, ReduceOp};
use tch::nn::{self, Module, VarStore};
use tch::{Kind, Reduction, Tensor};

const STEPS: u64 = 10_000;
/// The step after which all one-time allocations are done.
const WARM: u64 = 2_000;

pub(crate) fn main() -> ExitCode {
    ddp_runtime::main(train)
}

/// Resident memory in KiB.
fn resident() -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

fn train() -> Result<()> {
    let context = Context::init()?;
    let x = Tensor::arange(512 * 8, tch::kind::FLOAT_CPU).view([512, 8]).sin();
    let y = x.sum_dim_intlist(1, true, Kind::Float);
    let loader = DataLoader::new(&context, TensorDataset::new((x, y))?, 4)?.workers(1).device(context.device());
    let vs = VarStore::new(context.device());
    let model = nn::linear(vs.root(), 8, 1, Default::default());
    let ddp = Ddp::new(context.group(), &vs)?;
    let mut optimizer = AdamW::new(&vs, AdamWOptions::default());
    let mut scheduler = CosineAnnealingLr::new(&mut optimizer, CosineAnnealing::new(STEPS))?;
    let mut scaler = GradScaler::new(context.device(), GradScalerOptions::default())?;
    let autocast = Autocast::new(context.device(), Kind::BFloat16)?;

    let (mut step, mut warm) = (0, 0);
    for epoch in 0.. {
        for batch in loader.epoch(epoch)? {
            let (x, y) = batch?;
            optimizer.zero_grad()?;
            let loss = ddp.forward(|| autocast.run(|| model.forward(&x).mse_loss(&y, Reduction::Mean)))?;
            ddp.backward(&scaler.scale(&loss)?)?;
            scaler.unscale(&optimizer)?;
            let _norm = clip_grad_norm(&vs, 1.0, 2.0)?;
            clip_grad_value(&vs, 0.5)?;
            scaler.step(&mut optimizer)?;
            scaler.update()?;
            scheduler.step(&mut optimizer)?;
            step += 1;
            if step % 100 == 0 {
                let mut mean = loss.detach();
                context.group().all_reduce(&mut mean, ReduceOp::Avg)?;
                context.group().all_gather_value(&step)?;
            }
            if step == WARM {
                warm = resident()?;
            }
            if step == STEPS {
                println!("resident {} {warm} {}", context.rank(), resident()?);
                return Ok(());
            }
        }
    }
    Ok(())
}
