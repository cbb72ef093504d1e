//! `ZeroRedundancy`: compared with the same optimizer unsharded, by each rank; or a run with snapshots of either.

#![allow(clippy::unwrap_used, reason = "a check fails by panicking")]

use std::collections::HashMap;
use std::process::ExitCode;

use anyhow::{Context as _, Result, ensure};
use ddp_runtime::amp::{GradScaler, GradScalerOptions};
use ddp_runtime::lr_scheduler::{LrScheduler, OneCycle, OneCycleLr};
use ddp_runtime::optim::*;
use ddp_runtime::{Context, Ddp, DdpOptions, Error, JoinDivisor, Run, Snapshots, StateDict, Stateful};
use tch::nn::{self, Module, VarStore};
use tch::{Kind, Tensor};

const STEPS: usize = 8;

pub(crate) fn main() -> ExitCode {
    let args: Vec<String> = ddp_tests::args().collect();
    ddp_runtime::main(|| if args.is_empty() { compare() } else { train(&args) })
}

/// Layers of many sizes, two of which share their weights, and one that ranks use in some steps only.
struct Model {
    vs: VarStore,
    layers: Vec<nn::Linear>,
    tied: Tensor,
    rare: nn::Linear,
}

impl Model {
    fn new(context: &Context) -> Self {
        tch::manual_seed(11);
        let vs = VarStore::new(context.device());
        let root = vs.root();
        let linear = |name: &str, from, to| nn::linear(&root / name, from, to, Default::default());
        let layers = vec![linear("a", 6, 20), linear("b", 20, 9), linear("c", 9, 6)];
        let tied = root.add("head", layers[0].ws.shallow_clone(), true);
        let rare = linear("rare", 20, 9);
        Self { layers, tied, rare, vs }
    }

    fn loss(&self, rank: usize, step: usize, skips: bool) -> Tensor {
        let x =
            (Tensor::arange(48, (Kind::Float, self.vs.device())) + (rank * 13 + step * 5) as i64).sin().view([8, 6]);
        let x = self.layers.iter().fold(x, |x, layer| layer.forward(&x).tanh()).linear(&self.tied, None::<Tensor>);
        let x = if skips && (rank + step) % 3 == 1 { x } else { self.rare.forward(&x) };
        x.square().mean(Kind::Float)
    }

    fn bits(&self) -> Result<Vec<i32>> {
        let mut named: Vec<_> = self.vs.variables().into_iter().collect();
        named.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(named.iter().map(|(_, variable)| bits(variable)).collect::<Result<Vec<_>>>()?.concat())
    }
}

fn bits(tensor: &Tensor) -> Result<Vec<i32>> {
    Ok(Vec::<i32>::try_from(tensor.detach().flatten(0, -1).view_dtype(Kind::Int))?)
}

fn compare() -> Result<()> {
    let context = Context::init()?;
    let sgd = SgdOptions { lr: 0.05, momentum: 0.9, weight_decay: 1e-3, ..Default::default() };
    let adamw = AdamWOptions { lr: 0.01, amsgrad: true, ..Default::default() };
    let two = |_: &str, parameter: &Tensor| parameter.dim() == 2;
    equals_the_unsharded(&context, || vec![ParamGroup::rest(sgd)])?;
    equals_the_unsharded(&context, || vec![ParamGroup::rest(adamw)])?;
    equals_the_unsharded(&context, || {
        let others = SgdOptions { lr: 0.01, momentum: 0.5, ..sgd };
        vec![ParamGroup::new(two, sgd), ParamGroup::new(|_, _| false, sgd), ParamGroup::rest(others)]
    })?;
    equals_the_unsharded(&context, || {
        vec![
            ParamGroup::new(two, AdamOptions::default()),
            ParamGroup::rest(AdamOptions { lr: 0.1, ..Default::default() }),
        ]
    })?;
    misuse_is_refused(&context)?;
    println!("sharding is right");
    Ok(())
}

/// Both end with the same parameters and state, bit for bit, with a scheduler, clipping and overflows on one rank.
fn equals_the_unsharded<A: Algorithm>(context: &Context, groups: impl Fn() -> Vec<ParamGroup<A>>) -> Result<()> {
    let (rank, ranks) = (context.rank(), context.world_size());
    let run = |model: &Model, optimizer: &mut dyn Optimizer| -> Result<(Vec<bool>, Vec<f64>)> {
        let options = DdpOptions { find_unused_parameters: true, ..Default::default() };
        let ddp = Ddp::with_options(context.group(), &model.vs, options)?;
        let mut scheduler = OneCycleLr::new(optimizer, OneCycle::new(0.1, STEPS as u64 + 1))?;
        let mut scaler =
            GradScaler::new(context.device(), GradScalerOptions { init_scale: 8.0, ..Default::default() })?;
        let mut stepped = Vec::new();
        for step in 0..STEPS {
            optimizer.zero_grad_with(step % 2 == 0)?;
            let loss = ddp.forward(|| {
                let loss = model.loss(rank, step, true);
                if step == 3 && rank == 1 { loss * f64::INFINITY } else { loss }
            })?;
            ddp.backward(&scaler.scale(&loss)?)?;
            scaler.unscale(optimizer)?;
            let _ = clip_grad_norm(&model.vs, 0.5, 2.0)?;
            stepped.push(scaler.step(optimizer)?.was_taken()?);
            scaler.update()?;
            scheduler.step(optimizer)?;
        }
        Ok((stepped, optimizer.learning_rates()))
    };
    let (full, sharded) = (Model::new(context), Model::new(context));
    let mut unsharded = Fused::with_groups(&full.vs, groups())?;
    let mut zero = ZeroRedundancy::with_groups(context.group(), &sharded.vs, groups())?;
    let expected = run(&full, &mut unsharded)?;
    let found = run(&sharded, &mut zero)?;
    ensure!(expected == found, "{expected:?}, {found:?}");
    ensure!(expected.0.iter().filter(|stepped| !**stepped).count() == 1, "one step overflowed: {:?}", expected.0);
    ensure!(full.bits()? == sharded.bits()?, "the parameters differ");
    let all = context.group().all_gather_value(&sharded.bits()?)?;
    ensure!(all.iter().all(|one| *one == all[0]), "ranks have different parameters");

    // The state of this rank, of all ranks, and loaded again.
    let elements = |state: StateDict| state.tensors().iter().map(|(_, tensor)| tensor.numel()).sum::<usize>();
    let (own, complete) = (elements(zero.state_dict()?), elements(unsharded.state_dict()?));
    let counts = context.group().all_gather_value(&own)?;
    ensure!(counts.iter().sum::<usize>() == complete, "{counts:?} of {complete}");
    // Of 578 elements, no parameter has more than 180.
    ensure!(own * ranks <= complete + complete / 10, "rank {rank} holds {own} of {complete}");
    ensure!(zero.own_parameters().count() > 0);
    let by_name = |state: StateDict| state.into_tensors().into_iter().collect::<HashMap<_, _>>();
    let consolidated = by_name(zero.consolidated_state_dict()?);
    let expected = by_name(unsharded.state_dict()?);
    if rank == 0 {
        ensure!(consolidated.len() == expected.len());
        for (name, tensor) in &expected {
            ensure!(bits(tensor)? == bits(&consolidated[name])?, "{name} differs");
        }
    }
    let mut other = ZeroRedundancy::with_groups(context.group(), &sharded.vs, groups())?;
    other.load_state_dict(&expected.iter().map(|(name, tensor)| (name.clone(), tensor.copy())).collect())?;
    ensure!(elements(other.state_dict()?) == own, "loads its part");
    for (name, tensor) in other.state_dict()?.into_tensors() {
        ensure!(bits(&tensor)? == bits(&expected[&name])?, "{name} differs");
    }
    Ok(())
}

fn misuse_is_refused(context: &Context) -> Result<()> {
    let model = Model::new(context);
    let mut zero = ZeroRedundancy::new(context.group(), &model.vs, AdamWOptions::default())?;
    // On every rank, whoever owns the parameter.
    for (name, problem) in [
        ("b.weight.exp_avg", "b.weight.exp_avg has shape [1], expected [9, 20]"),
        ("x.exp_avg", "x.exp_avg is not a state of this optimizer"),
    ] {
        let state = [(name.to_owned(), Tensor::from_slice(&[1f32]))].into_iter().collect();
        let err = zero.load_state_dict(&state).unwrap_err().to_string();
        ensure!(err.contains(problem), "{err}");
    }
    let ddp = Ddp::new(context.group(), &model.vs)?;
    let joined = ddp.join(JoinDivisor::WorldSize, || zero.step());
    ensure!(matches!(&joined, Err(Error::Invalid(problem)) if problem.contains("Ddp::join")), "{joined:?}");

    // Rank 1 has one group too few for its parameters; then settings that PyTorch refuses; then other parameters.
    let only_matrices = || ParamGroup::new(|_, parameter| parameter.dim() == 2, SgdOptions::default());
    let mut groups = vec![only_matrices()];
    if context.rank() != 1 {
        groups.push(ParamGroup::rest(SgdOptions::default()));
    }
    let err = ZeroRedundancy::with_groups(context.group(), &model.vs, groups).unwrap_err().to_string();
    ensure!(err.contains("a.bias is in no parameter group"), "{err}");
    let nesterov = SgdOptions { nesterov: context.rank() == 1, ..Default::default() };
    let err = ZeroRedundancy::new(context.group(), &model.vs, nesterov).unwrap_err().to_string();
    ensure!(err.contains("Nesterov"), "{err}");
    let vs = VarStore::new(context.device());
    let _ = vs.root().zeros("x", &[2 + i64::from(context.rank() == 1)]);
    let err = ZeroRedundancy::new(context.group(), &vs, nesterov).unwrap_err();
    ensure!(matches!(err, Error::CallsDiffer { rank: 1, .. }), "{err}");
    Ok(())
}

/// `zero SNAPSHOTS sharded|full STEPS`: trains until that step, from the newest snapshot, and saves one at the end.
fn train(args: &[String]) -> Result<()> {
    let (dir, kind, steps): (_, _, u64) = (&args[0], &args[1], args[2].parse()?);
    let context = Context::init()?;
    let model = Model::new(&context);
    let ddp = Ddp::new(context.group(), &model.vs)?;
    let options = AdamWOptions { lr: 0.01, ..Default::default() };
    let mut optimizer: Box<dyn Optimizer> = match kind.as_str() {
        "sharded" => Box::new(ZeroRedundancy::new(context.group(), &model.vs, options)?),
        "full" => Box::new(AdamW::new(&model.vs, options)),
        other => anyhow::bail!("unknown kind {other}"),
    };
    let scheduler = OneCycleLr::new(&mut *optimizer, OneCycle::new(0.1, 20))?;
    let run = Run::new(&context, &model.vs, optimizer).scheduler(scheduler);
    let mut run = run.snapshots(Snapshots::open(&context, dir)?).resume(&mut ())?;
    while run.step() < steps {
        run.optimizer.zero_grad()?;
        let loss = ddp.forward(|| model.loss(context.rank(), run.step() as usize, false))?;
        ddp.backward(&loss)?;
        run.optimizer.step()?;
        run.scheduler.step(&mut run.optimizer)?;
        run.step_done(&())?;
        println!("step {} {} {:08x}", context.rank(), run.step(), (loss.double_value(&[]) as f32).to_bits());
    }
    run.finish().context("saving")
}
