//! The learning rates of every scheduler over thirty steps: `cargo ddp exec -- cargo run -p ddp-runtime --example schedulers`.

use ddp_runtime::lr_scheduler::*;
use ddp_runtime::optim::{Optimizer, Sgd, SgdOptions};
use ddp_runtime::{Result, Stateful};
use tch::Device;
use tch::nn::{self, VarStore};

const STEPS: u64 = 30;

fn main() -> Result<()> {
    show("StepLR", |o| StepLr::new(o, Step { gamma: 0.5, ..Step::new(10) }))?;
    show("MultiStepLR", |o| MultiStepLr::new(o, MultiStep::new([8, 20])))?;
    show("ExponentialLR", |o| ExponentialLr::new(o, Exponential { gamma: 0.9 }))?;
    show("LinearLR", |o| LinearLr::new(o, Linear { start_factor: 0.1, total_iters: 10, ..Default::default() }))?;
    show("CosineAnnealingLR", |o| {
        CosineAnnealingLr::new(o, CosineAnnealing { eta_min: 0.01, ..CosineAnnealing::new(STEPS) })
    })?;
    show("CosineAnnealingWarmRestarts", |o| {
        CosineAnnealingWarmRestartsLr::new(
            o,
            CosineAnnealingWarmRestarts { t_mult: 2, ..CosineAnnealingWarmRestarts::new(5) },
        )
    })?;
    show("OneCycleLR", |o| {
        let momentum = Some(CycleMomentum { base: 0.8, max: 0.95 });
        let anneal_strategy = AnnealStrategy::Linear;
        OneCycleLr::new(o, OneCycle { momentum, anneal_strategy, ..OneCycle::new(1.0, STEPS) })
    })?;
    show("LambdaLR", |o| LambdaLr::new(o, Lambda::new(|step| 1.0 / (1.0 + step as f64))))?;
    show("warm-up, then a cosine", |o| {
        let warm_up = Linear { start_factor: 0.1, total_iters: 5, ..Default::default() };
        SequentialLr::new(o, [warm_up.boxed(), CosineAnnealing::new(STEPS - 5).boxed()], [5])
    })?;
    plateau()
}

fn optimizer() -> Sgd {
    let vs = VarStore::new(Device::Cpu);
    nn::linear(vs.root(), 2, 1, Default::default());
    Sgd::new(&vs, SgdOptions { lr: 0.1, momentum: 0.9, ..Default::default() })
}

fn show<S: LrScheduler>(name: &str, make: impl Fn(&mut Sgd) -> Result<S>) -> Result<()> {
    let mut optimizer = optimizer();
    let mut scheduler = make(&mut optimizer)?;
    let mut rates = vec![optimizer.learning_rate()];
    for step in 1..STEPS {
        // … optimizer.step()? …
        if step == STEPS / 2 {
            // As after a restart: an optimizer and a scheduler made in the same way continue from the state.
            let state = scheduler.state_dict()?;
            optimizer = self::optimizer();
            scheduler = make(&mut optimizer)?;
            scheduler.load_state_dict(&state)?;
            scheduler.restore_optimizer(&mut optimizer)?;
        }
        scheduler.step(&mut optimizer)?;
        assert_eq!(scheduler.last_lr(), optimizer.learning_rate());
        rates.push(scheduler.last_lrs()[0]);
    }
    print(name, &rates);
    Ok(())
}

/// The rate falls when the metric no longer does.
fn plateau() -> Result<()> {
    let mut optimizer = optimizer();
    let options = ReduceLrOnPlateauOptions {
        mode: PlateauMode::Min,
        threshold_mode: ThresholdMode::Rel,
        factor: 0.5,
        patience: 3,
        ..Default::default()
    };
    let mut scheduler = ReduceLrOnPlateau::new(&optimizer, options.clone())?;
    let mut rates = Vec::new();
    for step in 0..STEPS {
        let loss = f64::max(1.0 - 0.1 * step as f64, 0.4);
        scheduler.step_with(loss, &mut optimizer)?;
        rates.push(scheduler.last_lr());
    }
    ReduceLrOnPlateau::new(&optimizer, options)?.load_state_dict(&scheduler.state_dict()?)?;
    print("ReduceLROnPlateau", &rates);
    Ok(())
}

fn print(name: &str, rates: &[f64]) {
    let rates: Vec<_> = rates.iter().step_by(3).map(|rate| format!("{rate:.4}")).collect();
    println!("{name:28} {}", rates.join(" "));
}
