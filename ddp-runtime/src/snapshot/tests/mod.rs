//! What comes back from a folder is what went in, or an error: whatever happened to the folder.

mod damage;
mod retention;
mod states;

use std::fs;
use std::path::Path;

use serde::Serialize;
use tch::nn::{self, VarStore};
use tch::{Kind, Tensor};
use tempfile::{TempDir, tempdir};

use super::*;
use crate::Backend;
use crate::dist::params;
use crate::train::amp::{GradScaler, GradScalerOptions};
use crate::train::lr_scheduler::{
    CosineAnnealing, CosineAnnealingLr, LrScheduler, ReduceLrOnPlateau, ReduceLrOnPlateauOptions,
};
use crate::train::optim::{AdamW, AdamWOptions, Optimizer};
use crate::train::state_dict::StateDict;
use crate::train::stateful::Stateful;

/// Values of the program's own.
#[derive(Debug)]
struct Own<T>(&'static str, T);

impl<T: Serialize + serde::de::DeserializeOwned> Stateful for Own<T> {
    fn state_dict(&self) -> Result<StateDict> {
        StateDict::new().with(&value_name(self.0), &self.1)
    }

    fn load_state_dict(&mut self, state: &StateDict) -> Result<()> {
        state.get(&value_name(self.0))?.into_iter().for_each(|value| self.1 = value);
        Ok(())
    }
}

/// Another store with the same variables.
fn handle(vs: &VarStore) -> VarStore {
    let mut handle = VarStore::new(vs.device());
    handle.variables_ = vs.variables_.clone();
    handle
}

/// A model and its optimizer alone.
fn bare(optimizer: &mut AdamW) -> Contents<'_> {
    Contents { optimizer, parts: Vec::new(), metric: None }
}

/// A run in mid-training.
struct Run {
    context: Context,
    vs: VarStore,
    optimizer: AdamW,
    scheduler: CosineAnnealingLr,
    plateau: ReduceLrOnPlateau,
    scaler: GradScaler,
    names: Own<Vec<String>>,
}

impl Run {
    fn new() -> Self {
        let context = Context::builder().backend(Backend::Gloo).init().unwrap();
        let vs = VarStore::new(context.device());
        nn::linear(vs.root() / "l", 3, 2, Default::default());
        let mut optimizer = AdamW::new(&vs, AdamWOptions { lr: 0.1, ..Default::default() });
        let scheduler = CosineAnnealingLr::new(&mut optimizer, CosineAnnealing::new(9)).unwrap();
        let plateau = ReduceLrOnPlateau::new(&optimizer, ReduceLrOnPlateauOptions::default()).unwrap();
        let scaler = GradScaler::new(context.device(), GradScalerOptions::default()).unwrap();
        Self { context, vs, optimizer, scheduler, plateau, scaler, names: Own("names", Vec::new()) }
    }

    fn step(&mut self) {
        self.optimizer.zero_grad().unwrap();
        let loss: Tensor = self.vs.trainable_variables().iter().map(|v| v.square().sum(Kind::Float)).sum();
        self.scaler.scale(&loss).unwrap().backward();
        self.scaler.step(&mut self.optimizer).unwrap();
        self.scaler.update().unwrap();
        self.scheduler.step(&mut self.optimizer).unwrap();
        self.plateau.step_with(1.0, &mut self.optimizer).unwrap();
        self.names.1.push(format!("step {}", self.names.1.len()));
    }

    fn open(&self, dir: &Path) -> Snapshots {
        Snapshots::open(&self.context, dir).unwrap()
    }

    fn contents(&mut self) -> Contents<'_> {
        let parts: Vec<&mut dyn Stateful> =
            vec![&mut self.scheduler, &mut self.plateau, &mut self.scaler, &mut self.names];
        Contents { optimizer: &mut self.optimizer, parts, metric: None }
    }

    fn save(&mut self, snapshots: &mut Snapshots, at: Progress) -> Result<()> {
        let vs = handle(&self.vs);
        snapshots.save(&vs, &self.contents(), at)
    }

    fn resume(&mut self, dir: &Path) -> Result<Option<Progress>> {
        let (vs, mut snapshots) = (handle(&self.vs), self.open(dir));
        snapshots.resume(&vs, &mut self.contents())
    }

    /// All there is to know of it, as text.
    fn everything(&self) -> String {
        let mut tensors = params::all(&self.vs);
        tensors.extend(self.optimizer.state_dict().unwrap().into_tensors());
        let numbers: Vec<_> = tensors
            .iter()
            .map(|(name, t)| {
                (name, Vec::<f32>::try_from(t.detach().flatten(0, -1)).unwrap().iter().map(|x| x.to_bits()).collect())
            })
            .collect::<Vec<(_, Vec<u32>)>>();
        let parts: [&dyn Stateful; 3] = [&self.scheduler, &self.plateau, &self.scaler];
        let states = parts.map(|part| part.state_dict().unwrap().into_parts().0);
        format!("{numbers:?} {states:?} {:?} {:?}", self.optimizer.learning_rates(), self.names)
    }
}

const AT: Progress = Progress { epoch: 3, step: 41, samples: 17 };

fn saved() -> (Run, TempDir) {
    let mut run = Run::new();
    (0..3).for_each(|_| run.step());
    let dir = tempdir().unwrap();
    let mut snapshots = run.open(dir.path()).blocking(true);
    run.save(&mut snapshots, AT).unwrap();
    (run, dir)
}

#[test]
fn snapshot_restores_everything_and_training_continues_identically() {
    let (mut run, dir) = saved();
    let mut other = Run::new();
    other.step();
    assert_ne!(other.everything(), run.everything());
    assert_eq!(other.resume(dir.path()).unwrap(), Some(AT));
    assert_eq!(other.everything(), run.everything());
    (0..2).for_each(|_| [&mut run, &mut other].into_iter().for_each(Run::step));
    assert_eq!(other.everything(), run.everything());
}

/// A convolution whose weights are channels-last, in mid-training. Files are row-major.
#[test]
fn channels_last_parameters_and_their_states_keep_their_strides() {
    struct Conv {
        vs: VarStore,
        weight: Tensor,
        optimizer: AdamW,
    }
    let make = |factor: f64| {
        let vs = VarStore::new(Device::Cpu);
        let values = (Tensor::arange(5 * 3 * 3 * 4, (Kind::Float, Device::Cpu)).sin() * factor).view([5, 3, 3, 4]);
        let weight = vs.root().add("weight", values.permute([0, 3, 1, 2]), true);
        let optimizer = AdamW::new(&vs, AdamWOptions { lr: 0.05, amsgrad: true, ..Default::default() });
        Conv { vs, weight, optimizer }
    };
    let x = (Tensor::arange(2 * 4 * 6 * 6, (Kind::Float, Device::Cpu)).cos()).view([2, 4, 6, 6]);
    let step = |conv: &mut Conv| {
        conv.optimizer.zero_grad().unwrap();
        let y = x.conv2d(&conv.weight, None::<Tensor>, [1, 1], [0, 0], [1, 1], 1);
        let loss = y.square().mean(Kind::Float);
        loss.backward();
        conv.optimizer.step().unwrap();
        loss.double_value(&[])
    };
    let context = Context::builder().backend(Backend::Gloo).init().unwrap();
    let dir = tempdir().unwrap();
    let mut run = make(0.3);
    (0..3).for_each(|_| assert!(step(&mut run) > 0.0));
    let mut snapshots = Snapshots::open(&context, dir.path()).unwrap().blocking(true);
    snapshots.save(&run.vs, &bare(&mut run.optimizer), AT).unwrap();

    let mut other = make(0.1);
    let storage = other.weight.data_ptr();
    let mut snapshots = Snapshots::open(&context, dir.path()).unwrap();
    assert_eq!(snapshots.resume(&other.vs, &mut bare(&mut other.optimizer)).unwrap(), Some(AT));
    assert_eq!((other.weight.data_ptr(), other.weight.stride()), (storage, vec![36, 1, 12, 4]));
    let states = other.optimizer.state_dict().unwrap().into_tensors();
    assert_eq!(states.len(), 4);
    for (name, state) in states.iter().filter(|(name, _)| !name.ends_with("step")) {
        assert_eq!(state.stride(), other.weight.stride(), "{name}");
    }
    let [left, resumed] = [&mut run, &mut other].map(|run| (0..3).map(|_| step(run)).collect::<Vec<_>>());
    assert_eq!(resumed, left);
    assert_eq!(other.weight, run.weight);
}

#[test]
fn stateful_part_that_was_not_saved_is_refused_and_a_value_stays() {
    let mut run = Run::new();
    let dir = tempdir().unwrap();
    run.open(dir.path()).save(&run.vs, &bare(&mut run.optimizer), AT).unwrap();
    let err = run.resume(dir.path()).unwrap_err().to_string();
    assert!(err.starts_with("can't load `scheduler` from ") && err.ends_with(": the snapshot has none"), "{err}");
    let mut answer = Own("answer", 42);
    let mut contents = Contents { parts: vec![&mut answer], ..bare(&mut run.optimizer) };
    let mut snapshots = Snapshots::open(&run.context, dir.path()).unwrap();
    assert_eq!(snapshots.resume(&run.vs, &mut contents).unwrap(), Some(AT));
    assert_eq!(answer.1, 42);
}

#[test]
fn value_of_another_type_is_refused_by_name() {
    let (mut run, dir) = saved();
    let mut names = Own("names", 0u8);
    let mut contents = Contents { parts: vec![&mut names], ..bare(&mut run.optimizer) };
    let mut snapshots = Snapshots::open(&run.context, dir.path()).unwrap();
    let err = snapshots.resume(&run.vs, &mut contents).unwrap_err().to_string();
    assert!(err.starts_with("can't load `value.names`"), "{err}");
}

#[test]
fn snapshot_of_the_same_step_replaces_the_earlier_one() {
    let (mut run, dir) = saved();
    run.step();
    let later = Progress { epoch: 4, samples: 0, ..AT };
    let mut snapshots = run.open(dir.path());
    run.save(&mut snapshots, later).unwrap();
    drop(snapshots); // waits until it is written
    let mut other = Run::new();
    assert_eq!(other.resume(dir.path()).unwrap(), Some(later));
    assert_eq!(other.everything(), run.everything());
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn failed_write_is_reported_at_the_next_call_and_older_snapshots_stay() {
    let (mut run, dir) = saved();
    let mut snapshots = run.open(dir.path());
    // Files where the new snapshot's folder should be made: under each name that is tried.
    let blocked: Vec<_> = (0..9)
        .map(|number| if number == 0 { String::new() } else { format!(".{number}") })
        .map(|number| dir.path().join(format!(".step-00000042{number}.partial")))
        .collect();
    blocked.iter().for_each(|file| fs::write(file, "").unwrap());
    let next = Progress { step: 42, ..AT };
    run.save(&mut snapshots, next).unwrap();
    let err = snapshots.wait_until_written().unwrap_err().to_string();
    assert!(err.contains("step-00000042.8.partial"), "{err}");
    blocked.iter().for_each(|file| fs::remove_file(file).unwrap());
    let vs = handle(&run.vs);
    snapshots.finish(&vs, &run.contents(), AT).unwrap();
    assert_eq!(Run::new().resume(dir.path()).unwrap(), Some(AT));
}

#[test]
fn snapshot_of_a_model_alone_restores_only_the_weights() {
    let (run, dir) = saved();
    let folder = dir.path().join(format::folder_name(AT.step));
    let mut manifest = format::read_manifest(&folder).unwrap();
    let mut other = Run::new();
    other.step();
    let (weights, before) = (params::all(&run.vs), other.optimizer.state_dict().unwrap().into_tensors());
    let (rate, names) = (other.optimizer.learning_rate(), other.names.1.clone());
    // As `cargo ddp snapshot import` writes one.
    manifest.files.retain(|name, _| name == format::MODEL);
    (manifest.states, manifest.step, manifest.epoch, manifest.samples_in_epoch) = (Default::default(), 0, 0, 0);
    fs::write(folder.join(format::MANIFEST), format::manifest_text(&manifest).unwrap()).unwrap();
    assert_eq!(other.resume(dir.path()).unwrap(), Some(Progress::default()));
    assert!(
        params::all(&other.vs).iter().zip(&weights).all(|((_, a), (_, b))| a == b),
        "the weights are the saved ones"
    );
    assert!(
        other.optimizer.state_dict().unwrap().tensors().iter().zip(&before).all(|((_, a), (_, b))| a == b),
        "the optimizer is as it was"
    );
    assert_eq!((other.optimizer.learning_rate(), other.names.1), (rate, names));
}

#[test]
fn program_that_only_reads_snapshots_changes_nothing() {
    let (_, dir) = saved();
    let partial = dir.path().join(".step-00000050.partial");
    fs::create_dir(&partial).unwrap();
    assert_eq!(Run::new().resume(dir.path()).unwrap(), Some(AT));
    assert!(partial.exists() && fs::read_dir(dir.path()).unwrap().count() == 2);
    // One that saves removes it, and leaves no lock.
    let mut run = Run::new();
    let mut snapshots = run.open(dir.path()).blocking(true);
    run.save(&mut snapshots, AT).unwrap();
    drop(snapshots);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn values_that_are_not_finite_are_restored() {
    let (mut run, dir) = saved();
    let (best, worst) = (f64::INFINITY, vec![f64::NEG_INFINITY, 1.0]);
    let mut values = (Own("best", best), Own("worst", worst));
    let mut snapshots = run.open(dir.path()).blocking(true);
    let contents = Contents { optimizer: &mut run.optimizer, parts: vec![&mut values], metric: Some(f64::NAN) };
    snapshots.save(&run.vs, &contents, AT).unwrap();
    let mut values = (Own("best", 0.0), Own("worst", Vec::<f64>::new()));
    let mut contents = Contents { parts: vec![&mut values], ..bare(&mut run.optimizer) };
    let mut snapshots = Snapshots::open(&run.context, dir.path()).unwrap();
    assert_eq!(snapshots.resume(&run.vs, &mut contents).unwrap(), Some(AT));
    assert_eq!((values.0.1, values.1.1), (f64::INFINITY, vec![f64::NEG_INFINITY, 1.0]));
    let saved = SavedModel::newest(dir.path()).unwrap().unwrap();
    assert_eq!((saved.value("best").unwrap(), saved.metric()), (Some(f64::INFINITY), None));
}

#[test]
fn state_with_overflows_is_restored() {
    let mut run = Run::new();
    let dir = tempdir().unwrap();
    let options = ReduceLrOnPlateauOptions::default();
    run.plateau = ReduceLrOnPlateau::new(&run.optimizer, options).unwrap(); // its best is infinite
    run.plateau.step_with(f64::NAN, &mut run.optimizer).unwrap();
    for _ in 0..200 {
        run.optimizer.zero_grad().unwrap();
        let loss: Tensor = run.vs.trainable_variables().iter().map(|v| v.sum(Kind::Float) * f64::NAN).sum();
        run.scaler.scale(&loss).unwrap().backward();
        assert!(!run.scaler.step(&mut run.optimizer).unwrap().was_taken().unwrap());
        run.scaler.update().unwrap();
    }
    assert_eq!(run.scaler.get_scale().unwrap(), 0.0);
    run.optimizer.set_learning_rate(f64::INFINITY);
    let mut snapshots = run.open(dir.path()).blocking(true);
    run.save(&mut snapshots, AT).unwrap();
    let mut other = Run::new();
    assert_eq!(other.resume(dir.path()).unwrap(), Some(AT));
    assert_eq!(other.scaler.get_scale().unwrap(), 0.0);
    let state = |run: &Run| run.plateau.state_dict().unwrap().into_parts().0;
    assert_eq!(state(&other), state(&run));
    let options = GradScalerOptions { init_scale: 1e39, ..Default::default() };
    assert!(GradScaler::new(run.context.device(), options).is_err(), "a scale that its tensor can't hold");
}
