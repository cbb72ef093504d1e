//! Snapshots of earlier versions still load, to the last bit.

#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use ddp_runtime::amp::{GradScaler, GradScalerOptions};
use ddp_runtime::data::{DataLoader, Position, TensorDataset};
use ddp_runtime::lr_scheduler::{
    CosineAnnealing, CosineAnnealingLr, ReduceLrOnPlateau, ReduceLrOnPlateauOptions, Step, StepLr,
};
use ddp_runtime::optim::{AdamW, AdamWOptions, Optimizer, Sgd, SgdOptions};
use ddp_runtime::{Backend, Context, Ddp, Goal, Learner, Progress, Run, Snapshots, Stateful, StepEvery, Trainer};
use serde_json::Value;
use tch::nn::{self, Module, VarStore};
use tch::{Kind, Reduction, Tensor};

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/snapshots").join(name)
}

/// A copy, so that nothing is written to the fixture.
fn copy_of(name: &str, to: &Path) -> Value {
    assert!(Command::new("cp").arg("-rT").arg(folder(name)).arg(to).status().unwrap().success());
    let expected = to.join("expected.json");
    let value = serde_json::from_str(&fs::read_to_string(&expected).unwrap()).unwrap();
    fs::remove_file(expected).unwrap();
    value
}

/// The bits of tensors, by name.
fn bits(named: impl IntoIterator<Item = (String, Tensor)>) -> Value {
    let bits = |tensor: &Tensor| {
        let numbers = Vec::<f32>::try_from(tensor.detach().to_kind(Kind::Float).flatten(0, -1)).unwrap();
        numbers.into_iter().map(f32::to_bits).collect::<Vec<_>>()
    };
    let named: BTreeMap<_, _> = named.into_iter().map(|(name, tensor)| (name, bits(&tensor))).collect();
    serde_json::to_value(named).unwrap()
}

fn next_random() -> Value {
    bits([("x".into(), Tensor::rand([4], tch::kind::FLOAT_CPU))])["x"].clone()
}

struct Training {
    context: Context,
    vs: VarStore,
    model: nn::Linear,
    /// Its buckets have an order, which is saved.
    _ddp: Ddp,
    loader: DataLoader<TensorDataset<(Tensor, Tensor)>>,
}

impl Training {
    fn new() -> Self {
        let context = Context::builder().backend(Backend::Gloo).init().unwrap();
        let vs = VarStore::new(context.device());
        let model = nn::linear(vs.root() / "l", 3, 1, Default::default());
        let ddp = Ddp::new(context.group(), &vs).unwrap();
        let x = (Tensor::arange(24 * 3, tch::kind::FLOAT_CPU).view([24, 3]) * 0.7).sin();
        let y = x.sum_dim_intlist(1, true, Kind::Float);
        let loader = DataLoader::new(&context, TensorDataset::new((x, y)).unwrap(), 4).unwrap().seed(5);
        Self { context, vs, model, _ddp: ddp, loader }
    }

    fn snapshots(&self, dir: &Path) -> Snapshots {
        Snapshots::open(&self.context, dir).unwrap().blocking(true)
    }

    fn check(&self, progress: Progress, optimizer: Option<&dyn Optimizer>, expected: &Value) {
        let found = serde_json::to_value(progress).unwrap();
        for field in ["epoch", "step", "samples"] {
            assert_eq!(found[field], expected[field], "{field}");
        }
        assert_eq!(bits(self.vs.variables()), expected["model"]);
        if let Some(optimizer) = optimizer {
            assert_eq!(bits(optimizer.state_dict().unwrap().into_tensors()), expected["optimizer"]);
        }
    }
}

/// One test, as all draw from this process' random numbers.
#[test]
fn old_snapshots_load_to_the_last_bit() {
    sgd();
    everything();
    trainer();
}

fn sgd() {
    let (dir, mut job) = (tempfile::tempdir().unwrap(), Training::new());
    let expected = copy_of("sgd", dir.path());
    let optimizer = Sgd::new(&job.vs, SgdOptions { lr: 0.1, momentum: 0.9, ..Default::default() });
    let run = Run::new(&job.context, &job.vs, optimizer).snapshots(job.snapshots(dir.path()));
    let run = run.resume(&mut job.loader).unwrap();
    assert_eq!(next_random(), expected["next_random"]);
    job.check(run.progress(), Some(&run.optimizer), &expected);
    assert_eq!(job.loader.position(), Position { epoch: 1, samples: 8 });
    assert_eq!(job.loader.epoch(1).unwrap().count(), 4, "of six batches, two were seen");
}

fn everything() {
    let (dir, mut job) = (tempfile::tempdir().unwrap(), Training::new());
    let expected = copy_of("adamw", dir.path());
    let mut optimizer = AdamW::new(&job.vs, AdamWOptions { lr: 0.1, ..Default::default() });
    let cosine = CosineAnnealingLr::new(&mut optimizer, CosineAnnealing::new(7)).unwrap();
    let plateau = ReduceLrOnPlateau::new(&optimizer, ReduceLrOnPlateauOptions::default()).unwrap();
    let mut run = Run::new(&job.context, &job.vs, optimizer)
        .scheduler((cosine, plateau))
        .scaler(GradScaler::new(job.context.device(), GradScalerOptions::default()).unwrap())
        .value("names", Vec::<(String, f64)>::new())
        .snapshots(job.snapshots(dir.path()))
        .resume(&mut job.loader)
        .unwrap();
    assert_eq!(next_random(), expected["next_random"]);
    job.check(run.progress(), Some(&run.optimizer), &expected);
    let state = run.scheduler.state_dict().unwrap();
    for name in ["scheduler", "plateau"] {
        assert_eq!(state.get::<Value>(name).unwrap().unwrap(), expected[name]);
    }
    assert_eq!(serde_json::json!(run.optimizer.learning_rates()), expected["learning_rates"]);
    assert_eq!(run.scaler.get_scale().unwrap(), expected["scale"].as_f64().unwrap());
    assert_eq!(format!("{:?}", run.value), expected["names"]);

    // What is saved is in the same form.
    run.metric(0.25);
    run.save().unwrap();
    for file in ["model.safetensors", "optimizer.safetensors", "state.json"] {
        let [old, new] =
            [&folder("adamw"), dir.path()].map(|dir| fs::read(dir.join("step-00000009").join(file)).unwrap());
        if file != "state.json" {
            assert_eq!(new, old, "{file}");
            continue;
        }
        let [mut old, mut new] = [old, new].map(|text| serde_json::from_slice::<Value>(&text).unwrap());
        for state in [&mut old, &mut new] {
            state["crc32c"] = Value::Null;
            state["files"]["rng.safetensors"] = Value::Null; // numbers were drawn
        }
        assert_eq!(new, old);
    }
}

struct Line<'a>(&'a nn::Linear);

impl Learner for Line<'_> {
    type Batch = (Tensor, Tensor);

    fn loss(&self, (x, y): &Self::Batch) -> Tensor {
        self.0.forward(x).mse_loss(y, Reduction::Mean)
    }
}

fn trainer() {
    let (dir, mut job) = (tempfile::tempdir().unwrap(), Training::new());
    let expected = copy_of("trainer", dir.path());
    let mut optimizer = AdamW::new(&job.vs, AdamWOptions { lr: 0.1, ..Default::default() });
    let steps = StepLr::new(&mut optimizer, Step::new(2)).unwrap();
    let plateau = ReduceLrOnPlateau::new(&optimizer, ReduceLrOnPlateauOptions::default()).unwrap();
    let scaler = GradScaler::new(job.context.device(), GradScalerOptions::default()).unwrap();
    let snapshots = job.snapshots(dir.path());
    let outcome = Trainer::new(&job.context, &job.vs, optimizer)
        .unwrap()
        .scheduler(steps, StepEvery::Epoch)
        .plateau(plateau)
        .scaler(scaler)
        .snapshots(snapshots)
        .early_stopping(3, Goal::Minimize)
        .fit(&Line(&job.model), 3, &mut job.loader, None)
        .unwrap();
    assert_eq!(next_random(), expected["next_random"]);
    job.check(outcome.progress, None, &expected);
    assert_eq!(outcome.metric, expected["metric"].as_f64());
}
