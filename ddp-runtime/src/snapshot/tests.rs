//! What comes back from a folder is what went in, or an error: whatever happened to the folder.

use std::fs;
use std::path::Path;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::Config;
use serde::Serialize;
use tch::nn::{self, VarStore};
use tch::{Kind, Tensor};
use tempfile::{TempDir, tempdir};

use super::*;
use crate::Backend;
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
        let states = parts.map(|part| part.state_dict().unwrap().into_values());
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
fn everything_comes_back_and_the_run_goes_on_alike() {
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
fn a_part_that_was_not_saved_is_refused_and_a_value_stays() {
    let mut run = Run::new();
    let dir = tempdir().unwrap();
    run.open(dir.path()).save(&run.vs, &bare(&mut run.optimizer), AT).unwrap();
    let err = run.resume(dir.path()).unwrap_err().to_string();
    assert!(err.starts_with("the scheduler in ") && err.ends_with("it was saved without one"), "{err}");
    let mut answer = Own("answer", 42);
    let mut contents = Contents { parts: vec![&mut answer], ..bare(&mut run.optimizer) };
    let mut snapshots = Snapshots::open(&run.context, dir.path()).unwrap();
    assert_eq!(snapshots.resume(&run.vs, &mut contents).unwrap(), Some(AT));
    assert_eq!(answer.1, 42);
}

#[test]
fn a_value_of_another_type_is_refused_by_name() {
    let (mut run, dir) = saved();
    let mut names = Own("names", 0u8);
    let mut contents = Contents { parts: vec![&mut names], ..bare(&mut run.optimizer) };
    let mut snapshots = Snapshots::open(&run.context, dir.path()).unwrap();
    let err = snapshots.resume(&run.vs, &mut contents).unwrap_err().to_string();
    assert!(err.starts_with("value.names does not fit: "), "{err}");
}

#[test]
fn a_snapshot_of_the_same_step_takes_the_place_of_the_one_before() {
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
fn a_write_that_fails_is_said_at_the_next_call_and_older_ones_stay() {
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
    let err = snapshots.finish().unwrap_err().to_string();
    assert!(err.contains("step-00000042.8.partial"), "{err}");
    blocked.iter().for_each(|file| fs::remove_file(file).unwrap());
    let vs = handle(&run.vs);
    snapshots.finish_at(&vs, &run.contents(), AT).unwrap();
    assert_eq!(Run::new().resume(dir.path()).unwrap(), Some(AT));
}

#[test]
fn a_snapshot_of_nothing_but_a_model_gives_its_weights_and_leaves_all_else() {
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

fn flip(file: &Path) {
    let mut bytes = fs::read(file).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(file, bytes).unwrap();
}

fn steps(dir: &Path) -> Vec<u64> {
    format::list(dir).unwrap().iter().filter_map(|folder| format::step_of(folder)).collect()
}

#[test]
fn keep_last_counts_valid_snapshots_only() {
    let (mut run, dir) = saved();
    let save = |snapshots: &mut Snapshots, run: &mut Run, step| {
        run.save(snapshots, Progress { step, ..AT }).unwrap();
        snapshots.finish().unwrap();
    };
    save(&mut run.open(dir.path()), &mut run, 64);
    flip(&dir.path().join("step-00000064").join(format::MODEL));
    let mut snapshots = run.open(dir.path()).keep_last(1);
    let Run { vs, optimizer, .. } = &mut run;
    assert_eq!(snapshots.resume(vs, &mut bare(optimizer)).unwrap(), Some(AT));
    save(&mut snapshots, &mut run, 50);
    assert_eq!(steps(dir.path()), [64, 50], "the damaged one is left alone, and does not count");
    save(&mut snapshots, &mut run, 60);
    assert_eq!(steps(dir.path()), [64, 60]);
    // Damaged after this process has written it.
    flip(&dir.path().join("step-00000060").join(format::OPTIMIZER));
    save(&mut snapshots, &mut run, 61);
    flip(&dir.path().join("step-00000061").join(format::MODEL));
    save(&mut snapshots, &mut run, 62);
    assert_eq!(steps(dir.path()), [64, 62], "older than what stays");
    flip(&dir.path().join("step-00000062").join(format::MODEL));
    save(&mut snapshots, &mut run, 61);
    assert_eq!(steps(dir.path()), [64, 62, 61], "62 was looked at again");
    save(&mut snapshots, &mut run, 64);
    assert_eq!(steps(dir.path()), [64], "the damaged one is replaced, and older than it is the other");
}

#[test]
fn keep_last_keeps_what_is_newest_in_time_or_pointed_to() {
    let (mut run, dir) = saved(); // step 41
    let mut snapshots = run.open(dir.path()).keep_last(1).blocking(true);
    let mut save = |step| run.save(&mut snapshots, Progress { step, ..AT }).unwrap();
    // A run that has not resumed begins at lower steps.
    save(1);
    assert_eq!(steps(dir.path()), [41, 1]);
    save(2);
    assert_eq!(steps(dir.path()), [41, 2]);
    let link = |target: &str, name: &str| std::os::unix::fs::symlink(target, dir.path().join(name)).unwrap();
    link("step-00000041", "best");
    link("step-00000002", "step-00000099");
    save(50);
    assert_eq!(steps(dir.path()), [99, 50, 41, 2], "a link does not count, and its target stays");
    let model = dir.path().join("step-00000050").join(format::MODEL);
    fs::remove_file(dir.path().join("best")).unwrap();
    fs::remove_file(&model).unwrap();
    link("../step-00000041/model.safetensors", "step-00000050/model.safetensors");
    snapshots = run.open(dir.path()).keep_last(2).blocking(true);
    run.save(&mut snapshots, Progress { step: 51, ..AT }).unwrap();
    assert_eq!(steps(dir.path()), [99, 51, 50, 41, 2], "50 needs a file of 41");
}

#[test]
fn what_has_the_name_of_a_snapshot_and_is_none_is_not_replaced() {
    let (mut run, dir) = saved();
    let mut snapshots = run.open(dir.path()).keep_last(1).blocking(true);
    let precious = dir.path().join("step-00000042/precious");
    fs::create_dir(precious.parent().unwrap()).unwrap();
    fs::write(&precious, "data").unwrap();
    fs::write(dir.path().join("step-00000043"), "data").unwrap();
    for step in [42, 43] {
        let at = Progress { step, ..AT };
        run.save(&mut snapshots, at).unwrap();
        assert_eq!(format::newest_valid(dir.path()).unwrap().valid.unwrap().manifest.step, step);
        assert_eq!(Run::new().resume(dir.path()).unwrap(), Some(at));
    }
    assert_eq!(fs::read(precious).unwrap(), b"data");
    assert_eq!(fs::read(dir.path().join("step-00000043")).unwrap(), b"data");
}

#[test]
fn what_another_version_or_another_program_has_written_is_not_replaced() {
    let (mut run, dir) = saved(); // step 41
    let mut snapshots = run.open(dir.path()).keep_last(1).blocking(true);
    let path = |name: &str| dir.path().join(name);
    // A later version's, something else with a file of that name, and a link.
    let text = fs::read_to_string(path("step-00000041/state.json")).unwrap();
    let newer = text.replace("\"format_version\": 1", "\"format_version\": 2");
    for (step, text) in [("step-00000042", newer.as_str()), ("step-00000043", "{\"mine\": 1}")] {
        fs::create_dir(path(step)).unwrap();
        fs::write(path(step).join("state.json"), text).unwrap();
        fs::write(path(step).join("precious"), "data").unwrap();
    }
    std::os::unix::fs::symlink("step-00000043", path("step-00000044")).unwrap();
    for step in [42, 43, 44] {
        let at = Progress { step, ..AT };
        // The second one replaces the first.
        for samples in [0, 8] {
            run.save(&mut snapshots, Progress { samples, ..at }).unwrap();
            let whole = format::newest_valid(dir.path()).unwrap().valid.unwrap();
            assert_eq!((whole.manifest.step, whole.manifest.samples_in_epoch), (step, samples));
            assert_eq!(whole.folder, path(&format!("step-{step:09}")), "more zeros are newer");
        }
        run.save(&mut snapshots, at).unwrap();
        assert_eq!(Run::new().resume(dir.path()).unwrap(), Some(at));
    }
    assert_eq!(fs::read_to_string(path("step-00000042/state.json")).unwrap(), newer);
    assert_eq!(fs::read(path("step-00000043/precious")).unwrap(), b"data");
    assert!(path("step-00000044").is_symlink());
    // Once the name is free, the snapshot has it again.
    fs::remove_file(path("step-00000044")).unwrap();
    run.save(&mut snapshots, Progress { step: 44, ..AT }).unwrap();
    assert!(path("step-00000044").is_dir() && !path("step-000000044").exists());
}

#[test]
fn statistics_that_are_nan_are_noticed() {
    let (mut run, dir) = saved();
    let mut statistics = run.vs.root().zeros_no_train("running_var", &[2]);
    let mut mask = run.vs.root().zeros_no_train("mask", &[2]);
    let mut snapshots = run.open(dir.path()).keep_last(1).blocking(true);
    let mut save = |step| {
        run.context.report(crate::StepReport::new(0, step).loss(1.0));
        run.save(&mut snapshots, Progress { step, ..AT }).unwrap();
    };
    let _ = mask.fill_(f64::NEG_INFINITY);
    save(42);
    assert_eq!(steps(dir.path()), [42], "a mask may hold infinite values");
    let _ = statistics.fill_(f64::NAN);
    save(43);
    save(44);
    assert_eq!(steps(dir.path()), [44, 42]);
}

#[test]
fn a_program_that_only_reads_changes_nothing() {
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
fn values_that_are_not_finite_come_back() {
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
fn the_state_of_a_run_that_overflows_comes_back() {
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
    let state = |run: &Run| run.plateau.state_dict().unwrap().into_values();
    assert_eq!(state(&other), state(&run));
    let options = GradScalerOptions { init_scale: 1e39, ..Default::default() };
    assert!(GradScaler::new(run.context.device(), options).is_err(), "a scale that its tensor can't hold");
}

#[test]
fn keep_last_keeps_the_newest_from_before_a_nan() {
    let (mut run, dir) = saved();
    let mut snapshots = run.open(dir.path()).keep_last(1).blocking(true);
    let mut save = |run: &mut Run, step| run.save(&mut snapshots, Progress { step, ..AT }).unwrap();
    run.context.report(crate::StepReport::new(0, 42).loss(1.0));
    save(&mut run, 42);
    run.context.report(crate::StepReport::new(0, 43).loss(f64::NAN));
    save(&mut run, 43);
    save(&mut run, 44);
    assert_eq!(steps(dir.path()), [44, 42]);
    run.context.report(crate::StepReport::new(0, 45).loss(1.0));
    save(&mut run, 45);
    assert_eq!(steps(dir.path()), [45], "the loss is finite again");
    // Weights are looked at without a loss. A later process knows from the snapshots.
    let _ = tch::no_grad(|| run.vs.trainable_variables()[0].fill_(f64::NAN));
    save(&mut run, 46);
    let mut later = Run::new();
    assert_eq!(later.resume(dir.path()).unwrap().unwrap().step, 46);
    let mut snapshots = later.open(dir.path()).keep_last(1).blocking(true);
    later.save(&mut snapshots, Progress { step: 47, ..AT }).unwrap();
    assert_eq!(steps(dir.path()), [47, 45]);
}

#[test]
fn what_another_user_has_left_does_not_stop_the_run() {
    // SAFETY: a number is asked for.
    if unsafe { libc::geteuid() } != 0 {
        eprintln!("SKIPPED: only root can make another user's files");
        return;
    }
    const NOBODY: u32 = 65534;
    let (mut run, dir) = saved();
    let path = dir.path();
    for step in [20, 30] {
        let mut snapshots = run.open(path);
        run.save(&mut snapshots, Progress { step, ..AT }).unwrap();
    }
    std::os::unix::fs::chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
    let partial = path.join(".step-00000050.partial");
    fs::create_dir(&partial).unwrap();
    fs::write(partial.join("x"), "").unwrap();
    fs::write(path.join(".lock"), "{}").unwrap();
    fs::set_permissions(path.join(".lock"), std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    let as_nobody = || {
        // The identity that the kernel checks files against, of this thread and of those that it starts.
        // SAFETY: plain numbers.
        unsafe { libc::setfsuid(NOBODY) };
        let mut run = Run::new();
        assert!(fs::write(path.join("step-00000030/x"), "").is_err(), "it is not root any more");
        let mut snapshots = run.open(path).keep_last(1).blocking(true);
        let Run { vs, optimizer, .. } = &mut run;
        assert_eq!(snapshots.resume(vs, &mut bare(optimizer)).unwrap(), Some(AT));
        for step in [50, 51] {
            run.save(&mut snapshots, Progress { step, ..AT }).unwrap();
        }
        assert_eq!(steps(path), [51, 41, 30, 20], "those that can't be removed are as they were");
        format::list(path).unwrap().iter().for_each(|folder| drop(format::verify(folder).unwrap()));
    };
    std::thread::scope(|scope| scope.spawn(as_nobody).join()).unwrap();
    assert!(!path.join(".lock").exists() && partial.exists());
}

/// What can happen to a file.
#[derive(Clone, Debug)]
enum Damage {
    Truncate(prop::sample::Index),
    Flip(Vec<(prop::sample::Index, u8)>),
    Append(Vec<u8>),
}

fn damage() -> impl Strategy<Value = Damage> {
    prop_oneof![
        any::<prop::sample::Index>().prop_map(Damage::Truncate),
        vec((any::<prop::sample::Index>(), 1..=u8::MAX), 1..6).prop_map(Damage::Flip),
        vec(any::<u8>(), 1..40).prop_map(Damage::Append),
    ]
}

impl Damage {
    fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Truncate(at) => bytes.truncate(at.index(bytes.len())),
            Self::Flip(flips) => flips.iter().for_each(|(at, mask)| {
                let at = at.index(bytes.len());
                bytes[at] ^= mask;
            }),
            Self::Append(more) => bytes.extend(more),
        }
    }
}

const FILES: [&str; 4] = [format::MODEL, format::OPTIMIZER, format::RNG, format::MANIFEST];

fn config(cases: u32) -> Config {
    Config { cases, failure_persistence: None, ..Config::default() }
}

#[test]
fn a_damaged_folder_is_refused_or_loads_what_was_saved() {
    let (run, dir) = saved();
    let expected = run.everything();
    let folder = dir.path().join(format::folder_name(AT.step));
    let whole = FILES.map(|file| fs::read(folder.join(file)).unwrap());
    proptest!(config(300), |(file in 0..FILES.len(), damage in damage())| {
        let mut bytes = whole[file].clone();
        damage.apply(&mut bytes);
        fs::write(folder.join(FILES[file]), &bytes).unwrap();
        let mut other = Run::new();
        let before = other.everything();
        let outcome = other.resume(dir.path());
        fs::write(folder.join(FILES[file]), &whole[file]).unwrap();
        match outcome {
            Ok(progress) => {
                // Two flips of the same bits.
                prop_assert_eq!(&bytes, &whole[file]);
                prop_assert_eq!(progress, Some(AT));
                prop_assert_eq!(&other.everything(), &expected);
            }
            Err(err) => {
                prop_assert!(matches!(err, Error::NoValidSnapshot { .. }), "{}", err);
                prop_assert_eq!(other.everything(), before, "nothing was loaded");
            }
        }
    });
}

/// As if by somebody who makes the checksums right: what is then in the files may be loaded, but nothing may break.
#[test]
fn a_header_that_lies_is_an_error_or_loads_but_never_a_panic() {
    let (_, dir) = saved();
    let folder = dir.path().join(format::folder_name(AT.step));
    let manifest = format::read_manifest(&folder).unwrap();
    let whole = FILES.map(|file| fs::read(folder.join(file)).unwrap());
    proptest!(config(300), |(file in 0..3usize, flips in vec((0..400usize, 1..=u8::MAX), 1..4))| {
        let mut bytes = whole[file].clone();
        flips.iter().filter(|(at, _)| *at < whole[file].len()).for_each(|(at, mask)| bytes[*at] ^= mask);
        let path = folder.join(FILES[file]);
        fs::write(&path, &bytes).unwrap();
        let mut files = manifest.files.clone();
        files.insert(FILES[file].to_owned(), format::FileInfo::of(&path).unwrap());
        let forged = format::manifest_text(&Manifest { files, ..manifest.clone() }).unwrap();
        fs::write(folder.join(format::MANIFEST), forged).unwrap();
        let outcome = Run::new().resume(dir.path());
        fs::write(&path, &whole[file]).unwrap();
        prop_assert!(outcome.is_err() || outcome.is_ok_and(|at| at == Some(AT)));
    });
}
