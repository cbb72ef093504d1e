//! Learning rates and clipped gradients match PyTorch's to the last bit.

use std::fs;

use ddp_runtime::lr_scheduler::*;
use ddp_runtime::optim::{Optimizer, Sgd, SgdOptions, clip_grad_norm, clip_grad_value};
use ddp_runtime::{StateDict, Stateful};
use ddp_tests::{CudaTorch, repo, stdout_of};
use serde_json::Value;
use tch::nn::VarStore;
use tch::{Device, Kind, Tensor};

fn golden() -> Value {
    serde_json::from_str(&fs::read_to_string(repo().join("tests/golden/lr_scheduler.json")).unwrap()).unwrap()
}

/// Python's live results, with gradients whose sums only the same processor rounds in the same way.
fn live() -> Option<Value> {
    let mut python = CudaTorch::find()?.python();
    python.arg(repo().join("tests/golden/lr_scheduler.py"));
    Some(serde_json::from_str(&stdout_of(&mut python)).unwrap())
}

#[test]
fn scheduler_rates_match_the_golden_ones_to_the_last_bit() {
    assert!(check_schedules(&golden()) > 80);
}

#[test]
fn scheduler_rates_match_live_python() {
    let Some(live) = live() else { return };
    check_schedules(&live);
}

#[test]
fn clipped_gradients_match_the_golden_ones_to_the_last_bit() {
    assert!(check_clips(&golden()) > 50);
}

#[test]
fn clipped_gradients_match_live_python() {
    let Some(live) = live() else { return };
    assert!(check_clips(&live) > 100);
}

fn check_schedules(golden: &Value) -> usize {
    let cases = golden["schedules"].as_array().unwrap();
    for case in cases {
        let (rates, momenta) = rates(case);
        same(&rates, &floats(&case["lrs"]), case);
        if case.get("momenta").is_some() {
            same(&momenta, &floats(&case["momenta"]), case);
        }
    }
    cases.len()
}

fn same(ours: &[f64], theirs: &[f64], case: &Value) {
    assert_eq!(ours.len(), theirs.len());
    for (step, (ours, theirs)) in ours.iter().zip(theirs).enumerate() {
        assert_eq!(ours.to_bits(), theirs.to_bits(), "step {step}: {ours} for {theirs} of {case}");
    }
}

/// The rates and momenta of a case. Half-way through, the state is saved as text and loaded into new objects.
fn rates(case: &Value) -> (Vec<f64>, Vec<f64>) {
    let kind = case["kind"].as_str().unwrap();
    let start = |settings: &Value| {
        let options = SgdOptions { lr: float(&case["lr"]), momentum: 0.9, ..Default::default() };
        let mut optimizer = Sgd::new(&VarStore::new(Device::Cpu), options);
        let scheduler = Made::new(kind, settings, &mut optimizer);
        (optimizer, scheduler)
    };
    let (mut optimizer, mut scheduler) = start(&case["args"]);
    let (mut rates, mut momenta) = (vec![optimizer.learning_rate()], optimizer.momenta());
    for step in 1..=case["steps"].as_u64().unwrap() {
        if case["set_lr"][0] == step {
            optimizer.set_learning_rate(float(&case["set_lr"][1]));
        }
        let metric = case.get("metrics").map(|metrics| float(&metrics[step as usize - 1]));
        scheduler.step(metric, &mut optimizer);
        assert_eq!(scheduler.last_lr(), optimizer.learning_rate());
        rates.push(optimizer.learning_rate());
        momenta.extend(optimizer.momenta());
        if case["save_at"] == step {
            let state = scheduler.state().to_string();
            (optimizer, scheduler) = start(&case["other"]);
            scheduler.restore(&serde_json::from_str(&state).unwrap(), &mut optimizer);
            assert_eq!(scheduler.state().to_string(), state);
        }
    }
    (rates, momenta)
}

/// A scheduler of either sort.
enum Made {
    Plain(Box<dyn LrScheduler>),
    Plateau(ReduceLrOnPlateau),
}

impl Made {
    fn new(kind: &str, args: &Value, optimizer: &mut Sgd) -> Self {
        Self::Plain(match kind {
            "StepLR" => Box::new(StepLr::new(optimizer, step(args)).unwrap()),
            "MultiStepLR" => Box::new(MultiStepLr::new(optimizer, multi_step(args)).unwrap()),
            "ExponentialLR" => Box::new(ExponentialLr::new(optimizer, exponential(args)).unwrap()),
            "LinearLR" => Box::new(LinearLr::new(optimizer, linear(args)).unwrap()),
            "CosineAnnealingLR" => Box::new(CosineAnnealingLr::new(optimizer, cosine(args)).unwrap()),
            "CosineAnnealingWarmRestarts" => {
                Box::new(CosineAnnealingWarmRestartsLr::new(optimizer, warm_restarts(args)).unwrap())
            }
            "OneCycleLR" => Box::new(OneCycleLr::new(optimizer, one_cycle(args)).unwrap()),
            "LambdaLR" => Box::new(LambdaLr::new(optimizer, lambda(args)).unwrap()),
            "SequentialLR" => {
                let parts: Vec<_> = args["schedulers"].as_array().unwrap().iter().map(part).collect();
                Box::new(SequentialLr::new(optimizer, parts, integers(&args["milestones"])).unwrap())
            }
            "ReduceLROnPlateau" => {
                return Self::Plateau(ReduceLrOnPlateau::new(optimizer, plateau(args)).unwrap());
            }
            _ => panic!("{kind}"),
        })
    }

    fn step(&mut self, metric: Option<f64>, optimizer: &mut Sgd) {
        match self {
            Self::Plain(scheduler) => scheduler.step(optimizer).unwrap(),
            Self::Plateau(scheduler) => scheduler.step_with(metric.unwrap(), optimizer).unwrap(),
        }
    }

    fn last_lr(&self) -> f64 {
        match self {
            Self::Plain(scheduler) => scheduler.last_lr(),
            Self::Plateau(scheduler) => scheduler.last_lr(),
        }
    }

    fn state(&self) -> Value {
        match self {
            Self::Plain(scheduler) => scheduler.state_dict().unwrap().require("scheduler").unwrap(),
            Self::Plateau(scheduler) => scheduler.state_dict().unwrap().require("plateau").unwrap(),
        }
    }

    fn restore(&mut self, state: &Value, optimizer: &mut Sgd) {
        match self {
            Self::Plain(scheduler) => load(scheduler, "scheduler", state, optimizer),
            Self::Plateau(scheduler) => load(scheduler, "plateau", state, optimizer),
        }
    }
}

fn load(scheduler: &mut impl Stateful, name: &str, state: &Value, optimizer: &mut Sgd) {
    scheduler.load_state_dict(&StateDict::new().with(name, state).unwrap()).unwrap();
    scheduler.restore_optimizer(optimizer).unwrap();
}

fn part(part: &Value) -> Box<dyn Schedule> {
    let args = &part["args"];
    match part["kind"].as_str().unwrap() {
        "StepLR" => step(args).boxed(),
        "MultiStepLR" => multi_step(args).boxed(),
        "ExponentialLR" => exponential(args).boxed(),
        "LinearLR" => linear(args).boxed(),
        "CosineAnnealingLR" => cosine(args).boxed(),
        "CosineAnnealingWarmRestarts" => warm_restarts(args).boxed(),
        "OneCycleLR" => one_cycle(args).boxed(),
        "LambdaLR" => lambda(args).boxed(),
        kind => panic!("{kind}"),
    }
}

fn step(args: &Value) -> Step {
    Step { gamma: float(&args["gamma"]), ..Step::new(integer(&args["step_size"])) }
}

fn multi_step(args: &Value) -> MultiStep {
    MultiStep { gamma: float(&args["gamma"]), ..MultiStep::new(integers(&args["milestones"])) }
}

fn exponential(args: &Value) -> Exponential {
    Exponential { gamma: float(&args["gamma"]) }
}

fn linear(args: &Value) -> Linear {
    Linear {
        start_factor: float(&args["start_factor"]),
        end_factor: args.get("end_factor").map_or(Linear::default().end_factor, float),
        total_iters: integer(&args["total_iters"]),
    }
}

fn cosine(args: &Value) -> CosineAnnealing {
    let default = CosineAnnealing::new(integer(&args["T_max"]));
    CosineAnnealing { eta_min: args.get("eta_min").map_or(default.eta_min, float), ..default }
}

fn warm_restarts(args: &Value) -> CosineAnnealingWarmRestarts {
    let default = CosineAnnealingWarmRestarts::new(integer(&args["T_0"]));
    CosineAnnealingWarmRestarts { t_mult: integer(&args["T_mult"]), eta_min: float(&args["eta_min"]), ..default }
}

fn one_cycle(args: &Value) -> OneCycle {
    let default = OneCycle::new(float(&args["max_lr"]), integer(&args["total_steps"]));
    let number = |name: &str, default: f64| args.get(name).map_or(default, float);
    let linear = args.get("anneal_strategy").is_some_and(|strategy| strategy == "linear");
    OneCycle {
        pct_start: number("pct_start", default.pct_start),
        anneal_strategy: if linear { AnnealStrategy::Linear } else { default.anneal_strategy },
        div_factor: number("div_factor", default.div_factor),
        final_div_factor: number("final_div_factor", default.final_div_factor),
        three_phase: args.get("three_phase").is_some_and(|value| value.as_bool().unwrap()),
        momentum: args
            .get("cycle_momentum")
            .map(|_| CycleMomentum { base: number("base_momentum", 0.85), max: number("max_momentum", 0.95) }),
        ..default
    }
}

fn lambda(args: &Value) -> Lambda {
    match args["lambda"].as_str().unwrap() {
        "inverse" => Lambda::new(|epoch| 1.0 / (1.0 + epoch as f64)),
        "power" => Lambda::new(|epoch| 0.95f64.powf(epoch as f64)),
        "thirds" => Lambda::new(|epoch| (epoch / 3) as f64),
        name => panic!("{name}"),
    }
}

fn plateau(args: &Value) -> ReduceLrOnPlateauOptions {
    let default = ReduceLrOnPlateauOptions::default();
    let number = |name: &str, default: f64| args.get(name).map_or(default, float);
    let count = |name: &str, default: u64| args.get(name).map_or(default, integer);
    ReduceLrOnPlateauOptions {
        mode: if args["mode"] == "max" { PlateauMode::Max } else { PlateauMode::Min },
        factor: number("factor", default.factor),
        patience: count("patience", default.patience),
        threshold: number("threshold", default.threshold),
        threshold_mode: if args["threshold_mode"] == "abs" { ThresholdMode::Abs } else { ThresholdMode::Rel },
        cooldown: count("cooldown", default.cooldown),
        min_lr: number("min_lr", default.min_lr),
        eps: number("eps", default.eps),
    }
}

fn check_clips(golden: &Value) -> usize {
    let cases = golden["clips"].as_array().unwrap();
    for case in cases {
        let parameters = parameters(case);
        let total = case
            .get("max_norm")
            .map(|max_norm| clip_grad_norm(&parameters[..], float(max_norm), float(&case["norm_type"])).unwrap());
        if let Some(limit) = case.get("clip_value") {
            clip_grad_value(&parameters[..], float(limit)).unwrap();
        }
        assert_eq!(total.map_or(String::new(), |total| bits(&total)), case["total"].as_str().unwrap(), "{case}");
        let ours: Vec<_> = parameters.iter().map(Tensor::grad).filter(Tensor::defined).map(|g| bits(&g)).collect();
        assert_eq!(Value::from(ours), case["gradients"], "{case}");
    }
    cases.len()
}

/// Parameters with the script's gradients, each followed by one without a gradient.
fn parameters(case: &Value) -> Vec<Tensor> {
    let rough = case["rough"].as_bool().unwrap();
    let sizes = integers(&case["sizes"]);
    let pairs = sizes.iter().zip(0..).flat_map(|(&size, i)| {
        let gradient: Vec<f32> = (0..size as i64)
            .map(|k| {
                let exact = ((k * (7919 + i) + 31 * i) % 127 - 63) as f32 / 8.0;
                if rough { exact * 0.37f32 } else { exact }
            })
            .collect();
        let zeros = |size| Tensor::zeros([size], (Kind::Float, Device::Cpu)).set_requires_grad(true);
        let parameter = zeros(size as i64);
        // The gradient of a product with a constant is that constant.
        (&parameter * Tensor::from_slice(&gradient)).sum(Kind::Float).backward();
        [parameter, zeros(2)]
    });
    pairs.collect()
}

fn bits(tensor: &Tensor) -> String {
    let values: Vec<f32> = tensor.reshape([-1]).try_into().unwrap();
    values.iter().map(|value| format!("{:08x}", value.to_bits())).collect()
}

/// The script writes floats as text.
fn float(value: &Value) -> f64 {
    value.as_str().unwrap().parse().unwrap()
}

fn floats(values: &Value) -> Vec<f64> {
    values.as_array().unwrap().iter().map(float).collect()
}

fn integer(value: &Value) -> u64 {
    value.as_u64().unwrap()
}

fn integers(values: &Value) -> Vec<u64> {
    values.as_array().unwrap().iter().map(integer).collect()
}
