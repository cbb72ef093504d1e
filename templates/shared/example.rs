//! Fits a line, data-parallel: `cargo ddp run --example train --nproc 2`. Put your own data and model in its place.

use std::process::ExitCode;

use ddp_runtime::data::{DataLoader, TensorDataset};
use ddp_runtime::optim::{Optimizer, Sgd, SgdOptions};
use ddp_runtime::{Context, Ddp, Result, Run, Snapshots};
use tch::nn::{self, Module};
use tch::{Device, Kind, Reduction, Tensor};

const EPOCHS: u64 = 10;
const BATCH_SIZE: usize = 32;

fn main() -> ExitCode {
    ddp_runtime::main(train)
}

fn train() -> Result<()> {
    // This worker's rank and device come from the environment, and all ranks join here.
    let context = Context::init()?;

    // Data: the loader gives each rank its share of every epoch, in another order each time.
    tch::manual_seed(42);
    let x = Tensor::randn([1024, 2], (Kind::Float, Device::Cpu)).to_device(context.device());
    let y = x.sum_dim_intlist(1, true, Kind::Float) * 3.0 + 1.0;
    let dataset = TensorDataset::new((x.shallow_clone(), y.shallow_clone()))?;
    let mut train = DataLoader::new(&context, dataset, BATCH_SIZE)?;

    // Model: Ddp copies rank 0's first weights to all ranks.
    let vs = nn::VarStore::new(context.device());
    let model = nn::linear(vs.root(), 2, 1, Default::default());
    let ddp = Ddp::new(context.group(), &vs)?;
    let optimizer = Sgd::new(&vs, SgdOptions { lr: 0.05, ..Default::default() });

    // The run resumes from the newest valid snapshot, if there is one.
    let snapshots = Snapshots::open(&context, "snapshots")?.every_epochs(1).keep_last(2);
    let mut run = Run::new(&context, &vs, optimizer).snapshots(snapshots).resume(&mut train)?;
    while let Some(epoch) = run.next_epoch(EPOCHS) {
        for batch in train.epoch(epoch)? {
            let (x, y) = batch?;
            run.optimizer.zero_grad()?;
            let loss = ddp.forward(|| model.forward(&x).mse_loss(&y, Reduction::Mean))?;
            ddp.backward(&loss)?; // gradients are all-reduced while backward runs
            run.optimizer.step()?;
            run.log("loss", &loss)?;
            // Counts the step, and saves when the run is asked to stop: then `?` ends it on all ranks.
            run.step_done(&train)?;
        }
        run.epoch_done()?;
    }
    run.finish()?;
    if context.is_rank0() {
        let loss = model.forward(&x).mse_loss(&y, Reduction::Mean).double_value(&[]);
        println!("trained {} epochs: loss {loss:.2e}", run.epoch());
    }
    Ok(())
}
