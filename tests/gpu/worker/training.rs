//! Training with DDP, against one model on the CPU that sees the batches of all ranks.

use std::time::Duration;

use anyhow::{Result, ensure};
use ddp_runtime::optim::{AdamW, AdamWOptions, Optimizer, Sgd, SgdOptions};
use ddp_runtime::{Backend, Context, Ddp, P2pOp, ReduceOp};
use tch::nn::{self, Module, VarStore};
use tch::{Cuda, Device, Kind, Reduction, Tensor};

use crate::{need_ranks, numbers_of};

/// Four layers of `width`.
pub struct Mlp(Vec<nn::Linear>);

impl Mlp {
    pub fn new(vs: &VarStore, width: i64) -> Self {
        Self((0..4).map(|i| nn::linear(vs.root() / i, width, width, Default::default())).collect())
    }

    pub fn loss(&self, (x, y): &(Tensor, Tensor)) -> Tensor {
        let last = self.0.len() - 1;
        let through = |x: Tensor, (i, layer): (usize, &nn::Linear)| {
            let x = layer.forward(&x);
            if i < last { x.relu() } else { x }
        };
        self.0.iter().enumerate().fold(x.shallow_clone(), through).mse_loss(y, Reduction::Mean)
    }
}

/// The batch of `rank` in `step`.
pub fn batch(rank: usize, step: u64, width: i64, device: Device) -> (Tensor, Tensor) {
    let x = (Tensor::arange(32 * width, (Kind::Float, Device::Cpu)) * 0.37 + (rank * 1000) as f64 + step as f64).sin();
    let x = x.view([32, width]).to_device(device);
    let y = x.roll([1], [1]) * 0.5;
    (x, y)
}

/// DDP's losses on this device against those of one model on the CPU that sees all ranks' batches.
pub fn train() -> Result<()> {
    let context = Context::builder().timeout(Duration::from_secs(60)).init()?;
    compare_with_one_model(&context, 30)
}

fn compare_with_one_model(context: &Context, steps: u64) -> Result<()> {
    const WIDTH: i64 = 256;
    let (rank, n) = (context.rank(), context.world_size());
    for name in ["sgd", "adamw"] {
        let (cpu, gpu) = (VarStore::new(Device::Cpu), VarStore::new(context.device()));
        tch::manual_seed(7);
        let (one, many) = (Mlp::new(&cpu, WIDTH), Mlp::new(&gpu, WIDTH));
        let first = cpu.variables();
        tch::no_grad(|| gpu.variables().into_iter().for_each(|(name, mut variable)| variable.copy_(&first[&name])));
        let optimizer = |vs: &VarStore| -> Box<dyn Optimizer> {
            match name {
                "sgd" => Box::new(Sgd::new(vs, SgdOptions { lr: 0.5, momentum: 0.9, ..Default::default() })),
                _ => Box::new(AdamW::new(vs, AdamWOptions { lr: 1e-3, ..Default::default() })),
            }
        };
        let (mut by_one, mut by_many) = (optimizer(&cpu), optimizer(&gpu));
        let ddp = Ddp::new(context.group(), &gpu)?;
        let (mut losses, mut worst) = (Vec::new(), 0.0f64);
        for step in 0..steps {
            let (xs, ys): (Vec<_>, Vec<_>) = (0..n).map(|rank| batch(rank, step, WIDTH, Device::Cpu)).unzip();
            by_one.zero_grad()?;
            let loss = one.loss(&(Tensor::cat(&xs, 0), Tensor::cat(&ys, 0)));
            loss.backward();
            by_one.step()?;

            let mine = batch(rank, step, WIDTH, context.device());
            by_many.zero_grad()?;
            let own_loss = ddp.forward(|| many.loss(&mine))?;
            ddp.backward(&own_loss)?;
            by_many.step()?;
            let mut mean = own_loss.detach();
            context.group().all_reduce(&mut mean, ReduceOp::Avg)?;
            context.report_step(0, step + 1);
            let (expected, found) = (loss.double_value(&[]), mean.double_value(&[]));
            worst = worst.max((expected - found).abs() / expected.abs());
            losses.push(found);
        }
        let (start, end) = (losses[0], losses[losses.len() - 1]);
        ensure!(end < 0.9 * start, "{name} does not learn: {losses:?}");
        ensure!(worst < 1e-3, "{name}: losses differ from the CPU's by {worst:.1e}");
        println!("rank {rank}: {name} {start:.6} to {end:.6}, from the CPU's at most {worst:.1e}");
    }
    Ok(())
}

/// Gloo, with all ranks on the first GPU.
fn gloo_on_gpu() -> Result<Context> {
    let device = if Cuda::is_available() { Device::Cuda(0) } else { Device::Cpu };
    let builder = Context::builder().backend(Backend::Gloo).device(device);
    Ok(builder.timeout(Duration::from_secs(60)).init()?)
}

/// Gloo with CUDA tensors: collectives and training steps.
pub fn gloo_cuda() -> Result<()> {
    let context = gloo_on_gpu()?;
    let (group, rank, n) = (context.group(), context.rank(), context.world_size());
    let (last, device) = (n - 1, context.device());
    ensure!(group.backend() == Backend::Gloo, "the backend is {:?}", group.backend());
    for len in [1, 4096, 1 << 20] {
        let own = |rank| numbers_of(&context, rank, len, Kind::Float);
        let sum = own(0) * n as i64 + (0..n as i64).sum::<i64>();
        for (op, expected) in [(ReduceOp::Sum, &sum), (ReduceOp::Avg, &(&sum / n as f64)), (ReduceOp::Max, &own(last))]
        {
            let mut tensor = own(rank);
            group.all_reduce(&mut tensor, op)?;
            ensure!(tensor == *expected, "all_reduce {op:?} of {len} is wrong");
        }
        // The input is not computed yet on the GPU, and the result is used in the next kernel.
        let mut late = (0..20).fold(own(rank), |tensor, _| tensor + 1);
        group.all_reduce_async(&mut late, ReduceOp::Sum)?.wait()?;
        ensure!(late == &sum + 20 * n as i64, "all_reduce_async of {len} is wrong");
        let mut tensor = own(rank);
        group.broadcast(&mut tensor, last)?;
        ensure!(tensor == own(last), "broadcast of {len} is wrong");
        let gathered = group.all_gather(&own(rank))?;
        ensure!((0..n).all(|r| gathered[r] == own(r)), "all_gather of {len} is wrong");
    }
    let refused = others_of_gloo(&context)?;
    println!("rank {rank} of {n} on {device:?} with Gloo: collectives are right; refused: {refused:?}");
    compare_with_one_model(&context, 10)
}

/// Collectives that Gloo may refuse for CUDA tensors: gives the names of those, and checks the results of the others.
fn others_of_gloo(context: &Context) -> Result<Vec<&'static str>> {
    let (group, rank, n) = (context.group(), context.rank(), context.world_size());
    let own = |rank| numbers_of(context, rank, 1000, Kind::Float);
    let all: Vec<Tensor> = (0..n).map(own).collect();
    let zeros = || own(0).zeros_like();
    let outcomes = [
        ("all_gather_into", {
            let mut into = Tensor::zeros([1000 * n as i64], (Kind::Float, context.device()));
            group.all_gather_into(&mut into, &own(rank)).map(|()| into == Tensor::cat(&all, 0))
        }),
        ("reduce", {
            let mut tensor = own(rank);
            let sum = own(0) * n as i64 + (0..n as i64).sum::<i64>();
            group.reduce(&mut tensor, 0, ReduceOp::Sum).map(|()| rank != 0 || tensor == sum)
        }),
        ("gather", group.gather(&own(rank), 0).map(|list| list.is_none_or(|list| list == all))),
        ("scatter", {
            let mut share = zeros();
            group.scatter(&mut share, if rank == 0 { &all } else { &[] }, 0).map(|()| share == own(rank))
        }),
        ("reduce_scatter", {
            let mut share = zeros();
            group.reduce_scatter(&mut share, &all, ReduceOp::Sum).map(|()| share == own(rank) * n as i64)
        }),
        ("all_to_all", group.all_to_all(&all).map(|list| list.iter().all(|tensor| *tensor == own(rank)))),
    ];
    let mut refused = Vec::new();
    for (name, outcome) in outcomes {
        match outcome {
            Ok(right) => ensure!(right, "{name} is wrong"),
            Err(err) => {
                eprintln!("rank {rank}: {name}: {err}");
                refused.push(name);
            }
        }
    }
    Ok(refused)
}

/// Messages of CUDA tensors over Gloo: right, or an error, which Gloo itself does not give.
pub fn gloo_cuda_send() -> Result<()> {
    let context = gloo_on_gpu()?;
    need_ranks(&context, 2)?;
    let (rank, other) = (context.rank(), 1 - context.rank());
    let mine = numbers_of(&context, rank, 1000, Kind::Float);
    let mut theirs = mine.zeros_like();
    let messages = &mut [P2pOp::Send { tensor: &mine, dst: other }, P2pOp::Recv { tensor: &mut theirs, src: other }];
    match context.group().batch_send_recv(messages) {
        Ok(()) => {
            ensure!(theirs == numbers_of(&context, other, 1000, Kind::Float), "the message arrived wrong");
            println!("rank {rank}: messages on {:?} over Gloo are right", context.device());
        }
        Err(err) => println!("rank {rank}: messages on {:?} over Gloo are refused: {err}", context.device()),
    }
    Ok(())
}
