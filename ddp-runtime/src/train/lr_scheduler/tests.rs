//! What is refused, and what a refusal leaves as it was. The rates are compared with Python's in the end-to-end tests.

use serde_json::{Value, json};
use tch::Device;
use tch::nn::VarStore;

use super::*;
use crate::Error;
use crate::train::optim::{Sgd, SgdOptions};
use crate::train::state_dict::StateDict;

/// An optimizer without parameters.
fn with_rate(lr: f64) -> Sgd {
    Sgd::new(&VarStore::new(Device::Cpu), SgdOptions { lr, ..Default::default() })
}

#[track_caller]
fn refused(schedule: impl Schedule, problem: &str) {
    let mut optimizer = with_rate(0.1);
    let Err(Error::Invalid(message)) = Scheduler::new(&mut optimizer, schedule) else { panic!("it was taken") };
    assert!(message.contains(problem), "{message}");
    assert_eq!(optimizer.learning_rate(), 0.1);
}

#[test]
fn scheduler_settings_that_make_no_sense_are_refused() {
    refused(Step::new(0), "step_size");
    for start_factor in [0.0, -0.1, 1.1, f64::NAN] {
        refused(Linear { start_factor, ..Default::default() }, "start_factor");
    }
    for end_factor in [-0.1, 1.1, f64::NAN] {
        refused(Linear { end_factor, ..Default::default() }, "end_factor");
    }
    refused(CosineAnnealing::new(0), "t_max");
    refused(CosineAnnealingWarmRestarts::new(0), "t_0");
    refused(CosineAnnealingWarmRestarts { t_mult: 0, ..CosineAnnealingWarmRestarts::new(3) }, "t_mult");
    refused(OneCycle::new(0.1, 0), "total_steps");
    for pct_start in [-0.1, 1.1, f64::NAN] {
        refused(OneCycle { pct_start, ..OneCycle::new(0.1, 10) }, "pct_start");
    }
    refused(OneCycle { div_factor: 0.0, ..OneCycle::new(0.1, 10) }, "div_factor");
    // The way up ends at step 0, where it starts: PyTorch divides by zero.
    refused(OneCycle { pct_start: 0.1, ..OneCycle::new(0.1, 10) }, "of length 0");
    let options = ReduceLrOnPlateauOptions { factor: 1.0, ..Default::default() };
    assert!(matches!(ReduceLrOnPlateau::new(&with_rate(0.1), options), Err(Error::Invalid(_))));
}

#[test]
fn scheduler_sequences_that_make_no_sense_are_refused() {
    let refused = |schedules: Vec<Box<dyn Schedule>>, milestones: &[u64], problem: &str| {
        let mut optimizer = with_rate(0.1);
        let err = SequentialLr::new(&mut optimizer, schedules, milestones).unwrap_err();
        assert!(err.to_string().contains(problem), "{err}");
        assert_eq!(optimizer.learning_rate(), 0.1);
    };
    let step = || Step::new(3).boxed();
    refused(vec![], &[], "at least one schedule");
    refused(vec![step(), step()], &[], "need 1 milestones");
    refused(vec![step(), step(), step()], &[4, 2], "must increase");
    refused(vec![step(), Step::new(0).boxed()], &[4], "step_size");
    refused(vec![step(), Linear { total_iters: 0, ..Default::default() }.boxed()], &[4], "total_iters");
}

#[test]
fn scheduler_step_beyond_the_cycle_is_an_error_that_changes_nothing() {
    let mut optimizer = with_rate(0.1);
    let mut scheduler = OneCycleLr::new(&mut optimizer, OneCycle::new(0.1, 5)).unwrap();
    for _ in 0..5 {
        scheduler.step(&mut optimizer).unwrap();
    }
    let (lr, state) = (optimizer.learning_rate(), state_of(&scheduler));
    assert!(matches!(scheduler.step(&mut optimizer), Err(Error::Invalid(_))));
    assert_eq!((optimizer.learning_rate(), state_of(&scheduler)), (lr, state));
}

#[test]
fn scheduler_state_of_another_kind_is_refused_and_changes_nothing() {
    let mut optimizer = with_rate(0.1);
    let step = StepLr::new(&mut optimizer, Step::new(3)).unwrap();
    let two = |optimizer: &mut Sgd, second: Box<dyn Schedule>| {
        SequentialLr::new(optimizer, [Linear::default().boxed(), second], [5]).unwrap()
    };
    let sequence = two(&mut with_rate(0.1), Step::new(3).boxed());
    let mut damaged = state_of(&two(&mut with_rate(0.1), Step::new(4).boxed()));
    damaged["settings"]["schedules"][0]["settings"]["start_factor"] = json!("0.9");
    damaged["settings"]["milestones"] = json!([5, 6]);
    let mut groups = state_of(&step);
    groups["base_lrs"] = json!(["0.1", "0.2"]);
    let mut zero = state_of(&step);
    zero["settings"]["step_size"] = json!(0);

    let mut schedulers: Vec<Box<dyn LrScheduler>> = vec![
        Box::new(ExponentialLr::new(&mut optimizer, Exponential { gamma: 0.5 }).unwrap()),
        Box::new(StepLr::new(&mut optimizer, Step::new(7)).unwrap()),
        Box::new(two(&mut with_rate(0.1), Exponential { gamma: 0.5 }.boxed())),
        Box::new(two(&mut with_rate(0.1), Step::new(9).boxed())),
    ];
    let states = [state_of(&step), groups, state_of(&sequence), damaged];
    for (scheduler, state) in schedulers.iter_mut().zip(&states) {
        let before = state_of(scheduler);
        for state in [state, &zero, &Value::Null, &json!({ "kind": "StepLR" })] {
            let err = restore(scheduler, state, &mut optimizer).unwrap_err();
            assert!(matches!(err, Error::StateMismatch { .. }), "{err}");
            assert_eq!((state_of(scheduler), optimizer.learning_rate()), (before.clone(), 0.1));
        }
    }
    let mut plateau = ReduceLrOnPlateau::new(&optimizer, Default::default()).unwrap();
    let before = state_of(&plateau);
    assert!(matches!(
        plateau.load_state_dict(&StateDict::new().with("plateau", &state_of(&step)).unwrap()),
        Err(Error::StateMismatch { .. })
    ));
    assert_eq!(state_of(&plateau), before);
}

fn state_of(scheduler: &impl Stateful) -> Value {
    let state = scheduler.state_dict().unwrap();
    state.get("scheduler").unwrap().or_else(|| state.get("plateau").unwrap()).unwrap()
}

fn restore(scheduler: &mut impl Stateful, state: &Value, optimizer: &mut Sgd) -> Result<()> {
    scheduler.load_state_dict(&StateDict::new().with("scheduler", state)?)?;
    scheduler.restore_optimizer(optimizer)
}

/// The form that snapshots hold.
#[test]
fn scheduler_states_have_the_format_of_earlier_versions() {
    let mut optimizer = with_rate(0.3);
    let schedules = [Linear::default().boxed(), Lambda::new(|_| 0.5).boxed()];
    let sequence = SequentialLr::new(&mut optimizer, schedules, [5]).unwrap();
    let expected = json!({
        "kind": "SequentialLR",
        "settings": {
            "schedules": [
                {
                    "kind": "LinearLR",
                    "settings": { "start_factor": "0.3333333333333333", "end_factor": "1.0", "total_iters": 5 },
                },
                { "kind": "LambdaLR", "settings": null },
            ],
            "milestones": [5],
        },
        "last_epoch": 0,
        "base_lrs": ["0.3"],
        "last_lrs": ["0.09999999999999999"],
    });
    assert_eq!(state_of(&sequence), expected);
    let plateau = ReduceLrOnPlateau::new(&with_rate(0.3), Default::default()).unwrap();
    assert_eq!(state_of(&plateau)["best"], "inf");
    assert_eq!(state_of(&plateau)["settings"]["mode"], "min");
}
