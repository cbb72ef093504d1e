//! The features of `Ddp` besides plain steps, checked by each rank.

use std::process::ExitCode;

use anyhow::{Result, bail, ensure};
use ddp_runtime::optim::{Optimizer, Sgd, SgdOptions};
use ddp_runtime::{CommHook, Context, Ddp, DdpOptions, Error, ReduceOp};
use tch::nn::{self, Module, ModuleT, VarStore};
use tch::{Device, Kind, Tensor};

pub(crate) fn main() -> ExitCode {
    ddp_runtime::main(work)
}

fn work() -> Result<()> {
    let context = Context::init()?;
    match ddp_tests::args().next().as_deref() {
        Some("dropped") => return dropped_before_backward(&context),
        Some("batched") => {
            batched_copies(&context)?;
            println!("batched copies are right");
            return Ok(());
        }
        _ => {}
    }
    accumulation(&context)?;
    unused_parameters(&context)?;
    static_graph(&context)?;
    batched_copies(&context)?;
    compression(&context)?;
    buffers(&context)?;
    own_buffers(&context)?;
    two_forward_passes(&context)?;
    dropped_before_backward(&context)?;
    differences(&context)?;
    frozen(&context)?;
    println!("the reducer is right");
    Ok(())
}

/// This rank's batch number `i`.
fn batch(context: &Context, i: i64) -> Tensor {
    (Tensor::arange(12, (Kind::Float, context.device())).view([4, 3]) + (context.rank() as i64 * 5 + i)) / 10
}

fn gradients(vs: &VarStore) -> Vec<Tensor> {
    vs.trainable_variables().iter().map(|variable| variable.grad().copy()).collect()
}

fn close(a: &[Tensor], b: &[Tensor], bound: f64) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.allclose(b, bound, bound, false))
}

fn options(change: impl FnOnce(&mut DdpOptions)) -> DdpOptions {
    let mut options = DdpOptions::default();
    change(&mut options);
    options
}

/// Three batches, the first two without communication, against each rank's sum averaged by hand.
fn accumulation(context: &Context) -> Result<()> {
    let vs = VarStore::new(context.device());
    let model = nn::linear(vs.root(), 3, 2, Default::default());
    let ddp = Ddp::new(context.group(), &vs)?;
    let loss = |i| model.forward(&batch(context, i)).square().mean(Kind::Float);
    let mut optimizer = Sgd::new(&vs, SgdOptions::default());
    // Twice, as the buckets are rebuilt after the first step.
    for _ in 0..2 {
        (0..3).map(loss).sum::<Tensor>().backward();
        let mut expected = gradients(&vs);
        for gradient in &mut expected {
            context.group().all_reduce(gradient, ReduceOp::Avg)?;
        }
        optimizer.zero_grad()?;
        ddp.no_sync(|| (0..2).try_for_each(|i| ddp.backward(&ddp.forward(|| loss(i))?)))?;
        ddp.backward(&ddp.forward(|| loss(2))?)?;
        ensure!(close(&gradients(&vs), &expected, 1e-5), "accumulated: {:?}, not {expected:?}", gradients(&vs));
        optimizer.zero_grad()?;
    }
    let data = ddp.logging_data()?;
    ensure!(data.get("world_size").is_some_and(|n| *n == context.world_size().to_string()), "{data:?}");
    ensure!(data.contains_key("bucket_sizes") && data.contains_key("avg_backward_comm_time"), "{data:?}");
    Ok(())
}

/// A layer that only one rank uses.
fn unused_parameters(context: &Context) -> Result<()> {
    let train = |find_unused_parameters| -> Result<Option<Tensor>, Error> {
        let vs = VarStore::new(context.device());
        let common = nn::linear(vs.root() / "common", 3, 3, Default::default());
        let rare = nn::linear(vs.root() / "rare", 3, 3, Default::default());
        let ddp =
            Ddp::with_options(context.group(), &vs, options(|o| o.find_unused_parameters = find_unused_parameters))?;
        let mut optimizer = Sgd::new(&vs, SgdOptions::default());
        for i in 0..3 {
            optimizer.zero_grad()?;
            let loss = ddp.forward(|| {
                let x = common.forward(&batch(context, i));
                let x = if find_unused_parameters && context.rank() != 0 { x } else { rare.forward(&x) };
                // Without the flag, no rank uses `rare` after the first step.
                let x = if !find_unused_parameters && i > 0 { common.forward(&batch(context, i)) } else { x };
                x.square().mean(Kind::Float)
            })?;
            ddp.backward(&loss)?;
            optimizer.step()?;
        }
        Ok(Some(rare.ws.grad()))
    };
    // Without the flag it is an error, not a hang.
    let Err(Error::UnusedParameters { parameters }) = train(false) else {
        bail!("a parameter without a gradient gives no error")
    };
    ensure!(parameters == ["rare.bias", "rare.weight"], "{parameters:?}");
    let mut gradient = train(true)?.expect("there is a gradient");
    let before = gradient.copy();
    context.group().all_reduce(&mut gradient, ReduceOp::Avg)?;
    ensure!(gradient == before && before.abs().max().double_value(&[]) > 0.0, "all ranks hold the average");
    Ok(())
}

/// The losses of five steps.
fn losses(context: &Context, options: &DdpOptions) -> Result<Vec<f64>> {
    // From the CPU's random numbers, so that the weights are the same on every device.
    let mut vs = VarStore::new(Device::Cpu);
    tch::manual_seed(7);
    let model = nn::seq()
        .add(nn::linear(vs.root() / "a", 3, 8, Default::default()))
        .add_fn(|x| x.relu())
        .add(nn::linear(vs.root() / "b", 8, 1, Default::default()));
    vs.set_device(context.device());
    let ddp = Ddp::with_options(context.group(), &vs, options.clone())?;
    let mut optimizer = Sgd::new(&vs, SgdOptions { lr: 0.05, ..Default::default() });
    (0..5)
        .map(|i| {
            optimizer.zero_grad()?;
            let loss = ddp.forward(|| model.forward(&batch(context, i)).square().mean(Kind::Float))?;
            ddp.backward(&loss)?;
            optimizer.step()?;
            Ok(loss.double_value(&[]))
        })
        .collect()
}

fn static_graph(context: &Context) -> Result<()> {
    let plain = losses(context, &DdpOptions::default())?;
    let fixed = losses(context, &options(|o| o.static_graph = true))?;
    ensure!(plain == fixed, "{plain:?} and {fixed:?}");
    let copies = losses(context, &options(|o| o.gradient_as_bucket_view = false))?;
    ensure!(plain == copies, "{plain:?} and {copies:?}");
    Ok(())
}

/// Gradients that are copied into their buckets together: the same sums, divided by the number of ranks instead of
/// multiplied by its reciprocal, so the same bits with a power of two.
fn batched_copies(context: &Context) -> Result<()> {
    let bound = if context.world_size().is_power_of_two() { 0.0 } else { 1e-6 };
    let changes: [fn(&mut DdpOptions); 4] = [
        |_| {},
        |o| o.static_graph = true,
        |o| o.gradient_as_bucket_view = false,
        |o| o.comm_hook = CommHook::Bf16Compress,
    ];
    for (change, set_to_none) in changes.into_iter().flat_map(|change| [(change, true), (change, false)]) {
        let train = |batched| {
            let options = options(|o| {
                change(o);
                o.batched_grad_copy = batched;
            });
            train_linear(context, &options, set_to_none)
        };
        let (single, batched) = (train(false)?, train(true)?);
        ensure!(close(&single, &batched, bound), "set to none: {set_to_none}: {single:?} and {batched:?}");
    }
    Ok(())
}

/// The weights and gradients after four steps of two batches, or one with a static graph.
fn train_linear(context: &Context, options: &DdpOptions, set_to_none: bool) -> Result<Vec<Tensor>> {
    let vs = VarStore::new(context.device());
    let model = nn::linear(vs.root(), 3, 2, Default::default());
    let _ = tch::no_grad(|| vs.trainable_variables().iter_mut().map(|p| p.fill_(0.5)).count());
    let ddp = Ddp::with_options(context.group(), &vs, options.clone())?;
    let mut optimizer = Sgd::new(&vs, SgdOptions { lr: 0.1, ..Default::default() });
    let loss = |i| model.forward(&batch(context, i)).square().mean(Kind::Float);
    for i in 0..4 {
        optimizer.zero_grad_with(set_to_none)?;
        if !options.static_graph {
            ddp.no_sync(|| ddp.backward(&ddp.forward(|| loss(i))?))?;
        }
        ddp.backward(&ddp.forward(|| loss(i + 1))?)?;
        optimizer.step()?;
    }
    let weights = vs.trainable_variables().iter().map(|p| p.detach().copy()).collect::<Vec<_>>();
    Ok(weights.into_iter().chain(gradients(&vs)).collect())
}

fn compression(context: &Context) -> Result<()> {
    let plain = losses(context, &DdpOptions::default())?;
    for (hook, bound) in [(CommHook::Fp16Compress, 1e-3), (CommHook::Bf16Compress, 1e-2)] {
        let compressed = losses(context, &options(|o| o.comm_hook = hook))?;
        let near = plain.iter().zip(&compressed).all(|(a, b)| (a - b).abs() <= bound * a.abs());
        ensure!(near && plain != compressed, "{hook:?}: {plain:?} and {compressed:?}");
    }
    Ok(())
}

/// BatchNorm's statistics are rank 0's on all ranks after a forward pass starts.
fn buffers(context: &Context) -> Result<()> {
    let vs = VarStore::new(context.device());
    let norm = nn::batch_norm1d(vs.root(), 3, Default::default());
    let ddp = Ddp::new(context.group(), &vs)?;
    for i in 0..2 {
        ddp.backward(&ddp.forward(|| norm.forward_t(&batch(context, i * i), true).square().sum(Kind::Float))?)?;
    }
    // Each rank now has statistics of its own batch; the next pass starts from rank 0's.
    let means = context.group().all_gather(&norm.running_mean)?;
    ensure!(means[0] != means[1], "ranks saw different batches");
    let _ = tch::no_grad(|| ddp.forward(|| norm.forward_t(&batch(context, 0), false)))?;
    let means = context.group().all_gather(&norm.running_mean)?;
    ensure!(means[0] == means[1], "buffers differ: {means:?}");
    Ok(())
}

/// Without `broadcast_buffers`, buffers stay each rank's own from the start.
fn own_buffers(context: &Context) -> Result<()> {
    let vs = VarStore::new(context.device());
    let norm = nn::batch_norm1d(vs.root(), 3, Default::default());
    let mut mean = norm.running_mean.shallow_clone();
    let _ = mean.fill_(context.rank() as f64 + 1.0);
    let ddp = Ddp::with_options(context.group(), &vs, options(|o| o.broadcast_buffers = false))?;
    let _ = tch::no_grad(|| ddp.forward(|| norm.forward_t(&batch(context, 0), false)))?;
    ensure!(norm.running_mean.double_value(&[0]) == context.rank() as f64 + 1.0, "{:?}", norm.running_mean);
    Ok(())
}

/// Two forward passes of a model with BatchNorm, then one backward pass (GANs, contrastive losses): the gradients are those
/// of both. The buffers that are made equal before the second pass were saved in the graph of the first one.
fn two_forward_passes(context: &Context) -> Result<()> {
    let vs = VarStore::new(context.device());
    let linear = nn::linear(vs.root() / "linear", 3, 3, Default::default());
    let norm = nn::batch_norm1d(vs.root() / "norm", 3, Default::default());
    let ddp = Ddp::new(context.group(), &vs)?;
    let loss = |i| norm.forward_t(&linear.forward(&batch(context, i)), true).pow_tensor_scalar(3).mean(Kind::Float);
    for i in 0..3 {
        (loss(i) + loss(i + 4)).backward();
        let mut expected = gradients(&vs);
        for gradient in &mut expected {
            context.group().all_reduce(gradient, ReduceOp::Avg)?;
        }
        Sgd::new(&vs, SgdOptions::default()).zero_grad()?;
        let both = ddp.forward(|| loss(i))? + ddp.forward(|| loss(i + 4))?;
        ddp.backward(&both)?;
        ensure!(close(&gradients(&vs), &expected, 1e-4), "{:?}, not {expected:?}", gradients(&vs));
        Sgd::new(&vs, SgdOptions::default()).zero_grad()?;
    }
    Ok(())
}

/// The graph keeps the reducer alive: gradients are averaged although the `Ddp` was dropped.
fn dropped_before_backward(context: &Context) -> Result<()> {
    let forms: [fn(&mut DdpOptions); 3] = [|_| {}, |o| o.find_unused_parameters = true, |o| o.static_graph = true];
    for form in forms {
        let vs = VarStore::new(context.device());
        let model = nn::linear(vs.root(), 3, 2, Default::default());
        let ddp = Ddp::with_options(context.group(), &vs, options(form))?;
        let loss = ddp.forward(|| model.forward(&batch(context, 0)).square().mean(Kind::Float))?;
        drop(ddp);
        // Memory that was freed holds something else now.
        let _other = vec![0xa5u8; 1 << 20];
        loss.f_backward()?;
        let mut gradient = model.ws.grad().copy();
        let before = gradient.copy();
        context.group().all_reduce(&mut gradient, ReduceOp::Avg)?;
        ensure!(gradient == before, "the gradients are not averaged: {before:?}, {gradient:?}");
        // It averages once, and returns an error the next time.
        let second = loss.f_backward();
        ensure!(second.is_err(), "the second backward pass is an error");
    }
    Ok(())
}

/// Models that differ in what is not trained, or in strides only, are refused on all ranks.
fn differences(context: &Context) -> Result<()> {
    let first = context.rank() == 0;
    let refused = |make: &dyn Fn(&VarStore)| {
        let vs = VarStore::new(context.device());
        let _ = vs.root().ones("trained", &[2]);
        make(&vs);
        Ddp::new(context.group(), &vs).err().map(|err| err.to_string())
    };
    let numbers = |size: &[i64]| Tensor::zeros(size, (Kind::Float, context.device()));
    let buffer = refused(&|vs| {
        let _ = vs.root().add("statistics", numbers(if first { &[3] } else { &[4] }), false);
    });
    let place = if context.device().is_cuda() { " on CUDA" } else { "" };
    let expected = format!(
        "the model of rank 1 differs from rank 0's: rank 1 has buffer statistics [4] Float{place}, rank 0 has buffer statistics \
         [3] Float{place}"
    );
    ensure!(buffer.as_deref().is_some_and(|err| err.starts_with(&expected)), "{buffer:?}");
    let frozen = refused(&|vs| {
        let mut weight = vs.root().var("base", &[2, if first { 3 } else { 5 }], nn::Init::Const(1.0));
        let _ = weight.requires_grad_(false);
    });
    ensure!(
        frozen.as_deref().is_some_and(|err| err.contains("rank 1 has frozen parameter base [2, 5] Float")),
        "{frozen:?}"
    );
    let strides = refused(&|vs| {
        let weight = if first { numbers(&[2, 3]) } else { numbers(&[3, 2]).transpose(0, 1) };
        let _ = vs.root().add("weight", weight.set_requires_grad(true), true);
    });
    let expected = format!("rank 1 has parameter weight [2, 3] Float{place} with strides [1, 2]");
    ensure!(strides.as_deref().is_some_and(|err| err.contains(&expected)), "{strides:?}");
    Ok(())
}

fn frozen(context: &Context) -> Result<()> {
    let mut vs = VarStore::new(context.device());
    let base = nn::linear(vs.root() / "base", 3, 3, Default::default());
    vs.freeze();
    let head = nn::linear(vs.root() / "head", 3, 1, Default::default());
    let _ = tch::no_grad(|| base.ws.shallow_clone().fill_(context.rank() as f64 + 1.0));
    let ddp = Ddp::new(context.group(), &vs)?;
    ensure!(ddp.parameter_names().all(|name| name.starts_with("head.")), "frozen parameters are not trained");
    ensure!(base.ws.double_value(&[0, 0]) == 1.0, "frozen parameters are rank 0's");
    let loss = ddp.forward(|| head.forward(&base.forward(&batch(context, 0))).square().mean(Kind::Float))?;
    Ok(ddp.backward(&loss)?)
}
