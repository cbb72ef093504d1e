//! PowerSGD: prints the bits of each step's loss, as its Python twin `golden/power_sgd.py` does, whose cases it reads; or
//! checks that a run continues from a saved state.

use std::collections::{BTreeMap, HashMap};
use std::process::ExitCode;

use anyhow::{Context as _, Result, ensure};
use ddp_runtime::comm_hook::{PowerSgd, PowerSgdOptions};
use ddp_runtime::optim::{Optimizer, Sgd, SgdOptions};
use ddp_runtime::{Backend, Context, Ddp, DdpOptions, Run, Snapshots};
use serde::Deserialize;
use serde_json::Value;
use tch::nn::{self, Module, VarStore};
use tch::{Kind, Reduction, Tensor};

const STEPS: usize = 12;
const BATCH: i64 = 8;

#[derive(Deserialize)]
struct Golden {
    cases: BTreeMap<String, HashMap<String, Value>>,
}

pub(crate) fn main() -> ExitCode {
    let args: Vec<String> = ddp_tests::args().collect();
    ddp_runtime::main(|| run(&args))
}

/// `power_sgd losses CASES` or `power_sgd continues SNAPSHOTS`
fn run(args: &[String]) -> Result<()> {
    // The golden numbers are the CPU's.
    let context = Context::builder().backend(Backend::Gloo).init()?;
    if args[0] == "continues" {
        return continues(&context, &args[1]);
    }
    let golden: Golden = serde_json::from_str(&std::fs::read_to_string(&args[1])?)?;
    for (name, case) in &golden.cases {
        let power_sgd = PowerSgd::new(options(case).with_context(|| name.clone())?)?;
        let mut job = Job::new(&context, &DdpOptions::default(), &power_sgd)?;
        for step in 0..STEPS {
            println!("{name}: {} {step} {:08x}", context.rank(), job.step(&context, step)?);
        }
    }
    Ok(())
}

fn options(case: &HashMap<String, Value>) -> Result<PowerSgdOptions> {
    let mut options = PowerSgdOptions::default();
    for (name, value) in case {
        let (integer, float) = (value.as_i64().unwrap_or(-1), value.as_f64().unwrap_or(f64::NAN));
        match name.as_str() {
            "matrix_approximation_rank" => options.matrix_approximation_rank = integer,
            "start_iter" => options.start_iter = integer.cast_unsigned(),
            "min_compression_rate" => options.min_compression_rate = float,
            "use_error_feedback" => options.use_error_feedback = value == true,
            "warm_start" => options.warm_start = value == true,
            "orthogonalization_epsilon" => options.orthogonalization_epsilon = float,
            "random_seed" => options.random_seed = integer as u32,
            "batch_tensors_with_same_shape" => options.batch_tensors_with_same_shape = value == true,
            other => anyhow::bail!("unknown option {other}"),
        }
    }
    Ok(options)
}

/// Numbers that Python can compute, too.
fn wave(rows: i64, columns: i64, step: f64) -> Tensor {
    (Tensor::arange(rows * columns, (Kind::Double, tch::Device::Cpu)) * step)
        .sin()
        .to_kind(Kind::Float)
        .view([rows, columns])
}

struct Job {
    model: nn::Sequential,
    ddp: Ddp,
    run: Run<Sgd>,
}

impl Job {
    fn new(context: &Context, options: &DdpOptions, power_sgd: &PowerSgd) -> Result<Self> {
        let vs = VarStore::new(context.device());
        let mut model = nn::seq();
        let sizes = [16, 32, 32, 32, 1];
        for (i, pair) in sizes.windows(2).enumerate() {
            let (before, after) = (pair[0], pair[1]);
            let mut linear = nn::linear(vs.root() / i, before, after, Default::default());
            tch::no_grad(|| {
                linear.ws.copy_(&(wave(after, before, 0.7 + i as f64) / (before as f64).sqrt()));
                let _ = linear.bs.as_mut().map(Tensor::zero_);
            });
            model = model.add(linear);
            if i < 3 {
                model = model.add_fn(Tensor::tanh);
            }
        }
        let ddp = Ddp::with_options(context.group(), &vs, options.clone())?;
        ddp.register_comm_hook(power_sgd.hook(context.group()))?;
        let optimizer = Sgd::new(&vs, SgdOptions { lr: 0.05, momentum: 0.9, ..Default::default() });
        Ok(Self { model, ddp, run: Run::new(context, &vs, optimizer) })
    }

    /// The bits of the loss.
    fn step(&mut self, context: &Context, step: usize) -> Result<u32> {
        let x = wave(BATCH, 16, 0.3 + 0.1 * context.rank() as f64 + 0.01 * step as f64);
        let y = x.sum_dim_intlist(1, true, None::<Kind>).sin();
        self.run.optimizer.zero_grad()?;
        let loss = self.ddp.forward(|| self.model.forward(&x).mse_loss(&y, Reduction::Mean))?;
        self.ddp.backward(&loss)?;
        self.run.optimizer.step()?;
        self.run.step_done(&())?;
        Ok((loss.double_value(&[]) as f32).to_bits())
    }
}

/// With several buckets, twelve steps are six, and six more of another job that loads a snapshot and each rank's state.
fn continues(context: &Context, dir: &str) -> Result<()> {
    let mut ddp_options = DdpOptions::default();
    (ddp_options.first_bucket_bytes, ddp_options.bucket_cap_bytes) = (1024, 6000);
    for warm_start in [true, false] {
        let options = PowerSgdOptions { start_iter: 3, matrix_approximation_rank: 2, warm_start, ..Default::default() };
        let power_sgd = PowerSgd::new(options)?;
        let snapshots = || Snapshots::open(context, format!("{dir}/{warm_start}"));
        let mut job = Job::new(context, &ddp_options, &power_sgd)?;
        job.run = job.run.snapshots(snapshots()?).resume(&mut ())?;
        let mut expected = Vec::new();
        let mut saved = HashMap::new();
        for step in 0..12 {
            expected.push(job.step(context, step)?);
            if step == 5 {
                job.run.save()?;
                saved = power_sgd.state_dict().into_iter().map(|(name, tensor)| (name, tensor.copy())).collect();
            }
        }
        job.run.wait_saved()?;
        drop(job);
        let buckets = saved.keys().filter(|name| name.ends_with(".error")).count();
        ensure!(buckets > 1, "there are several buckets: {:?}", saved.keys());

        let loaded = PowerSgd::new(options)?;
        let mut job = Job::new(context, &ddp_options, &loaded)?;
        job.run = job.run.snapshots(snapshots()?);
        let progress = job.run.load(&mut ())?.context("a snapshot")?;
        let copies = |state: &HashMap<String, Tensor>| state.iter().map(|(name, t)| (name.clone(), t.copy())).collect();
        loaded.load_state_dict(copies(&saved), context.device())?;
        for (step, expected) in expected.iter().enumerate().skip(progress.step as usize) {
            let bits = job.step(context, step)?;
            ensure!(bits == *expected, "warm {warm_start}, step {step}: {bits:08x}, not {expected:08x}");
        }

        // The first buckets of a job that loaded no snapshot have other parameters.
        let other = PowerSgd::new(options)?;
        let mut job = Job::new(context, &ddp_options, &other)?;
        other.load_state_dict(copies(&saved), context.device())?;
        let err = job.step(context, 0).expect_err("other buckets").to_string();
        ensure!(err.contains("bucket 0 has different parameters or a different order"), "{err}");
    }
    println!("PowerSGD continues");
    Ok(())
}
