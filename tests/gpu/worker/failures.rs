//! A rank that fails in the middle of training.

use std::thread;
use std::time::Duration;

use anyhow::{Result, bail};
use ddp_runtime::data::{BatchDataset, DataLoader};
use ddp_runtime::metrics::Metrics;
use ddp_runtime::optim::{Optimizer, Sgd, SgdOptions};
use ddp_runtime::{Context, Ddp};
use tch::nn::VarStore;
use tch::{Device, Kind, Tensor};

use crate::training::{Mlp, batch};

/// The step at which the last rank fails.
const STEP: u64 = 50;

/// The last rank fails, with metrics open.
pub fn fail(how: &str) -> Result<()> {
    let context = Context::init()?;
    let device = context.device();
    let vs = VarStore::new(device);
    let model = Mlp::new(&vs, 64);
    let ddp = Ddp::new(context.group(), &vs)?;
    let mut optimizer = Sgd::new(&vs, SgdOptions { lr: 0.01, ..Default::default() });
    let metrics = Metrics::open(&context)?;
    let loader = DataLoader::new(&context, Stuck, 1)?.shuffle(false).workers(1).device(device);
    let mut batches = if how == "metrics" { Some(loader.epoch(0)?) } else { None };
    let _first = batches.as_mut().and_then(|batches| batches.next()).transpose()?;
    let data = batch(context.rank(), 0, 64, device);
    for step in 1..=20_000u64 {
        optimizer.zero_grad()?;
        let loss = ddp.forward(|| model.loss(&data))?;
        ddp.backward(&loss)?;
        optimizer.step()?;
        context.report_step(0, step);
        metrics.log("loss", &loss, step)?;
        if step != STEP || context.rank() != context.world_size() - 1 {
            continue;
        }
        match how {
            "error" => bail!("the planned error"),
            "panic" => panic!("the planned panic"),
            "exit" => std::process::exit(7),
            "kill" => kill_self(),
            "sleep" => thread::sleep(Duration::from_secs(600)),
            "assert" => {
                let index = Tensor::from_slice(&[99i64]).to_device(device);
                Tensor::zeros([3], (Kind::Float, device)).f_index_select(0, &index)?.f_double_value(&[0])?;
            }
            "memory" => drop(Tensor::f_zeros([1 << 42], (Kind::Float, device))?),
            "metrics" => {
                metrics.log("only here", 1.0, step)?; // the other ranks know nothing of it
                bail!("the planned error, with a loader and metrics open");
            }
            other => bail!("no such failure: {other}"),
        }
    }
    metrics.finish()?;
    bail!("nothing failed")
}

/// Each rank's first sample arrives, the others never.
struct Stuck;

impl BatchDataset for Stuck {
    type Batch = Tensor;

    fn len(&self) -> usize {
        64
    }

    fn batch(&self, indices: &[i64]) -> ddp_runtime::Result<Tensor> {
        if indices[0] >= 2 {
            wait_forever();
        }
        Ok(Tensor::ones([1 << 20], (Kind::Float, Device::Cpu)))
    }
}

fn wait_forever() -> ! {
    loop {
        thread::park();
    }
}

/// Ends this process with SIGKILL.
pub fn kill_self() {
    // SAFETY: it ends this process.
    unsafe { libc::raise(libc::SIGKILL) };
}
