//! Fits a line, data-parallel: `cargo ddp run --example train --nproc 2`. Put your own data and model in its place.

use std::process::ExitCode;

use ddp_runtime::optim::{Optimizer, Sgd, SgdOptions};
use ddp_runtime::{Context, Ddp, DistributedSampler, Result, Snapshots, State, StateMut, StepReport};
use tch::nn::{self, Module};
use tch::{Device, Kind, Reduction, Tensor};

const EPOCHS: u64 = 10;
const BATCH_SIZE: usize = 32;

fn main() -> ExitCode {
    ddp_runtime::main(train)
}

fn train() -> Result<()> {
    // This worker's rank and device come from the environment, and all ranks meet here.
    let context = Context::init()?;

    // Data: the same on every rank, as the seed is.
    tch::manual_seed(42);
    let x = Tensor::randn([1024, 2], (Kind::Float, Device::Cpu)).to_device(context.device());
    let y = x.sum_dim_intlist(1, true, Kind::Float) * 3.0 + 1.0;
    let mut sampler = DistributedSampler::new(1024, context.world_size(), context.rank())?;

    // Model: Ddp makes every rank's first weights equal to rank 0's.
    let vs = nn::VarStore::new(context.device());
    let model = nn::linear(vs.root(), 2, 1, Default::default());
    let ddp = Ddp::new(context.group(), &vs)?;
    let mut optimizer = Sgd::new(&vs, SgdOptions { lr: 0.05, ..Default::default() });

    // Go on from the newest whole snapshot, if there is one.
    let mut snapshots = Snapshots::open(&context, "snapshots")?.every_epochs(1).keep_last(2);
    let mut progress = snapshots.resume(StateMut::new(&vs, &mut optimizer))?.unwrap_or_default();
    while progress.epoch < EPOCHS {
        sampler.set_epoch(progress.epoch);
        for batch in sampler.indices_from(progress.samples as usize)?.chunks(BATCH_SIZE) {
            let batch = Tensor::from_slice(batch).to_device(context.device());
            let (x, y) = (x.index_select(0, &batch), y.index_select(0, &batch));
            optimizer.zero_grad()?;
            let loss = ddp.forward(|| model.forward(&x).mse_loss(&y, Reduction::Mean))?;
            ddp.backward(&loss)?; // gradients are averaged over the ranks while they appear
            optimizer.step()?;

            progress.step += 1;
            progress.samples += (batch.numel() * context.world_size()) as u64;
            context.report(StepReport::new(progress.epoch, progress.step));
            // Saves when the run is told to stop; then `?` leaves the loop on all ranks.
            snapshots.save_if_due(&State::new(&vs, &optimizer), progress)?;
        }
        (progress.epoch, progress.samples) = (progress.epoch + 1, 0);
        snapshots.save_if_due(&State::new(&vs, &optimizer), progress)?;
    }
    snapshots.finish_at(&State::new(&vs, &optimizer), progress)?;
    if context.is_rank0() {
        let loss = model.forward(&x).mse_loss(&y, Reduction::Mean).double_value(&[]);
        println!("trained {} epochs: loss {loss:.2e}", progress.epoch);
    }
    Ok(())
}
