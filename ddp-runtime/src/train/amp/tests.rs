//! Tests of `GradScaler`.

use super::*;
use crate::train::optim::{Adam, AdamOptions, AdamW, AdamWOptions, Sgd, SgdOptions};
use tch::nn::VarStore;

struct Training {
    vs: VarStore,
    optimizer: Sgd,
    scaler: GradScaler,
}

fn training(options: GradScalerOptions) -> Training {
    let vs = VarStore::new(Device::Cpu);
    let _ = vs.root().ones("w", &[1]);
    let optimizer = Sgd::new(&vs, SgdOptions { lr: 1.0, ..Default::default() });
    Training { vs, optimizer, scaler: GradScaler::new(Device::Cpu, options).unwrap() }
}

impl Training {
    /// A step whose gradient is `gradient`: whether it was taken.
    fn step(&mut self, gradient: f64) -> bool {
        self.optimizer.zero_grad().unwrap();
        let loss = (&self.vs.variables()["w"] * gradient).sum(Kind::Float);
        self.scaler.scale(&loss).unwrap().backward();
        let stepped = self.scaler.step(&mut self.optimizer).unwrap();
        self.scaler.update().unwrap();
        stepped.was_taken().unwrap()
    }

    fn weight(&self) -> f64 {
        self.vs.variables()["w"].double_value(&[0])
    }
}

#[test]
fn scaler_skips_overflows_and_adjusts_the_scale() {
    let mut training = training(GradScalerOptions { init_scale: 8.0, growth_interval: 2, ..Default::default() });
    assert!(training.step(0.25));
    assert_eq!((training.weight(), training.scaler.get_scale().unwrap()), (0.75, 8.0));
    assert!(training.step(0.25));
    assert_eq!((training.weight(), training.scaler.get_scale().unwrap()), (0.5, 16.0));
    assert!(!training.step(f64::INFINITY));
    assert!(!training.step(f64::NAN));
    assert_eq!((training.weight(), training.scaler.get_scale().unwrap()), (0.5, 4.0));
    assert!(training.step(0.5));

    let state = |scaler: &GradScaler| scaler.state_dict().unwrap().require::<serde_json::Value>("scaler").unwrap();
    let saved: serde_json::Value = serde_json::from_str(&state(&training.scaler).to_string()).unwrap();
    let mut fresh = GradScaler::new(Device::Cpu, GradScalerOptions::default()).unwrap();
    fresh.load_state_dict(&StateDict::new().with("scaler", &saved).unwrap()).unwrap();
    assert_eq!(state(&fresh), saved);
    training.scaler = fresh;
    training.step(0.0);
    assert_eq!(training.scaler.get_scale().unwrap(), 8.0, "the count of good steps is part of the state");
}

#[test]
fn scaler_unscales_gradients_before_the_step() {
    let mut training = training(GradScalerOptions::default());
    let loss = (&training.vs.variables()["w"] * 3.0).sum(Kind::Float);
    training.scaler.scale(&loss).unwrap().backward();
    training.scaler.unscale(&training.optimizer).unwrap();
    assert_eq!(training.vs.variables()["w"].grad().double_value(&[0]), 3.0);
    let twice = training.scaler.unscale(&training.optimizer).unwrap_err().to_string();
    assert!(twice.contains("already"), "{twice}");
    assert!(training.scaler.step(&mut training.optimizer).unwrap().was_taken().unwrap());
    assert!(training.scaler.step(&mut training.optimizer).is_err());
    assert_eq!(training.weight(), -2.0);
}

#[test]
fn scaler_that_is_disabled_does_nothing() {
    let mut training = training(GradScalerOptions { enabled: false, ..Default::default() });
    assert!(training.step(0.5));
    assert_eq!((training.weight(), training.scaler.get_scale().unwrap()), (0.5, 1.0));
}

#[test]
fn scaler_settings_and_states_that_make_no_sense_are_refused() {
    let refused = |options| GradScaler::new(Device::Cpu, options).is_err();
    assert!(refused(GradScalerOptions { growth_factor: 1.0, ..Default::default() }));
    assert!(refused(GradScalerOptions { backoff_factor: 1.0, ..Default::default() }));
    let mut scaler = GradScaler::new(Device::Cpu, GradScalerOptions::default()).unwrap();
    let mut state: serde_json::Value = scaler.state_dict().unwrap().require("scaler").unwrap();
    state["scale"] = serde_json::json!(-1.0);
    let state = StateDict::new().with("scaler", &state).unwrap();
    assert!(matches!(scaler.load_state_dict(&state), Err(Error::StateMismatch { .. })));
    assert_eq!(scaler.get_scale().unwrap(), 65536.0);
}

/// A layer, an optimizer, and steps with given gradients, some of them with an infinite value.
struct Run<O> {
    vs: VarStore,
    layer: tch::nn::Linear,
    optimizer: O,
}

impl<O: Optimizer> Run<O> {
    fn new(make: impl Fn(&VarStore) -> O) -> Self {
        let vs = VarStore::new(Device::Cpu);
        let layer = tch::nn::linear(vs.root(), 7, 5, Default::default());
        let values = |size: i64| Tensor::arange(size, (Kind::Float, Device::Cpu)).sin() / 3;
        tch::no_grad(|| {
            layer.ws.shallow_clone().copy_(&values(35).view([5, 7]));
            layer.bs.as_ref().unwrap().shallow_clone().copy_(&values(5));
        });
        let optimizer = make(&vs);
        Self { vs, layer, optimizer }
    }

    fn loss(&self, step: i64) -> Tensor {
        let x = (Tensor::arange(21, (Kind::Float, Device::Cpu)).view([3, 7]) * (step + 1)).cos();
        tch::nn::Module::forward(&self.layer, &x).square().mean(Kind::Float)
    }

    /// The bits of all weights and states.
    fn bits(&self) -> Vec<(String, Vec<i64>)> {
        let weights = self.vs.variables().into_iter();
        let mut all: Vec<_> = weights.chain(self.optimizer.state_dict().unwrap().into_tensors()).collect();
        all.sort_by(|a, b| a.0.cmp(&b.0));
        let bits = |tensor: &Tensor| tensor.detach().flatten(0, -1).view_dtype(Kind::Int).to_kind(Kind::Int64);
        all.iter().map(|(name, tensor)| (name.clone(), Vec::try_from(bits(tensor)).unwrap())).collect()
    }
}

/// An optimizer that knows nothing of scalers.
struct Foreign<O>(O);

impl<O: Optimizer> Optimizer for Foreign<O> {
    fn step(&mut self) -> Result<()> {
        self.0.step()
    }
    fn zero_grad_with(&mut self, set_to_none: bool) -> Result<()> {
        self.0.zero_grad_with(set_to_none)
    }
    fn learning_rates(&self) -> Vec<f64> {
        self.0.learning_rates()
    }
    fn set_learning_rates(&mut self, lrs: &[f64]) -> Result<()> {
        self.0.set_learning_rates(lrs)
    }
    fn momenta(&self) -> Vec<f64> {
        self.0.momenta()
    }
    fn set_momenta(&mut self, momenta: &[f64]) -> Result<()> {
        self.0.set_momenta(momenta)
    }
    fn parameters(&self) -> Vec<(&str, &Tensor)> {
        self.0.parameters()
    }
}

impl<O: Optimizer> Stateful for Foreign<O> {
    fn state_dict(&self) -> Result<StateDict> {
        self.0.state_dict()
    }
    fn load_state_dict(&mut self, state: &StateDict) -> Result<()> {
        self.0.load_state_dict(state)
    }
}

const OVERFLOWS: [i64; 4] = [0, 1, 5, 9];

/// Twelve steps with a scaler and overflows.
fn scaled<O: Optimizer>(make: impl Fn(&VarStore) -> O, unscales: bool) -> Run<O> {
    let mut run = Run::new(make);
    let options = GradScalerOptions { init_scale: 1024.0, growth_interval: 2, ..Default::default() };
    let mut scaler = GradScaler::new(Device::Cpu, options).unwrap();
    let mut steps = Vec::new();
    for step in 0..12 {
        run.optimizer.zero_grad().unwrap();
        let scale = if OVERFLOWS.contains(&step) { f64::INFINITY } else { 1.0 };
        scaler.scale(&(run.loss(step) * scale)).unwrap().backward();
        if unscales {
            scaler.unscale(&run.optimizer).unwrap();
        }
        steps.push(scaler.step(&mut run.optimizer).unwrap());
        scaler.update().unwrap();
    }
    let skipped: Vec<_> = steps.iter().map(|stepped| !stepped.was_taken().unwrap()).collect();
    assert_eq!(skipped, (0..12).map(|step| OVERFLOWS.contains(&step)).collect::<Vec<_>>(), "also asked for later");
    run
}

/// A run with a scaler has the weights and states of one that never had the steps with overflows, to the last bit. The
/// scales are powers of two, so that scaling rounds nothing.
fn skips_leave_no_trace<O: Optimizer>(make: impl Fn(&VarStore) -> O + Copy) {
    let mut plain = Run::new(make);
    for step in (0..12).filter(|step| !OVERFLOWS.contains(step)) {
        plain.optimizer.zero_grad().unwrap();
        plain.loss(step).backward();
        plain.optimizer.step().unwrap();
    }
    assert_eq!(scaled(make, false).bits(), plain.bits());
    assert_eq!(scaled(make, true).bits(), plain.bits());
    assert_eq!(scaled(|vs| Foreign(make(vs)), false).bits(), plain.bits());
}

#[test]
fn skipped_steps_leave_no_trace_in_weights_and_states() {
    let momentum = SgdOptions { lr: 0.1, momentum: 0.9, ..Default::default() };
    skips_leave_no_trace(|vs| Sgd::new(vs, SgdOptions { lr: 0.1, weight_decay: 0.01, ..Default::default() }));
    skips_leave_no_trace(|vs| Sgd::new(vs, momentum));
    skips_leave_no_trace(|vs| Sgd::new(vs, SgdOptions { nesterov: true, maximize: true, ..momentum }));
    skips_leave_no_trace(|vs| Sgd::new(vs, SgdOptions { dampening: 0.3, ..momentum }));
    skips_leave_no_trace(|vs| Adam::new(vs, AdamOptions { lr: 0.01, amsgrad: true, ..Default::default() }));
    skips_leave_no_trace(|vs| AdamW::new(vs, AdamWOptions { lr: 0.01, ..Default::default() }));
}

/// The first step fills a momentum buffer also where the gradient is zero, and keeps its sign.
#[test]
fn scaler_copies_the_first_gradient_into_the_momentum_buffer() {
    let vs = VarStore::new(Device::Cpu);
    let w = vs.root().ones("w", &[19]);
    let gradient =
        Tensor::from_slice(&[0.0f32, -0.0, 1.0, -1.0, 1e-40, 3.5, -2.5, 0.0, -0.0]).repeat([3]).narrow(0, 0, 19);
    let mut sgd = Sgd::new(&vs, SgdOptions { momentum: 0.9, ..Default::default() });
    let mut scaler = GradScaler::new(Device::Cpu, GradScalerOptions { init_scale: 1.0, ..Default::default() }).unwrap();
    (&w * &gradient).sum(Kind::Float).backward();
    scaler.step(&mut sgd).unwrap();
    let bits = |tensor: &Tensor| Vec::<i32>::try_from(tensor.view_dtype(Kind::Int)).unwrap();
    assert_eq!(bits(&sgd.state_dict().unwrap().tensors()[0].1), bits(&w.grad()));
}

#[test]
fn optimizers_of_one_scaler_skip_their_own_steps() {
    let mut one = Run::new(|vs| AdamW::new(vs, AdamWOptions::default()));
    let mut other = Run::new(|vs| Sgd::new(vs, SgdOptions::default()));
    let options = GradScalerOptions { init_scale: 8.0, growth_interval: 1, ..Default::default() };
    let mut scaler = GradScaler::new(Device::Cpu, options).unwrap();
    let before = other.bits();
    scaler.scale(&(one.loss(0) * f64::INFINITY)).unwrap().backward();
    scaler.scale(&other.loss(0)).unwrap().backward();
    scaler.unscale(&other.optimizer).unwrap();
    scaler.unscale(&one.optimizer).unwrap();
    assert!(scaler.unscale(&other.optimizer).is_err());
    let steps = [scaler.step(&mut one.optimizer).unwrap(), scaler.step(&mut other.optimizer).unwrap()];
    assert!(scaler.step(&mut one.optimizer).is_err());
    assert!(scaler.unscale(&one.optimizer).unwrap_err().to_string().contains("before step"));
    scaler.update().unwrap();
    assert_eq!(steps.map(|stepped| stepped.was_taken().unwrap()), [false, true]);
    assert_eq!(one.vs.variables()["weight"], Run::new(|vs| Sgd::new(vs, SgdOptions::default())).layer.ws);
    assert_ne!(other.bits(), before);
    assert_eq!(scaler.get_scale().unwrap(), 4.0, "one optimizer's overflow is enough");
    assert!(scaler.update().is_err(), "no optimizer took a step since");
    // The next iteration has new states, also for an optimizer that was moved.
    let mut moved = one.optimizer;
    moved.zero_grad().unwrap();
    scaler.scale(&one.layer.ws.sum(Kind::Float)).unwrap().backward();
    assert!(scaler.step(&mut moved).unwrap().was_taken().unwrap());
    scaler.update().unwrap();
    assert_eq!(scaler.get_scale().unwrap(), 8.0);
}
