//! A training loop by hand with all that `Trainer` does and more: parameter groups, options of `Ddp`, mixed precision,
//! accumulation, clipping, evaluation, snapshots. `cargo ddp run -p ddp-runtime --example by_hand --nproc 2 -- FOLDER`

use std::process::ExitCode;

use ddp_runtime::amp::{Autocast, GradScaler, GradScalerOptions};
use ddp_runtime::data::{DataLoader, TensorDataset};
use ddp_runtime::lr_scheduler::{LrScheduler, OneCycle, OneCycleLr};
use ddp_runtime::optim::{Adam, AdamOptions, Optimizer, ParamGroup, clip_grad_norm, clip_grad_value};
use ddp_runtime::{CommHook, Context, Ddp, DdpOptions, Goal, Mean, Result, Run, Snapshots};
use tch::nn::{self, ModuleT, VarStore};
use tch::{Kind, Reduction, Tensor};

const EPOCHS: u64 = 6;
const BATCH: usize = 8;
const ACCUMULATE: usize = 2;

fn main() -> ExitCode {
    let folder = std::env::args().nth(1).unwrap_or_else(|| "snapshots".into());
    ddp_runtime::main(|| train(&folder))
}

fn train(folder: &str) -> Result<()> {
    let context = Context::init()?;
    let device = context.device();
    let x = Tensor::arange(512 * 4, tch::kind::FLOAT_CPU).view([512, 4]).sin();
    let y = x.square().sum_dim_intlist(1, true, Kind::Float);
    let mut train =
        DataLoader::new(&context, TensorDataset::new((x.copy(), y.copy()))?, BATCH)?.workers(1).device(device);
    let test = DataLoader::eval(&context, TensorDataset::new((x, y))?, 64)?.device(device);

    let vs = VarStore::new(device);
    let model = nn::seq_t()
        .add(nn::linear(vs.root() / "in", 4, 32, Default::default()))
        .add_fn(|x| x.relu())
        .add(nn::linear(vs.root() / "out", 32, 1, Default::default()));
    // Gradients as BFloat16: half the bytes.
    let options = DdpOptions { comm_hook: CommHook::Bf16Compress, bucket_cap_bytes: 1 << 20, ..Default::default() };
    let ddp = Ddp::with_options(context.group(), &vs, options)?;

    // No weight decay for biases.
    let decayed = AdamOptions { lr: 0.02, weight_decay: 1e-4, ..Default::default() };
    let groups = [
        ParamGroup::new(|_name, parameter| parameter.dim() > 1, decayed),
        ParamGroup::rest(AdamOptions { weight_decay: 0.0, ..decayed }),
    ];
    let mut optimizer = Adam::with_groups(&vs, groups)?;
    let steps = EPOCHS * train.batches_per_epoch().div_ceil(ACCUMULATE) as u64;
    let scheduler = OneCycleLr::new(&mut optimizer, OneCycle::new(0.02, steps))?;
    let autocast = Autocast::new(device, Kind::BFloat16)?;
    // Of use with Kind::Half alone; one that is not enabled does nothing.
    let scaler = GradScaler::new(device, GradScalerOptions { enabled: false, ..Default::default() })?;

    let snapshots = Snapshots::open(&context, folder)?.every_epochs(2).keep_last(2).keep_best(1, Goal::Minimize);
    let mut run = Run::new(&context, &vs, optimizer)
        .scheduler(scheduler)
        .scaler(scaler)
        .snapshots(snapshots)
        .total_steps(steps)
        .resume(&mut train)?;

    while let Some(epoch) = run.next_epoch(EPOCHS) {
        let mut batches = train.epoch(epoch)?.peekable();
        let mut in_step = 0;
        run.optimizer.zero_grad()?;
        while let Some(batch) = batches.next() {
            let (x, y) = batch?;
            in_step += 1;
            let is_last = in_step == ACCUMULATE || batches.peek().is_none();
            let backward = || {
                let loss = ddp.forward(|| autocast.run(|| model.forward_t(&x, true).mse_loss(&y, Reduction::Mean)))?;
                ddp.backward(&run.scaler.scale(&(loss / ACCUMULATE as f64))?)
            };
            if !is_last {
                ddp.no_sync(backward)?;
                continue;
            }
            backward()?;
            run.scaler.unscale(&run.optimizer)?;
            clip_grad_value(&vs, 10.0)?;
            let _norm = clip_grad_norm(&vs, 1.0, 2.0)?;
            if run.scaler.step(&mut run.optimizer)?.was_taken()? {
                run.scheduler.step(&mut run.optimizer)?;
            }
            run.scaler.update()?;
            run.optimizer.zero_grad()?;
            in_step = 0;
            run.step_done(&train)?;
        }

        let _guard = tch::no_grad_guard();
        let mut losses = Mean::new();
        for batch in test.epoch(0)? {
            let (x, y) = batch?;
            losses.add_sum(&model.forward_t(&x, false).mse_loss(&y, Reduction::Sum), y.size()[0])?;
        }
        let loss = losses.over_ranks(context.group())?;
        if context.is_rank0() {
            println!("epoch {}: loss {loss:.4}, learning rate {:.4}", epoch + 1, run.scheduler.last_lr());
        }
        run.metric(loss);
        run.epoch_done()?;
    }
    if context.is_rank0() {
        let data = ddp.logging_data()?;
        println!("{} parameters in buckets of {} bytes", ddp.parameter_names().count(), data["bucket_sizes"]);
    }
    run.finish()
}
