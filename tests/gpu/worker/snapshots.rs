//! Snapshots: resuming, saving while training continues, and how fast that is.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use ddp_runtime::cuda::{Stream, current_stream, with_stream};
use ddp_runtime::optim::{AdamW, AdamWOptions, Optimizer};
use ddp_runtime::{Backend, Context, Ddp, Run, Snapshots, Stateful};
use tch::nn::{self, ModuleT, VarStore};
use tch::{Device, Kind, Reduction, Tensor};

use crate::failures::kill_self;
use crate::measure::{Mark, bytes_of, device_ms, gb_per_s, median, ms_since, synchronize};
use crate::need_ranks;
use crate::training::batch;

/// Steps with dropout and snapshots; in the first attempt the last rank kills itself at step `die_at` (0: never). Prints
/// a checksum of the weights at the end.
pub fn resume(dir: &str, steps: u64, die_at: u64) -> Result<()> {
    let context = Context::init()?;
    tch::manual_seed(100 + context.rank() as i64);
    let vs = VarStore::new(context.device());
    let model = nn::seq_t()
        .add(nn::linear(vs.root() / "in", 64, 128, Default::default()))
        .add_fn_t(|x, train| x.relu().dropout(0.2, train))
        .add(nn::linear(vs.root() / "out", 128, 64, Default::default()));
    let ddp = Ddp::new(context.group(), &vs)?;
    let optimizer = AdamW::new(&vs, AdamWOptions { lr: 1e-2, ..Default::default() });
    let snapshots = Snapshots::open(&context, dir)?.every_steps(5).keep_last(2);
    let mut run = Run::new(&context, &vs, optimizer).snapshots(snapshots).resume(&mut ())?;
    if run.step() > 0 {
        println!("rank {} resumed at {}", context.rank(), run.step());
    }
    while run.step() < steps {
        let (x, y) = batch(context.rank(), run.step(), 64, context.device());
        run.optimizer.zero_grad()?;
        let loss = ddp.forward(|| model.forward_t(&x, true).mse_loss(&y, Reduction::Mean))?;
        ddp.backward(&loss)?;
        run.optimizer.step()?;
        run.step_done(&())?;
        if run.step() == die_at && context.restart_count() == 0 && context.rank() == context.world_size() - 1 {
            kill_self();
        }
    }
    run.wait_saved()?;
    let variables: BTreeMap<_, _> = vs.variables().into_iter().collect();
    let mut sum = 0;
    for tensor in variables.values() {
        let bytes = tensor.detach().to_device(Device::Cpu).flatten(0, -1).view_dtype(Kind::Uint8);
        sum = crc32c::crc32c_append(sum, &Vec::<u8>::try_from(bytes)?);
    }
    println!("rank {}: weights {sum:08x}", context.rank());
    Ok(())
}

/// A model and its AdamW state.
struct Trained {
    vs: VarStore,
    run: Run<AdamW>,
}

impl Trained {
    /// Of 2.2 GB on a GPU, and of 6 MB elsewhere; without a step, so without optimizer state.
    fn new(context: &Context) -> Self {
        let device = context.device();
        let (layers, width) = if device.is_cuda() { (11, 4096) } else { (8, 256) };
        let vs = VarStore::new(device);
        for layer in 0..layers {
            nn::linear(vs.root() / layer, width, width, Default::default());
        }
        let optimizer = AdamW::new(&vs, AdamWOptions { lr: 1e-2, ..Default::default() });
        let run = Run::new(context, &vs, optimizer);
        Self { vs, run }
    }

    fn with_snapshots(self, snapshots: Snapshots) -> Self {
        Self { run: self.run.snapshots(snapshots), ..self }
    }

    /// Changes all parameters and all state. Does not wait for the device.
    fn step(&mut self) -> Result<()> {
        self.run.optimizer.zero_grad()?;
        for parameter in self.vs.trainable_variables() {
            parameter.square().sum(Kind::Float).backward();
        }
        Ok(self.run.optimizer.step()?)
    }

    /// Handles of all tensors, by name.
    fn tensors(&self) -> Result<BTreeMap<String, Tensor>> {
        let state = self.run.optimizer.state_dict()?.into_tensors();
        Ok(self.vs.variables().into_iter().chain(state).map(|(name, t)| (name, t.detach())).collect())
    }
}

fn copies(tensors: &BTreeMap<String, Tensor>) -> BTreeMap<String, Tensor> {
    tensors.iter().map(|(name, tensor)| (name.clone(), tensor.copy())).collect()
}

/// The names of the tensors that differ in a bit.
fn different(a: &BTreeMap<String, Tensor>, b: &BTreeMap<String, Tensor>) -> Result<Vec<String>> {
    ensure!(a.keys().eq(b.keys()), "the tensors have other names: {:?} and {:?}", a.keys(), b.keys());
    let mut different = Vec::new();
    for ((name, a), b) in a.iter().zip(b.values()) {
        if !a.f_view_dtype(Kind::Int)?.f_equal(&b.f_view_dtype(Kind::Int)?)? {
            different.push(name.clone());
        }
    }
    Ok(different)
}

/// Steps that begin while the GPU still copies the tensors for a snapshot: it must hold what was there when it was saved. In
/// every second round the loop runs in another stream than the default one.
pub fn race(dir: &str) -> Result<()> {
    const ROUNDS: u64 = 4;
    let context = Context::init()?;
    let device = context.device();
    tch::manual_seed(3); // the same model on all ranks
    let (mut run, mut other) = (Trained::new(&context), Trained::new(&context));
    run = run.with_snapshots(Snapshots::open(&context, dir)?.keep_last(1));
    run.run.load(&mut ())?;
    run.step()?;
    // Allocates the memory for the copies in the background, as in a loop that calls this after each step.
    run.run.step_done(&())?;
    let (mut still_copying, mut bytes) = (0, 0.0);
    for round in 1..=ROUNDS {
        let mut race = || -> Result<_> {
            run.step()?;
            let before = copies(&run.tensors()?);
            run.run.save()?;
            let copied = Mark::now(device)?;
            let is_copying = !copied.is_done()?;
            for _ in 0..3 {
                run.step()?;
                // Memory that the steps have freed is used for something else.
                drop(run.tensors()?.values().map(|tensor| tensor.full_like(f64::NAN)).collect::<Vec<_>>());
            }
            Ok((before, is_copying))
        };
        let (before, is_copying) = if device.is_cuda() && round % 2 == 0 {
            let (main, side) = (current_stream(device)?, Stream::new(device)?);
            side.wait_stream(&main)?;
            let outcome = with_stream(&side, race)??;
            main.wait_stream(&side)?;
            outcome
        } else {
            race()?
        };
        still_copying += u64::from(is_copying);
        run.run.wait_saved()?;
        other = other.with_snapshots(Snapshots::open(&context, dir)?);
        other.run.load(&mut ())?.context("there is no snapshot")?;
        let wrong = different(&before, &other.tensors()?)?;
        let (count, first) = (wrong.len(), &wrong[..wrong.len().min(4)]);
        ensure!(wrong.is_empty(), "round {round}: {count} of {} tensors are wrong, such as {first:?}", before.len());
        let changed = different(&before, &run.tensors()?)?.len();
        ensure!(changed == before.len(), "the steps changed {changed} of {} tensors only", before.len());
        bytes = bytes_of(before.values());
    }
    // Rank 0 copies.
    let raced = !device.is_cuda() || !context.is_rank0() || still_copying > 0;
    ensure!(raced, "each copy ended before the steps began, so nothing was tested");
    println!(
        "rank {}: {ROUNDS} snapshots of {:.2} GB are right to the last bit; in {still_copying} of them the GPU was still \
         copying when the steps began",
        context.rank(),
        bytes / 1e9
    );
    Ok(())
}

/// How long a snapshot of 2 GB blocks the loop, and how fast it is copied, written and loaded.
pub fn speed(dir: &str) -> Result<()> {
    const ROUNDS: usize = 5;
    let context = Context::init()?;
    need_ranks(&context, 1)?;
    let device = context.device();
    let mut run = Trained::new(&context).with_snapshots(Snapshots::open(&context, dir)?.keep_last(1));
    run.run.load(&mut ())?;
    run.step()?;
    let bytes = bytes_of(run.tensors()?.values());
    run.run.step_done(&())?;
    let (mut blocked, mut copied, mut written) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..=ROUNDS {
        run.step()?; // the GPU is busy, as in a loop
        let (before, start) = (Mark::now(device)?, Instant::now());
        run.run.save()?;
        blocked.push(ms_since(start));
        copied.push(before.ms_until(&Mark::now(device)?)?);
        run.run.wait_saved()?;
        written.push(ms_since(start));
    }
    let mut other = Trained::new(&context).with_snapshots(Snapshots::open(&context, dir)?);
    synchronize(device)?;
    let start = Instant::now();
    other.run.load(&mut ())?.context("there is no snapshot")?;
    synchronize(device)?;
    let load = ms_since(start);
    let wrong = different(&run.tensors()?, &other.tensors()?)?;
    ensure!(wrong.is_empty(), "these tensors are wrong: {wrong:?}");

    let first = blocked[0];
    let [blocked, copied, written] = [blocked, copied, written].map(|times| median(times.into_iter().skip(1)));
    println!(
        "snapshot_speed of {:.2} GB on {device:?}: the loop is blocked for {blocked:.1} ms, {:.1} ms per 2 GB (first \
         {first:.1} ms; goal: below 100 ms per 2 GB)",
        bytes / 1e9,
        blocked * 2e9 / bytes
    );
    println!(
        "snapshot_speed: copied to pinned memory in {copied:.1} ms, {:.1} GB/s (goal: above 20 GB/s; a plain copy: {:.1} \
         GB/s), written in {written:.0} ms, {:.2} GB/s, loaded in {load:.0} ms, {:.2} GB/s",
        gb_per_s(bytes, copied),
        plain_copy(device)?,
        gb_per_s(bytes, written),
        gb_per_s(bytes, load)
    );
    if device.is_cuda() {
        ensure!(blocked < 500.0, "the loop is blocked for {blocked:.1} ms");
        ensure!(gb_per_s(bytes, copied) > 5.0, "the copy takes {copied:.1} ms");
    }
    Ok(())
}

/// GB/s of one copy of 256 MiB from the device to pinned memory.
fn plain_copy(device: Device) -> Result<f64> {
    let from = Tensor::ones([64 << 20], (Kind::Float, device));
    let mut to = Tensor::zeros([64 << 20], (Kind::Float, Device::Cpu));
    if device.is_cuda() {
        to = to.f_pin_memory(device)?;
    }
    let copy = |_| device_ms(device, || Ok(to.shallow_clone().f_copy_(&from)?));
    let ms = (0..4).map(copy).collect::<Result<Vec<_>>>()?;
    Ok(gb_per_s(bytes_of([&from]), median(ms.into_iter().skip(1))))
}

/// A snapshot of a run on the CPU has no state for the GPU's random numbers: they are seeded, the same way in each resume. The
/// CPU's numbers continue.
pub fn seeded() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let status = alone(Command::new(std::env::current_exe()?).arg("seeded").arg(dir.path())).status()?;
    ensure!(status.success(), "the run on the CPU ended with {status}");
    let expected = Tensor::load(dir.path().join(EXPECTED))?;

    let context = Context::init()?;
    need_ranks(&context, 1)?;
    let device = context.device();
    let resumed = |seed: i64| -> Result<[Tensor; 3]> {
        tch::manual_seed(seed);
        let before = random_numbers(device);
        let run = small(&context).snapshots(Snapshots::open(&context, dir.path())?).resume(&mut ())?;
        ensure!(run.step() == 3, "resumed at {:?}", run.progress());
        // The GPU's first: they must not depend on the CPU's.
        let on_gpu = if device.is_cuda() { random_numbers(device) } else { before.zeros_like() };
        Ok([before, on_gpu, random_numbers(Device::Cpu)])
    };
    let (first, second) = (resumed(1)?, resumed(2)?);
    ensure!(first[0] != second[0], "the seeds 1 and 2 give the same numbers");
    ensure!(first[1] == second[1], "two resumes give different numbers on {device:?}");
    ensure!(first[1] != first[0] && second[1] != second[0], "the program's own seed counts on {device:?}");
    ensure!(first[2] == expected && second[2] == expected, "the CPU's numbers do not continue");
    println!("seeded: two resumes give the same numbers on {device:?}, and the CPU's continue");
    Ok(())
}

/// The file with the random numbers that follow the snapshot.
const EXPECTED: &str = "expected.pt";

/// The first half of `seeded`: saves a snapshot on the CPU.
pub fn save_on_cpu(dir: &str) -> Result<()> {
    let context = Context::builder().backend(Backend::Gloo).device(Device::Cpu).init()?;
    let mut run = small(&context).snapshots(Snapshots::open(&context, dir)?).resume(&mut ())?;
    tch::manual_seed(5);
    let _ = random_numbers(Device::Cpu);
    (0..3).try_for_each(|_| run.step_done(&()))?;
    run.finish()?;
    Ok(random_numbers(Device::Cpu).save(Path::new(dir).join(EXPECTED))?)
}

fn small(context: &Context) -> Run<AdamW> {
    let vs = VarStore::new(context.device());
    nn::linear(vs.root(), 4, 4, Default::default());
    Run::new(context, &vs, AdamW::new(&vs, AdamWOptions::default()))
}

fn random_numbers(device: Device) -> Tensor {
    Tensor::randn([1000], (Kind::Float, device)).to_device(Device::Cpu)
}

/// `command` as a run without a launcher.
fn alone(command: &mut Command) -> &mut Command {
    let kept = ["PATH", "LD_LIBRARY_PATH"].map(|name| (name, std::env::var_os(name).unwrap_or_default()));
    command.env_clear().envs(kept.into_iter().filter(|(_, value)| !value.is_empty()))
}
