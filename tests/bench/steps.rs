//! Training steps per second of three models: `bench_steps FOLDER` prints a line for each model and way to train.
//! Its Python twin, `steps_torch.py`, writes first weights and batches to FOLDER.

mod models;

use std::process::ExitCode;
use std::time::Instant;

use anyhow::Result;
use ddp_runtime::optim::{AdamW, AdamWOptions, Optimizer, Sgd, SgdOptions};
use ddp_runtime::{Context, Ddp};
use models::Loss;
use tch::Tensor;
use tch::nn::VarStore;

/// Steps whose losses are printed; the clock starts after them.
const WARM_UP_STEPS: usize = 10;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    ddp_runtime::main(|| measure(&args[0]))
}

fn measure(folder: &str) -> Result<()> {
    let context = Context::init()?;
    for (name, steps) in [("linear", 1500), ("mlp", 60), ("transformer", 15)] {
        let batch = Tensor::read_safetensors(format!("{folder}/{name}-batch-{}.safetensors", context.rank()))?;
        let [x, y] = ["x", "y"].map(|key| batch.iter().find(|(name, _)| name == key).map(|(_, tensor)| tensor));
        let batch = x.zip(y).ok_or_else(|| anyhow::anyhow!("the batch has no x and y"))?;

        let (vs, loss, mut optimizer) = start(name, folder, &context)?;
        let ddp = Ddp::new(context.group(), &vs)?;
        let mut step = || {
            optimizer.zero_grad()?;
            let loss = ddp.forward(|| loss(batch))?;
            ddp.backward(&loss)?;
            optimizer.step()?;
            Ok(loss)
        };
        let losses = warm_up(&mut step)?;
        let ddp_rate = steps_per_second(&context, steps, true, &mut step)?;

        // The same steps without communication: on all ranks at once, and on rank 0 alone.
        let (vs_alone, loss, mut optimizer) = start(name, folder, &context)?;
        let mut step = || {
            optimizer.zero_grad()?;
            let loss = loss(batch);
            loss.backward();
            optimizer.step()?;
            Ok(loss)
        };
        warm_up(&mut step)?;
        let both_rate = steps_per_second(&context, steps, true, &mut step)?;
        let one_rate = steps_per_second(&context, steps, context.is_rank0(), &mut step)?;

        if context.is_rank0() {
            let parameters: usize = vs_alone.trainable_variables().iter().map(Tensor::numel).sum();
            println!("{name} parameters={parameters} losses={losses:?}");
            println!("{name} ddp={ddp_rate:.2} both={both_rate:.2} one={one_rate:.2}");
        }
    }
    Ok(())
}

fn start(name: &str, folder: &str, context: &Context) -> Result<(VarStore, Loss, Box<dyn Optimizer>)> {
    let mut vs = VarStore::new(context.device());
    let loss = models::make(name, &vs.root())?;
    vs.load(format!("{folder}/{name}.safetensors"))?;
    let optimizer: Box<dyn Optimizer> = match name {
        "transformer" => Box::new(AdamW::new(&vs, AdamWOptions { lr: 3e-4, ..Default::default() })),
        _ => Box::new(Sgd::new(&vs, SgdOptions { lr: 0.03, ..Default::default() })),
    };
    Ok((vs, loss, optimizer))
}

fn warm_up(step: &mut impl FnMut() -> Result<Tensor>) -> Result<Vec<f64>> {
    (0..WARM_UP_STEPS).map(|_| Ok(step()?.double_value(&[]))).collect()
}

/// All ranks start together, and the clock stops when the last one is done.
fn steps_per_second(
    context: &Context,
    steps: usize,
    takes_part: bool,
    step: &mut impl FnMut() -> Result<Tensor>,
) -> Result<f64> {
    context.group().barrier()?;
    let start = Instant::now();
    if takes_part {
        for _ in 0..steps {
            let _loss = step()?;
        }
    }
    context.group().barrier()?;
    Ok(steps as f64 / start.elapsed().as_secs_f64())
}
