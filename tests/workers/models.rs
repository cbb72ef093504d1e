//! Small models trained with many settings; prints the bits of each step's loss and gradient norm, and what all
//! variables add up to. Its Python twin is `golden/models.py`, whose cases it reads.

use std::collections::{BTreeMap, HashMap};
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use ddp_runtime::amp::{Autocast, GradScaler, GradScalerOptions};
use ddp_runtime::lr_scheduler::*;
use ddp_runtime::optim::*;
use ddp_runtime::{Backend, CommHook, Context, Ddp, DdpOptions, DistributedSampler};
use serde::Deserialize;
use serde_json::Value;
use tch::nn::{self, ModuleT, VarStore};
use tch::{Kind, Reduction, Tensor};

/// A setting of `golden/models.py`.
#[derive(Deserialize)]
struct Case {
    model: String,
    optimizer: String,
    options: HashMap<String, Value>,
    groups: Option<HashMap<String, Value>>,
    scheduler: Option<String>,
    #[serde(default)]
    args: Value,
    #[serde(default = "one")]
    accumulate: usize,
    clip_norm: Option<f64>,
    norm_type: Option<String>,
    clip_value: Option<f64>,
    autocast: Option<String>,
    scaler: Option<HashMap<String, f64>>,
    #[serde(default)]
    overflow_at: Vec<usize>,
    #[serde(default)]
    find_unused_parameters: bool,
    #[serde(default)]
    static_graph: bool,
    hook: Option<String>,
    bucket_cap_mb: Option<f64>,
    #[serde(default)]
    drop_last: bool,
}

fn one() -> usize {
    1
}

#[derive(Deserialize)]
struct Golden {
    steps: usize,
    batch: usize,
    cases: BTreeMap<String, Case>,
}

type Data = HashMap<String, Tensor>;

pub(crate) fn main() -> ExitCode {
    let args: Vec<String> = ddp_tests::args().collect();
    ddp_runtime::main(|| run(&args))
}

/// `models FOLDER [CASE BATCH]`: all cases, or one with other batches.
fn run(args: &[String]) -> Result<()> {
    let folder = &args[0];
    let data: Data = Tensor::read_safetensors(format!("{folder}/models.safetensors"))?.into_iter().collect();
    let mut golden: Golden = serde_json::from_str(&std::fs::read_to_string(format!("{folder}/models.json"))?)?;
    if let [_, only, batch] = args {
        golden.batch = batch.parse()?;
        golden.cases.retain(|name, _| name == only);
    }
    // The golden numbers are the CPU's.
    let context = Context::builder().backend(Backend::Gloo).init()?;
    for (name, case) in &golden.cases {
        train(&context, &data, &golden, name, case).with_context(|| name.clone())?;
    }
    Ok(())
}

/// A model: the batch, and whether the branch uses its rare layer.
type Forward = Box<dyn Fn(&Tensor, bool) -> Tensor>;

fn model(vs: &VarStore, name: &str) -> Result<Forward> {
    let root = vs.root();
    let linear = |name: &str, from, to| nn::linear(&root / name, from, to, Default::default());
    let sequence = match name {
        "mlp" => nn::seq_t()
            .add(linear("0", 16, 32))
            .add_fn(|x| x.relu())
            .add(linear("2", 32, 32))
            .add_fn(|x| x.tanh())
            .add(linear("4", 32, 1)),
        "conv" => nn::seq_t()
            .add(nn::conv2d(&root / "0", 2, 6, 3, nn::ConvConfig { padding: 1, ..Default::default() }))
            .add(nn::batch_norm2d(&root / "1", 6, Default::default()))
            .add_fn(|x| x.relu())
            .add(nn::conv2d(&root / "3", 6, 8, 3, nn::ConvConfig { stride: 2, ..Default::default() }))
            .add(nn::batch_norm2d(&root / "4", 8, Default::default()))
            .add_fn(|x| x.relu())
            .add_fn(|x| x.flatten(1, -1))
            .add(linear("7", 32, 5)),
        "branch" => {
            let [common, rare] = ["common", "rare"].map(|name| linear(name, 16, 16));
            let head = linear("head", 16, 1);
            return Ok(Box::new(move |x, use_rare| {
                let x = x.apply(&common).tanh();
                if use_rare { x.apply(&rare).tanh() } else { x }.apply(&head)
            }));
        }
        other => bail!("no such model: {other}"),
    };
    Ok(Box::new(move |x, _| sequence.forward_t(x, true)))
}

fn number(options: &HashMap<String, Value>, name: &str, default: f64) -> f64 {
    options.get(name).and_then(Value::as_f64).unwrap_or(default)
}

fn flag(options: &HashMap<String, Value>, name: &str) -> bool {
    options.get(name).and_then(Value::as_bool).unwrap_or(false)
}

/// One group, or one for matrices and one for the rest, with the settings that `groups` overrides.
fn fused<A: Algorithm + 'static>(
    vs: &VarStore,
    case: &Case,
    make: impl Fn(&HashMap<String, Value>) -> A,
) -> Result<Fused<A>> {
    let Some(changes) = &case.groups else { return Ok(Fused::new(vs, make(&case.options))) };
    let mut others = case.options.clone();
    others.extend(changes.clone());
    let groups = [ParamGroup::new(|_, p| p.dim() > 1, make(&case.options)), ParamGroup::rest(make(&others))];
    Ok(Fused::with_groups(vs, groups)?)
}

fn optimizer(vs: &VarStore, case: &Case) -> Result<Box<dyn Optimizer>> {
    Ok(match case.optimizer.as_str() {
        "SGD" => Box::new(fused(vs, case, |o| SgdOptions {
            lr: number(o, "lr", 1e-3),
            momentum: number(o, "momentum", 0.0),
            dampening: number(o, "dampening", 0.0),
            weight_decay: number(o, "weight_decay", 0.0),
            nesterov: flag(o, "nesterov"),
            maximize: flag(o, "maximize"),
        })?),
        "Adam" => Box::new(fused(vs, case, |o| AdamOptions {
            lr: number(o, "lr", 1e-3),
            weight_decay: number(o, "weight_decay", 0.0),
            amsgrad: flag(o, "amsgrad"),
            ..Default::default()
        })?),
        "AdamW" => Box::new(fused(vs, case, |o| AdamWOptions {
            lr: number(o, "lr", 1e-3),
            weight_decay: number(o, "weight_decay", 1e-2),
            ..Default::default()
        })?),
        other => bail!("no such optimizer: {other}"),
    })
}

enum Schedulers {
    None,
    Plain(Box<dyn LrScheduler>),
    Plateau(ReduceLrOnPlateau),
}

fn scheduler(optimizer: &mut dyn Optimizer, case: &Case) -> Result<Schedulers> {
    let Some(kind) = &case.scheduler else { return Ok(Schedulers::None) };
    let float = |name: &str| case.args[name].as_f64().with_context(|| name.to_owned());
    let integer = |name: &str| case.args[name].as_u64().with_context(|| name.to_owned());
    Ok(Schedulers::Plain(match kind.as_str() {
        "StepLR" => {
            Box::new(StepLr::new(optimizer, Step { gamma: float("gamma")?, ..Step::new(integer("step_size")?) })?)
        }
        "MultiStepLR" => {
            let milestones = case.args["milestones"].as_array().context("milestones")?;
            let milestones: Vec<u64> = milestones.iter().filter_map(Value::as_u64).collect();
            let rule = MultiStep { gamma: float("gamma")?, ..MultiStep::new(milestones) };
            Box::new(MultiStepLr::new(optimizer, rule)?)
        }
        "ExponentialLR" => Box::new(ExponentialLr::new(optimizer, Exponential { gamma: float("gamma")? })?),
        "LinearLR" => {
            let (start_factor, end_factor) = (float("start_factor")?, float("end_factor")?);
            Box::new(LinearLr::new(
                optimizer,
                Linear { start_factor, end_factor, total_iters: integer("total_iters")? },
            )?)
        }
        "CosineAnnealingLR" => {
            let rule = CosineAnnealing { eta_min: float("eta_min")?, ..CosineAnnealing::new(integer("T_max")?) };
            Box::new(CosineAnnealingLr::new(optimizer, rule)?)
        }
        "CosineAnnealingWarmRestarts" => {
            let t_mult = integer("T_mult")?;
            let rule = CosineAnnealingWarmRestarts { t_mult, ..CosineAnnealingWarmRestarts::new(integer("T_0")?) };
            Box::new(CosineAnnealingWarmRestartsLr::new(optimizer, rule)?)
        }
        "OneCycleLR" => Box::new(OneCycleLr::new(optimizer, OneCycle::new(float("max_lr")?, integer("total_steps")?))?),
        "LambdaLR" => Box::new(LambdaLr::new(optimizer, Lambda::new(|step| 1.0 / (1.0 + step as f64)))?),
        "SequentialLR" => {
            let warm_up = integer("warm_up")?;
            let parts = [
                Linear { start_factor: 0.1, total_iters: warm_up, ..Default::default() }.boxed(),
                CosineAnnealing::new(integer("T_max")?).boxed(),
            ];
            Box::new(SequentialLr::new(optimizer, parts, [warm_up])?)
        }
        "ReduceLROnPlateau" => {
            let options = ReduceLrOnPlateauOptions {
                factor: float("factor")?,
                patience: integer("patience")?,
                ..Default::default()
            };
            return Ok(Schedulers::Plateau(ReduceLrOnPlateau::new(optimizer, options)?));
        }
        other => bail!("no such scheduler: {other}"),
    }))
}

fn ddp_options(case: &Case) -> DdpOptions {
    let comm_hook = match case.hook.as_deref() {
        Some("fp16") => CommHook::Fp16Compress,
        Some(_) => CommHook::Bf16Compress,
        None => CommHook::None,
    };
    let Case { find_unused_parameters, static_graph, .. } = *case;
    let mut options = DdpOptions { find_unused_parameters, static_graph, comm_hook, ..Default::default() };
    if let Some(mib) = case.bucket_cap_mb {
        options.bucket_cap_bytes = (mib * 1024.0 * 1024.0) as i64;
    }
    options
}

/// The parameters as `model.parameters()` gives them. tch's layers make their bias first, and the order decides how a sum
/// over the parameters is rounded.
fn in_torchs_order(vs: &VarStore) -> Vec<Tensor> {
    let mut named: Vec<_> = vs.variables().into_iter().filter(|(_, variable)| variable.requires_grad()).collect();
    named.sort_by_key(|(name, _)| {
        let (layer, part) = name.split_once('.').unwrap_or((name, ""));
        (layer.to_owned(), part != "weight")
    });
    named.into_iter().map(|(_, variable)| variable).collect()
}

fn bits(number: f64) -> String {
    format!("{:08x}", (number as f32).to_bits())
}

fn train(context: &Context, data: &Data, golden: &Golden, name: &str, case: &Case) -> Result<()> {
    let (rank, conv) = (context.rank(), case.model == "conv");
    let get = |name: &str| data.get(name).with_context(|| name.to_owned());
    let vs = VarStore::new(context.device());
    let forward = model(&vs, &case.model)?;
    if rank == 0 {
        // The other ranks get them by Ddp's broadcast.
        for (key, mut variable) in vs.variables() {
            let first = get(&format!("{}.{key}", case.model))?;
            tch::no_grad(|| variable.f_copy_(first))?;
        }
    }
    let ddp = Ddp::with_options(context.group(), &vs, ddp_options(case))?;
    let mut optimizer = optimizer(&vs, case)?;
    let mut scheduler = scheduler(&mut *optimizer, case)?;
    let autocast = match case.autocast {
        Some(_) => Autocast::new(context.device(), Kind::BFloat16)?,
        None => Autocast::disabled(context.device())?,
    };
    let scaling = case.scaler.clone().unwrap_or_default();
    let setting = |name: &str, default| scaling.get(name).copied().unwrap_or(default);
    let mut scaler = GradScaler::new(
        context.device(),
        GradScalerOptions {
            enabled: case.scaler.is_some(),
            init_scale: setting("init_scale", 1.0),
            growth_factor: setting("growth_factor", 2.0),
            backoff_factor: setting("backoff_factor", 0.5),
            growth_interval: setting("growth_interval", 1.0) as i64,
        },
    )?;
    let (x, y) = if conv { (get("images")?, get("labels")?) } else { (get("x")?, get("y")?) };
    let samples = if case.drop_last { 251 } else { x.size()[0] as usize };
    let mut sampler = DistributedSampler::new(samples, context.world_size(), rank)?.drop_last(case.drop_last);

    let mut epochs = 0..;
    let mut batches = Vec::new().into_iter();
    for step in 0..golden.steps {
        optimizer.zero_grad()?;
        let mut last = Tensor::new();
        for part in 0..case.accumulate {
            if batches.len() == 0 {
                sampler.set_epoch(epochs.next().unwrap_or(0));
                let chunks: Vec<Vec<i64>> = sampler.indices()?.chunks(golden.batch).map(<[i64]>::to_vec).collect();
                batches = chunks.into_iter();
            }
            let index = Tensor::from_slice(&batches.next().context("an epoch has batches")?);
            let (x, y) = (x.index_select(0, &index), y.index_select(0, &index));
            let mut backward = || {
                let loss = ddp.forward(|| {
                    autocast.run(|| {
                        let output = forward(&x, (step + rank).is_multiple_of(3));
                        match conv {
                            true => output.cross_entropy_loss::<Tensor>(&y, None, Reduction::Mean, -100, 0.0),
                            false => output.mse_loss(&y, Reduction::Mean),
                        }
                    })
                })?;
                last = &loss / case.accumulate as f64;
                if case.overflow_at.contains(&step) && rank == 1 {
                    last = &last * f64::INFINITY;
                }
                ddp.backward(&scaler.scale(&last)?)
            };
            if part + 1 < case.accumulate { ddp.no_sync(backward)? } else { backward()? }
        }
        let mut norm = 0.0;
        if let Some(max_norm) = case.clip_norm {
            scaler.unscale(&*optimizer)?;
            let norm_type = case.norm_type.as_deref().unwrap_or("2").parse()?;
            norm = clip_grad_norm(&in_torchs_order(&vs)[..], max_norm, norm_type)?.double_value(&[]);
        }
        if let Some(clip_value) = case.clip_value {
            clip_grad_value(&vs, clip_value)?;
        }
        scaler.step(&mut *optimizer)?;
        scaler.update()?;
        match &mut scheduler {
            Schedulers::None => {}
            Schedulers::Plain(scheduler) => scheduler.step(&mut *optimizer)?,
            Schedulers::Plateau(plateau) => plateau.step_with(0.5 + 0.1 * (step % 4) as f64, &mut *optimizer)?,
        }
        println!("{name}: {rank} {step} {} {}", bits(last.double_value(&[])), bits(norm));
    }

    let mut total = 0u64;
    for tensor in vs.variables().into_iter().collect::<BTreeMap<_, _>>().values() {
        let words = tensor.detach().flatten(0, -1).view_dtype(Kind::Int).to_kind(Kind::Int64);
        let weights = Tensor::arange_start(1, words.size()[0] + 1, (Kind::Int64, words.device()));
        total = total.wrapping_add((words * weights).sum(Kind::Int64).int64_value(&[]).cast_unsigned());
    }
    println!("{name}: {rank} end {total:016x} {:?}", scaler.get_scale()?);
    Ok(())
}
