//! `teardown fail RANK` or `teardown succeed DIR`: a run that ends with everything still open: metrics with entries that were not
//! exchanged, a loader whose thread reads a sample forever, a snapshot that is being written, a subgroup, and an object whose
//! destructor takes time. Rank RANK returns an error in the second step, where the others wait for it.
//!
//! `teardown again`: three contexts, one after the other.
//!
//! `teardown stuck RANK`: the other ranks treat signals as a request to save, and then wait forever, as on a GPU.

use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use anyhow::{Result, bail};
use ddp_runtime::data::{BatchDataset, DataLoader};
use ddp_runtime::metrics::Metrics;
use ddp_runtime::optim::{Sgd, SgdOptions};
use ddp_runtime::{Context, LossGuard, NonFinite, ReduceOp, Run, Snapshots};
use tch::nn::VarStore;
use tch::{Kind, Tensor};

pub(crate) fn main() -> ExitCode {
    let args: Vec<String> = ddp_tests::args().collect();
    ddp_runtime::main(|| if args[0] == "again" { again() } else { work(&args) })
}

fn again() -> Result<()> {
    for round in 1..=3 {
        let context = Context::init()?;
        let mut ranks = Tensor::ones([1], (Kind::Float, context.device()));
        context.group().all_reduce(&mut ranks, ReduceOp::Sum)?;
        println!("context {round}: {} ranks", ranks.int64_value(&[0]));
    }
    Ok(())
}

/// Each rank's first sample arrives, the others never do.
struct Stuck;

impl BatchDataset for Stuck {
    type Batch = i64;

    fn len(&self) -> usize {
        64
    }

    fn batch(&self, indices: &[i64]) -> ddp_runtime::Result<i64> {
        if indices[0] >= 2 {
            wait_forever();
        }
        Ok(indices[0])
    }
}

fn wait_forever() -> ! {
    loop {
        thread::park();
    }
}

/// An object of the program, such as a connection that is closed properly.
struct SlowToDrop;

impl Drop for SlowToDrop {
    fn drop(&mut self) {
        thread::sleep(Duration::from_millis(1500));
    }
}

fn work(args: &[String]) -> Result<()> {
    let context = Context::init()?;
    let fails = args[0] != "succeed";
    let rank = if fails { args[1].parse()? } else { context.world_size() };
    let own = std::env::var("DDP_RUN_DIR")?;
    let dir = if fails { format!("{own}/snapshots") } else { args[1].clone() };

    let vs = VarStore::new(context.device());
    // Large enough that it is still being written when the run ends.
    let weights = vs.root().zeros("weights", &[16 << 20]);
    let optimizer = Sgd::new(&vs, SgdOptions::default());
    let snapshots = Snapshots::open(&context, dir)?.every_steps(1);
    let mut run = Run::new(&context, &vs, optimizer).snapshots(snapshots).resume(&mut ())?;
    let metrics = Metrics::open(&context)?;
    let mut guard = LossGuard::new(&context, &vs, NonFinite::Warn);
    let _slow = SlowToDrop;
    let everybody: Vec<usize> = (0..context.world_size()).collect();
    let group = context.group().new_group(&everybody)?.expect("this rank is in it");
    let loader = DataLoader::new(&context, Stuck, 1)?.shuffle(false).workers(1);
    let mut batches = loader.epoch(0)?;

    let step = |step| -> Result<()> {
        let mut one = Tensor::ones([1], (Kind::Float, context.device()));
        group.all_reduce(&mut one, ReduceOp::Sum)?;
        metrics.log("loss", 1.0 / step as f64, step)?;
        context.report_step(0, step);
        Ok(())
    };
    let _batch = batches.next();
    step(1)?;
    let _ = guard.check(&weights.sum(Kind::Float), 1)?;
    run.step_done(&())?;
    if args[0] == "stuck" && context.rank() != rank {
        wait_forever();
    }
    if context.rank() == rank {
        metrics.log("only here", 1.0, 2)?; // the other ranks know nothing of it
        bail!("told to fail with everything open");
    }
    step(2)?;
    println!("rank {} is done", context.rank());
    Ok(())
}
