//! Tests of `Run`: resuming, metrics, and counting samples.

use tch::nn::{self, Module};
use tch::{Kind, Tensor};
use tempfile::tempdir;

use super::*;
use crate::data::{DataLoader, Position, TensorDataset};
use crate::train::optim::{Sgd, SgdOptions};
use crate::{Backend, Ddp, Error, Goal, SavedModel};

struct Training {
    context: Context,
    vs: VarStore,
    model: nn::Linear,
    ddp: Ddp,
}

impl Training {
    fn new() -> Self {
        let context = Context::builder().backend(Backend::Gloo).init().unwrap();
        let vs = VarStore::new(context.device());
        let model = nn::linear(vs.root(), 2, 1, Default::default());
        let ddp = Ddp::new(context.group(), &vs).unwrap();
        Self { context, vs, model, ddp }
    }

    fn loader(&self) -> DataLoader<TensorDataset<Tensor>> {
        let x = Tensor::arange(40, tch::kind::FLOAT_CPU).view([20, 2]).sin();
        DataLoader::new(&self.context, TensorDataset::new(x).unwrap(), 4).unwrap()
    }

    fn run(&self) -> Run<Sgd> {
        Run::new(&self.context, &self.vs, Sgd::new(&self.vs, SgdOptions { lr: 0.1, ..Default::default() }))
    }

    fn step(&self, optimizer: &mut Sgd, x: &Tensor) {
        optimizer.zero_grad().unwrap();
        self.ddp.backward(&self.ddp.forward(|| self.model.forward(x).square().mean(Kind::Float)).unwrap()).unwrap();
        optimizer.step().unwrap();
    }
}

#[test]
fn run_resumes_in_mid_epoch_with_its_value() {
    let dir = tempdir().unwrap();
    let job = Training::new();
    let snapshots = || Snapshots::open(&job.context, dir.path()).unwrap().blocking(true);
    let (mut whole, mut order) = (job.loader(), Vec::new());
    let mut run = job.run().value("seen", Vec::<f64>::new()).resume(&mut whole).unwrap();
    while let Some(epoch) = run.next_epoch(2) {
        for batch in whole.epoch(epoch).unwrap() {
            order.push(batch.unwrap().double_value(&[0, 0]));
            run.step_done(&whole).unwrap();
        }
        run.epoch_done().unwrap();
    }

    let mut train = job.loader();
    let mut run = job.run().value("seen", Vec::<f64>::new()).snapshots(snapshots()).resume(&mut train).unwrap();
    let epoch = run.next_epoch(2).unwrap();
    for batch in train.epoch(epoch).unwrap().take(3) {
        let x = batch.unwrap();
        job.step(&mut run.optimizer, &x);
        run.value.push(x.double_value(&[0, 0]));
        run.step_done(&train).unwrap();
    }
    run.save().unwrap();
    assert_eq!(run.saved_at(), Some(Progress { epoch: 0, step: 3, samples: 12 }));

    let mut train = job.loader();
    let mut run = job.run().value("seen", vec![f64::NAN]).snapshots(snapshots()).resume(&mut train).unwrap();
    assert_eq!((run.epoch(), run.step()), (0, 3));
    while let Some(epoch) = run.next_epoch(2) {
        for batch in train.epoch(epoch).unwrap() {
            run.value.push(batch.unwrap().double_value(&[0, 0]));
            run.step_done(&train).unwrap();
        }
        run.epoch_done().unwrap();
    }
    run.finish().unwrap();
    assert_eq!((run.step(), run.value), (10, order));
}

#[test]
fn metric_belongs_to_the_weights_that_it_was_computed_with() {
    let dir = tempdir().unwrap();
    let job = Training::new();
    let snapshots = Snapshots::open(&job.context, dir.path()).unwrap().blocking(true).every_steps(1).every_epochs(1);
    let mut run = job.run().snapshots(snapshots).resume(&mut ()).unwrap();
    let saved = |step: u64| SavedModel::open(dir.path().join(format!("step-{step:08}"))).unwrap().metric();
    run.metric(0.5);
    run.step_done(&()).unwrap();
    assert_eq!(saved(1), Some(0.5), "judged before the step was counted");
    run.step_done(&()).unwrap();
    assert_eq!(saved(2), None, "other weights");
    run.metric(0.25);
    run.epoch_done().unwrap();
    assert_eq!(saved(2), Some(0.25));
    run.finish().unwrap();
    run.step_done(&()).unwrap();
    assert_eq!(saved(3), None);
    let best = SavedModel::best(dir.path(), Goal::Minimize).unwrap().unwrap();
    assert_eq!(best.progress().step, 2);
}

#[test]
fn run_with_snapshots_must_resume_before_its_first_step() {
    let dir = tempdir().unwrap();
    let job = Training::new();
    let mut run = job.run().snapshots(Snapshots::open(&job.context, dir.path()).unwrap());
    let err = run.step_done(&()).unwrap_err();
    assert!(matches!(&err, Error::Invalid(problem) if problem.starts_with("`Run::resume` must be called")), "{err}");
}

#[test]
fn samples_are_counted_by_a_loader_or_manually() {
    let job = Training::new();
    let mut position = Position::default();
    let mut run = job.run().resume(&mut position).unwrap();
    position.samples += 8;
    run.step_done(&position).unwrap();
    assert_eq!(run.progress(), Progress { epoch: 0, step: 1, samples: 8 });
    run.epoch_done().unwrap();
    run.step_done(&position).unwrap(); // of another epoch
    assert_eq!(run.progress(), Progress { epoch: 1, step: 2, samples: 0 });
}
