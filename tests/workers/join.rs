//! `Ddp::join`: ranks with different numbers of batches.

use std::process::ExitCode;

use anyhow::{Result, ensure};
use ddp_runtime::optim::{Optimizer, Sgd, SgdOptions};
use ddp_runtime::{Context, Ddp, DdpOptions, JoinDivisor};
use tch::nn::{self, Module, ModuleT, VarStore};
use tch::{Kind, Tensor};

const LR: f64 = 0.05;

pub(crate) fn main() -> ExitCode {
    ddp_runtime::main(work)
}

fn work() -> Result<()> {
    let context = Context::init()?;
    for divisor in [JoinDivisor::WorldSize, JoinDivisor::Active] {
        for batches in [[3, 5], [4, 1], [0, 2], [2, 2]] {
            weights_are_those_by_hand(&context, divisor, &batches)?;
        }
    }
    everything_at_once(&context)?;
    println!("joining is right");
    Ok(())
}

fn batch(context: &Context, rank: usize, i: usize) -> Tensor {
    (Tensor::arange(12, (Kind::Float, context.device())).view([4, 3]) + (rank * 5 + i) as i64) / 10
}

fn train(ddp: &Ddp, vs: &VarStore, batches: usize, loss: impl Fn(usize) -> Tensor) -> ddp_runtime::Result<()> {
    let mut optimizer = Sgd::new(vs, SgdOptions { lr: LR, ..Default::default() });
    for i in 0..batches {
        optimizer.zero_grad()?;
        ddp.backward(&ddp.forward(|| loss(i))?)?;
        optimizer.step()?;
    }
    Ok(())
}

/// Steps of plain gradient descent on the batches of the ranks that have one, the same on every rank.
fn weights_are_those_by_hand(context: &Context, divisor: JoinDivisor, batches: &[usize]) -> Result<()> {
    tch::manual_seed(3);
    let (vs, by_hand) = (VarStore::new(context.device()), VarStore::new(context.device()));
    let model = nn::linear(vs.root(), 3, 2, Default::default());
    let other = nn::linear(by_hand.root(), 3, 2, Default::default());
    tch::no_grad(|| other.ws.shallow_clone().copy_(&model.ws));
    tch::no_grad(|| by_hand.variables().into_iter().for_each(|(name, mut v)| v.copy_(&vs.variables()[&name])));

    for i in 0..batches.iter().copied().max().unwrap_or(0) {
        let ranks: Vec<usize> = (0..batches.len()).filter(|&rank| i < batches[rank]).collect();
        let parts = if divisor == JoinDivisor::Active { ranks.len() } else { batches.len() } as f64;
        let mut optimizer = Sgd::new(&by_hand, SgdOptions { lr: LR, ..Default::default() });
        optimizer.zero_grad()?;
        for rank in ranks {
            (other.forward(&batch(context, rank, i)).square().mean(Kind::Float) / parts).backward();
        }
        optimizer.step()?;
    }

    let ddp = Ddp::new(context.group(), &vs)?;
    let rank = context.rank();
    ddp.join(divisor, || {
        train(&ddp, &vs, batches[rank], |i| model.forward(&batch(context, rank, i)).square().mean(Kind::Float))
    })?;
    let near = model.ws.allclose(&other.ws, 1e-5, 1e-6, false);
    ensure!(near, "{divisor:?}, {batches:?}: {:?}, by hand {:?}", model.ws, other.ws);
    // Afterwards, plain steps divide by the number of ranks again.
    for i in 7..9 {
        let mut optimizer = Sgd::new(&vs, SgdOptions { lr: LR, ..Default::default() });
        optimizer.zero_grad()?;
        (0..batches.len()).for_each(|rank| {
            (model.forward(&batch(context, rank, i)).square().mean(Kind::Float) / batches.len() as f64).backward();
        });
        let expected = model.ws.grad().copy();
        optimizer.zero_grad()?;
        ddp.backward(&ddp.forward(|| model.forward(&batch(context, rank, i)).square().mean(Kind::Float))?)?;
        let gradient = model.ws.grad();
        let near = gradient.allclose(&expected, 1e-5, 1e-6, false);
        ensure!(near, "after {divisor:?}, {batches:?}: {gradient:?}, by hand {expected:?}");
        optimizer.step()?;
    }
    Ok(())
}

/// Buffers, unused parameters and accumulation, with rank 0 the first to end: all ranks end with the same model.
fn everything_at_once(context: &Context) -> Result<()> {
    let vs = VarStore::new(context.device());
    let common = nn::linear(vs.root() / "common", 3, 3, Default::default());
    let norm = nn::batch_norm1d(vs.root() / "norm", 3, Default::default());
    let rare = nn::linear(vs.root() / "rare", 3, 3, Default::default());
    let options = DdpOptions { find_unused_parameters: true, ..Default::default() };
    let ddp = Ddp::with_options(context.group(), &vs, options)?;
    let rank = context.rank();
    let loss = |i: usize| {
        let x = norm.forward_t(&common.forward(&batch(context, rank, i)), true);
        let x = if i % 2 == rank { rare.forward(&x) } else { x };
        x.square().mean(Kind::Float)
    };
    ddp.join(JoinDivisor::WorldSize, || {
        let mut optimizer = Sgd::new(&vs, SgdOptions { lr: LR, ..Default::default() });
        for i in 0..2 + 4 * rank {
            optimizer.zero_grad()?;
            ddp.no_sync(|| ddp.backward(&ddp.forward(|| loss(i))?))?;
            ddp.backward(&ddp.forward(|| loss(i + 1))?)?;
            optimizer.step()?;
        }
        Ok(())
    })?;
    let variables: std::collections::BTreeMap<_, _> = vs.variables().into_iter().collect(); // in one order on all ranks
    for (name, tensor) in variables {
        let mine = format!("{:?}", Vec::<f32>::try_from(tensor.detach().to_kind(Kind::Float).flatten(0, -1))?);
        let all = context.group().all_gather_value(&(name.clone(), mine))?;
        ensure!(all.iter().all(|one| one == &all[0]), "{name} differs: {all:?}");
    }
    Ok(())
}
