//! Communication hooks in Rust, checked by each rank.
//!
//! `hooks` runs the checks that succeed; in `hooks fail`, rank 1's hook fails.

#![allow(clippy::unwrap_used, reason = "a check fails by panicking")]

use std::collections::BTreeSet;
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use anyhow::{Result, bail, ensure};
use ddp_runtime::comm_hook::{GradBucket, HookWork, PowerSgd, PowerSgdOptions};
use ddp_runtime::optim::{Optimizer, Sgd, SgdOptions};
use ddp_runtime::{CommHook, Context, Ddp, DdpOptions, Error, JoinDivisor, ProcessGroup, ReduceOp};
use tch::nn::{self, Linear, Module, VarStore};
use tch::{Kind, Tensor};

pub(crate) fn main() -> ExitCode {
    let fails = ddp_tests::args().next().is_some_and(|arg| arg == "fail");
    ddp_runtime::main(|| if fails { rank_1_fails() } else { work() })
}

fn work() -> Result<()> {
    let context = Context::init()?;
    an_all_reduce_equals_no_hook(&context)?;
    buckets_are_whole(&context)?;
    two_stages_work_while_others_have_no_batches(&context)?;
    errors_come_out_of_backward(&context)?;
    misuse_is_refused(&context)?;
    println!("hooks are right");
    Ok(())
}

/// Two layers, of which ranks use the second one in some steps only.
struct Model {
    vs: VarStore,
    common: Linear,
    rare: Linear,
}

impl Model {
    fn new(context: &Context) -> Self {
        tch::manual_seed(5);
        let vs = VarStore::new(context.device());
        let [common, rare] = ["common", "rare"].map(|name| nn::linear(vs.root() / name, 12, 12, Default::default()));
        Self { vs, common, rare }
    }

    fn loss(&self, rank: usize, step: usize, skips: bool) -> Tensor {
        let x =
            (Tensor::arange(96, (Kind::Float, self.vs.device())) + (rank * 31 + step * 7) as i64).sin().view([8, 12]);
        let x = self.common.forward(&x).tanh();
        let x = if skips && (rank + step) % 2 == 1 { x } else { self.rare.forward(&x) };
        x.square().mean(Kind::Float)
    }

    /// The bits of all parameters.
    fn bits(&self) -> Result<Vec<i32>> {
        let mut named: Vec<_> = self.vs.variables().into_iter().collect();
        named.sort_by(|a, b| a.0.cmp(&b.0));
        let bits = named
            .into_iter()
            .map(|(_, variable)| Vec::<i32>::try_from(variable.detach().flatten(0, -1).view_dtype(Kind::Int)));
        Ok(bits.collect::<Result<Vec<_>, _>>()?.concat())
    }
}

fn options(change: impl FnOnce(&mut DdpOptions)) -> DdpOptions {
    let mut options = DdpOptions::default();
    // Several buckets, though the model is small.
    (options.first_bucket_bytes, options.bucket_cap_bytes) = (64, 600);
    change(&mut options);
    options
}

/// What DDP does without a hook: it multiplies by the reciprocal of the number of ranks, and sums.
fn average(group: &ProcessGroup, bucket: GradBucket) -> Result<HookWork, Error> {
    let mut buffer = bucket.into_buffer();
    let _ = tch::no_grad(|| buffer.g_mul_scalar_(1.0 / group.world_size() as f64));
    let work = group.all_reduce_async(&mut buffer, ReduceOp::Sum)?;
    Ok(HookWork::new(move || work.wait().map(|()| buffer)))
}

/// Like [`average`], but with a second exchange at the end, which changes nothing.
fn average_in_two_stages(group: &ProcessGroup, bucket: GradBucket) -> Result<HookWork, Error> {
    let mut buffer = bucket.into_buffer();
    let _ = tch::no_grad(|| buffer.g_mul_scalar_(1.0 / group.world_size() as f64));
    let (work, group) = (group.all_reduce_async(&mut buffer, ReduceOp::Sum)?, group.clone());
    Ok(HookWork::new(move || {
        work.wait()?;
        group.all_reduce(&mut buffer, ReduceOp::Max)?;
        Ok(buffer)
    }))
}

fn an_all_reduce_equals_no_hook(context: &Context) -> Result<()> {
    let rank = context.rank();
    let train = |options: &DdpOptions, accumulates: bool, joins: bool, hook: bool| -> Result<Vec<i32>> {
        let model = Model::new(context);
        let ddp = Ddp::with_options(context.group(), &model.vs, options.clone())?;
        if hook {
            let group = context.group().clone();
            ddp.register_comm_hook(move |bucket| average(&group, bucket))?;
        }
        let mut optimizer = Sgd::new(&model.vs, SgdOptions { lr: 0.1, momentum: 0.9, ..Default::default() });
        let mut steps = |n: usize| {
            for step in 0..n {
                optimizer.zero_grad()?;
                let loss = |step| ddp.forward(|| model.loss(rank, step, options.find_unused_parameters));
                // The first step of a static graph finds its unused parameters, and has to communicate.
                if accumulates && !(options.static_graph && step == 0) {
                    ddp.no_sync(|| ddp.backward(&loss(step + 1)?))?;
                }
                ddp.backward(&loss(step)?)?;
                optimizer.step()?;
            }
            Ok(())
        };
        match joins {
            true => ddp.join(JoinDivisor::WorldSize, || steps(3 + 2 * rank))?,
            false => steps(5)?,
        }
        model.bits()
    };
    type Change = fn(&mut DdpOptions);
    let cases: [(&str, Change); 4] = [
        ("default", |_| {}),
        ("find_unused_parameters", |o| o.find_unused_parameters = true),
        ("static_graph", |o| o.static_graph = true),
        ("copies", |o| o.gradient_as_bucket_view = false),
    ];
    for (name, change) in cases {
        for (accumulates, joins) in [(false, false), (true, false), (false, true)] {
            if joins && name == "static_graph" {
                continue; // its first step has an exchange of its own, which join does not take part in
            }
            let options = options(change);
            let plain = train(&options, accumulates, joins, false)?;
            let hooked = train(&options, accumulates, joins, true)?;
            ensure!(plain == hooked, "{name}, accumulation {accumulates}, join {joins}: weights differ");
        }
    }
    Ok(())
}

fn buckets_are_whole(context: &Context) -> Result<()> {
    let model = Model::new(context);
    let ddp = Ddp::with_options(context.group(), &model.vs, options(|_| {}))?;
    let (group, seen) = (context.group().clone(), Arc::new(Mutex::new(Vec::new())));
    let (seen_by_hook, variables) = (seen.clone(), model.vs.variables());
    ddp.register_comm_hook(move |bucket| {
        let fits = bucket.gradients().iter().zip(bucket.parameters()).zip(bucket.names());
        let fits = fits.filter(|((gradient, parameter), name)| {
            gradient.size() == parameter.size() && variables[*name].data_ptr() == parameter.data_ptr()
        });
        assert_eq!(fits.count(), bucket.names().len());
        let flat: Vec<_> = bucket.gradients().iter().map(|gradient| gradient.reshape([-1])).collect();
        assert_eq!(Tensor::cat(&flat, 0), *bucket.buffer());
        assert_eq!(bucket.gradients()[0].data_ptr(), bucket.buffer().data_ptr(), "views, not copies");
        let names = bucket.names().to_vec();
        seen_by_hook.lock().unwrap().push((bucket.index(), bucket.is_last(), names));
        average(&group, bucket)
    })?;
    for step in 0..2 {
        seen.lock().unwrap().clear();
        ddp.backward(&ddp.forward(|| model.loss(context.rank(), step, false))?)?;
        let seen = seen.lock().unwrap();
        let names: BTreeSet<_> = seen.iter().flat_map(|(_, _, names)| names).collect();
        ensure!(names.len() == 4 && seen.iter().map(|(_, _, names)| names.len()).sum::<usize>() == 4, "{seen:?}");
        let in_order =
            seen.iter().enumerate().all(|(i, (index, last, _))| *index == i && *last == (i + 1 == seen.len()));
        ensure!(in_order && (step == 0 || seen.len() > 1), "{seen:?}");
        for (_, variable) in model.vs.variables() {
            ensure!(variable.grad().defined());
        }
    }
    Ok(())
}

/// The second stages of all buckets come after the exchange of which parameters were used, on all ranks.
fn two_stages_work_while_others_have_no_batches(context: &Context) -> Result<()> {
    let rank = context.rank();
    for with_power_sgd in [false, true] {
        let model = Model::new(context);
        let ddp = Ddp::with_options(context.group(), &model.vs, options(|o| o.find_unused_parameters = true))?;
        let group = context.group().clone();
        let power_sgd = PowerSgd::new(PowerSgdOptions { start_iter: 2, ..Default::default() })?;
        match with_power_sgd {
            true => ddp.register_comm_hook(power_sgd.hook(&group))?,
            false => ddp.register_comm_hook(move |bucket| average_in_two_stages(&group, bucket))?,
        }
        ddp.join(JoinDivisor::WorldSize, || {
            let mut optimizer = Sgd::new(&model.vs, SgdOptions { lr: 0.1, ..Default::default() });
            for step in 0..4 + 3 * rank {
                optimizer.zero_grad()?;
                ddp.backward(&ddp.forward(|| model.loss(rank, step, true))?)?;
                optimizer.step()?;
            }
            Ok(())
        })?;
        let all = context.group().all_gather_value(&model.bits()?)?;
        ensure!(all.iter().all(|one| *one == all[0]), "ranks have different weights");
        let compression = power_sgd.compression();
        ensure!((compression.after < compression.before) == with_power_sgd, "{compression:?}");
    }
    Ok(())
}

/// All ranks' hooks fail alike, so none waits for another.
fn errors_come_out_of_backward(context: &Context) -> Result<()> {
    type Hook = fn(GradBucket) -> Result<HookWork, Error>;
    let place = format!("on {:?}, expected", context.device());
    let short = format!("the communication hook returned 1 elements of Float {place}");
    let wide = format!("elements of Double {place}");
    let cases: [(Hook, &str); 6] = [
        (|_| Err(Error::Invalid("no bandwidth".into())), "no bandwidth"),
        (|_| panic!("out of cables"), "out of cables"),
        (|_| Ok(HookWork::new(|| Err(Error::Invalid("lost\nthe way".into())))), "lost\nthe way"),
        (|_| Ok(HookWork::new(|| panic!("fell over"))), "fell over"),
        (|b| Ok(HookWork::ready(b.buffer().narrow(0, 0, 1))), &short),
        (|b| Ok(HookWork::ready(b.buffer().to_kind(Kind::Double))), &wide),
    ];
    for (hook, words) in cases {
        let model = Model::new(context);
        let ddp = Ddp::with_options(context.group(), &model.vs, options(|_| {}))?;
        ddp.register_comm_hook(hook)?;
        let loss = ddp.forward(|| model.loss(0, 0, false))?;
        let Err(err) = ddp.backward(&loss) else { bail!("a hook that fails with {words:?} gives no error") };
        ensure!(err.to_string().contains(words), "{err:?} has no {words:?}");
        ensure!(matches!(err, Error::Invalid(_) | Error::Panicked { .. }), "{err:?} is not the hook's own");
        // tch's backward knows it, too.
        let model = Model::new(context);
        let ddp = Ddp::with_options(context.group(), &model.vs, options(|_| {}))?;
        ddp.register_comm_hook(hook)?;
        let loss = ddp.forward(|| model.loss(0, 0, false))?;
        let words = words.lines().next().unwrap_or_default();
        let backward = loss.f_backward().err().map(|err| err.to_string()).unwrap_or_default();
        ensure!(backward.contains(words), "{backward} has no {words:?}");
    }
    Ok(())
}

fn misuse_is_refused(context: &Context) -> Result<()> {
    struct Counter(Arc<AtomicUsize>);
    impl Drop for Counter {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
    let drops = Arc::new(AtomicUsize::new(0));
    let hook = || {
        let (group, counter) = (context.group().clone(), Counter(drops.clone()));
        move |bucket| {
            let _ = &counter;
            average(&group, bucket)
        }
    };
    let model = Model::new(context);
    let compressed = Ddp::with_options(context.group(), &model.vs, options(|o| o.comm_hook = CommHook::Bf16Compress))?;
    let err = compressed.register_comm_hook(hook()).unwrap_err().to_string();
    ensure!(err.contains("can only be called once") && drops.load(Ordering::Relaxed) == 1, "{err}");
    drop(compressed);

    let ddp = Ddp::with_options(context.group(), &model.vs, options(|_| {}))?;
    ddp.register_comm_hook(hook())?;
    let err = ddp.register_comm_hook(hook()).unwrap_err().to_string();
    ensure!(err.contains("can only be called once") && drops.load(Ordering::Relaxed) == 2, "{err}");
    ddp.backward(&ddp.forward(|| model.loss(0, 0, false))?)?;
    let err = ddp.register_comm_hook(hook()).unwrap_err().to_string();
    ensure!(err.contains("before the first backward pass"), "{err}");
    drop(ddp);
    ensure!(drops.load(Ordering::Relaxed) == 4, "a hook is dropped with its Ddp");
    Ok(())
}

/// The others wait for rank 1 until it exits.
fn rank_1_fails() -> Result<()> {
    let context = Context::init()?;
    let (model, rank) = (Model::new(&context), context.rank());
    let ddp = Ddp::with_options(context.group(), &model.vs, options(|_| {}))?;
    let (group, mut calls) = (context.group().clone(), 0);
    ddp.register_comm_hook(move |bucket| {
        calls += 1;
        if rank == 1 && calls == 4 { Err(Error::Invalid("no bandwidth".into())) } else { average(&group, bucket) }
    })?;
    for step in 0..4 {
        ddp.backward(&ddp.forward(|| model.loss(rank, step, false))?)?;
    }
    Ok(())
}
