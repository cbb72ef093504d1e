//! Which parts of a training loop wait for the GPU. Two methods find a wait: PyTorch's sync debug mode makes an error of those
//! operations that it knows; and a part that returns while the GPU is busy with earlier work has not waited for it.

mod net;
mod parts;

use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, ensure};
use ddp_runtime::Context;
use ddp_runtime::cuda::{SyncDebugMode, set_sync_debug_mode};
use tch::{Device, Kind, Tensor};

use crate::measure::{Mark, device_ms, ms_since, synchronize};
use parts::PARTS;

/// Runs under the sync debug mode.
const RUNS: usize = 3;
/// How long the GPU is busy at first, and at a second try.
const BUSY_MS: [f64; 2] = [100.0, 500.0];
/// What the error of the sync debug mode says.
const SYNC: &str = "synchronizing CUDA operation";

/// One run of a part.
type Run<'a> = Box<dyn FnMut() -> Result<()> + 'a>;

/// A part of a training loop.
struct Part {
    name: &'static str,
    expected: Expected,
    /// Runs before the first measured one: DDP measures times in its first ten steps, and waits for them.
    warm_up: usize,
    /// Whether to try it under the sync debug mode, which counts for all threads: also for those that may wait.
    in_debug_mode: bool,
    make: for<'a> fn(&'a Lab) -> Result<Run<'a>>,
}

#[derive(Clone, Copy, PartialEq)]
enum Expected {
    NoWait,
    /// A part that waits on purpose: shows that waits are detected.
    Wait,
    /// A part that may wait, for this reason.
    MayWait(&'static str),
}

impl Part {
    const fn new(name: &'static str, make: for<'a> fn(&'a Lab) -> Result<Run<'a>>) -> Self {
        Self { name, expected: Expected::NoWait, warm_up: 12, in_debug_mode: true, make }
    }

    const fn waits(self) -> Self {
        Self { expected: Expected::Wait, ..self }
    }

    const fn may_wait(self, reason: &'static str) -> Self {
        Self { expected: Expected::MayWait(reason), ..self }
    }

    const fn warm_up(self, warm_up: usize) -> Self {
        Self { warm_up, ..self }
    }

    const fn not_in_debug_mode(self) -> Self {
        Self { in_debug_mode: false, ..self }
    }
}

/// What the parts share.
struct Lab {
    context: Context,
    /// Rank 0's, for snapshots and metrics.
    dir: PathBuf,
}

impl Lab {
    fn device(&self) -> Device {
        self.context.device()
    }

    fn rank(&self) -> usize {
        self.context.rank()
    }
}

/// Runs the parts whose names contain `only`, each by itself, and prints a line for each.
pub fn hidden_sync(only: Option<&str>) -> Result<()> {
    let context = Context::builder().timeout(Duration::from_secs(60)).init()?;
    let own_dir = tempfile::tempdir()?;
    let dir = context.group().broadcast_value(&own_dir.path().to_owned(), 0)?;
    let lab = Lab { context, dir };
    let busy = Busy::new(lab.device())?;
    let (mut ok, mut failed) = (0, Vec::new());
    for part in PARTS.iter().filter(|part| only.is_none_or(|only| part.name.contains(only))) {
        let start = Instant::now();
        let found = part.measure(&lab, &busy)?;
        // Work that the part dropped ends now, and not in the next part.
        lab.context.report_step(0, 1);
        synchronize(lab.device())?;
        let is_right = part.is_right(&lab, found.as_ref());
        let verdict = match (&found, part.expected) {
            (None, Expected::Wait) if is_right => "not checked".to_owned(),
            (None, Expected::Wait) => "its wait was NOT FOUND".to_owned(),
            (None, _) => "ok".to_owned(),
            (Some(found), Expected::Wait) if is_right => format!("waits, as it should ({found})"),
            (Some(found), Expected::MayWait(reason)) if is_right => format!("waits: {reason} ({found})"),
            (Some(found), _) if found.is_wait => format!("WAITS ({found})"),
            (Some(found), _) => format!("FAILS ({found})"),
        };
        if is_right {
            ok += 1;
        } else {
            failed.push(part.name);
        }
        if lab.context.is_rank0() {
            println!("hidden_sync: {}: {verdict} [{:.1} s]", part.name, start.elapsed().as_secs_f64());
        }
    }
    ensure!(failed.is_empty(), "{} of {} parts wait or fail: {}", failed.len(), ok + failed.len(), failed.join(", "));
    ensure!(ok > 0, "no part has such a name");
    println!("rank {}: {ok} parts of a training loop on {:?} are as expected", lab.rank(), lab.device());
    Ok(())
}

/// How a part waited, or failed.
#[derive(serde::Serialize, serde::Deserialize)]
struct Found {
    rank: usize,
    is_wait: bool,
    how: String,
}

impl std::fmt::Display for Found {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "rank {}: {}", self.rank, self.how)
    }
}

impl Lab {
    /// The finding of the first rank that has one. The ranks must run a part together.
    fn first(&self, found: Option<Found>) -> Result<Option<Found>> {
        Ok(self.context.group().all_gather_value(&found)?.into_iter().flatten().next())
    }

    /// Like `first`, for the error of `outcome`, which may come from the sync debug mode.
    fn first_error<T>(&self, outcome: &Result<T>) -> Result<Option<Found>> {
        let found = outcome.as_ref().err().map(|err| {
            let text = format!("{err:#}");
            let how = text.lines().next().unwrap_or_default().to_owned(); // no C++ stack trace
            Found { rank: self.rank(), is_wait: how.contains(SYNC), how }
        });
        self.first(found)
    }
}

impl Part {
    fn is_right(&self, lab: &Lab, found: Option<&Found>) -> bool {
        match (found, self.expected) {
            (None, Expected::Wait) => !lab.device().is_cuda(), // nothing can be found there
            (None, _) => true,
            (Some(_), Expected::NoWait) => false,
            (Some(found), _) => found.is_wait,
        }
    }

    /// How it waits, or fails; `None` if it does neither. The same on all ranks.
    fn measure(&self, lab: &Lab, busy: &Busy) -> Result<Option<Found>> {
        let warm = quietly(|| {
            let mut run = (self.make)(lab)?;
            (0..self.warm_up).try_for_each(|_| run())?;
            synchronize(lab.device())?;
            Ok(run)
        });
        let found = lab.first_error(&warm)?;
        let (Ok(mut run), None) = (warm, &found) else { return Ok(found) };
        if self.in_debug_mode {
            let outcome = quietly(|| {
                let _mode = DebugMode::error(lab.device())?;
                (0..RUNS).try_for_each(|_| run())
            });
            let found = lab.first_error(&outcome)?;
            if found.is_some() {
                return Ok(found);
            }
        }
        let mut found = None;
        for ms in BUSY_MS {
            // Also for work that an earlier run left to other threads. Then all ranks begin together.
            synchronize(lab.device())?;
            lab.context.group().all_gather_value(&())?;
            let end = busy.work_for(ms)?;
            let start = Instant::now();
            let outcome = quietly(&mut run);
            let took = ms_since(start);
            let is_idle = lab.device().is_cuda() && end.is_done()?;
            let error = lab.first_error(&outcome)?;
            if error.is_some() {
                return Ok(error);
            }
            let how = || format!("returns after {took:.1} ms, when the GPU has done {ms:.0} ms of earlier work");
            found = lab.first(is_idle.then(|| Found { rank: lab.rank(), is_wait: true, how: how() }))?;
            // A part that is slow on the CPU needs more work on the GPU.
            if found.is_none() {
                break;
            }
        }
        Ok(found)
    }
}

/// Runs `f`, whose panic is an error here. (tch's layers panic.)
fn quietly<T>(f: impl FnOnce() -> Result<T>) -> Result<T> {
    let hook = take_hook();
    set_hook(Box::new(|_| {}));
    let outcome = catch_unwind(AssertUnwindSafe(f));
    set_hook(hook);
    outcome.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
        let first = text.unwrap_or("a panic without a message").lines().next().unwrap_or_default();
        Err(anyhow!("panicked: {first}"))
    })
}

/// The sync debug mode, until it is dropped.
struct DebugMode(Device);

impl DebugMode {
    fn error(device: Device) -> Result<Self> {
        if device.is_cuda() {
            set_sync_debug_mode(SyncDebugMode::Error)?;
        }
        Ok(Self(device))
    }
}

impl Drop for DebugMode {
    fn drop(&mut self) {
        if self.0.is_cuda() {
            let _ = set_sync_debug_mode(SyncDebugMode::Off); // it could be set before
        }
    }
}

/// Matrix products that keep the GPU busy.
struct Busy {
    device: Device,
    matrix: Tensor,
    product_ms: f64,
}

impl Busy {
    fn new(device: Device) -> Result<Self> {
        let width = if device.is_cuda() { 8192 } else { 64 };
        let matrix = Tensor::full([width, width], 1.0 / width as f64, (Kind::Float, device));
        let mut busy = Self { device, matrix, product_ms: f64::INFINITY };
        for _ in 0..3 {
            busy.product_ms = device_ms(device, || Ok(busy.matrix.matmul(&busy.matrix)))?;
        }
        Ok(busy)
    }

    /// Gives the GPU work for about this long, and the mark of its end.
    fn work_for(&self, ms: f64) -> Result<Mark> {
        let products = (ms / self.product_ms).ceil().clamp(1.0, 500.0) as usize;
        (0..products).for_each(|_| drop(self.matrix.matmul(&self.matrix)));
        Mark::now(self.device)
    }
}
