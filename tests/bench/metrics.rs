//! Steps per second with and without `metrics.log`: `bench_metrics FOLDER STEPS` trains the seed job's model, in turns.

use std::process::ExitCode;
use std::time::Instant;

use anyhow::Result;
use ddp_runtime::metrics::Metrics;
use ddp_runtime::optim::{Optimizer, Sgd, SgdOptions};
use ddp_runtime::{Context, Ddp};
use tch::nn::{self, Module, VarStore};
use tch::{Reduction, Tensor};

const ROUNDS: usize = 7;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    ddp_runtime::main(|| measure(&args[0], args[1].parse()?))
}

fn measure(folder: &str, steps: u64) -> Result<()> {
    let context = Context::init()?;
    let vs = VarStore::new(context.device());
    let model = nn::linear(vs.root(), 20, 1, Default::default());
    let ddp = Ddp::new(context.group(), &vs)?;
    let mut optimizer = Sgd::new(&vs, SgdOptions { lr: 1e-3, ..Default::default() });
    let (x, y) = (Tensor::randn([32, 20], tch::kind::FLOAT_CPU), Tensor::randn([32, 1], tch::kind::FLOAT_CPU));
    let metrics = Metrics::open_in(&context, folder)?;
    let samples = 32 * context.world_size() as u64;
    let mut number = 0;
    for round in 0..=ROUNDS {
        let mut rates = [0.0; 2];
        for (logs, rate) in [false, true].into_iter().zip(&mut rates) {
            context.group().barrier()?;
            let start = Instant::now();
            for _ in 0..steps {
                number += 1;
                optimizer.zero_grad()?;
                let loss = ddp.forward(|| model.forward(&x).mse_loss(&y, Reduction::Mean))?;
                ddp.backward(&loss)?;
                optimizer.step()?;
                if logs {
                    metrics.log("train/loss", &loss, number)?;
                    metrics.learning_rate(&optimizer, number)?;
                    metrics.throughput(samples, number)?;
                }
            }
            context.group().barrier()?;
            *rate = steps as f64 / start.elapsed().as_secs_f64();
        }
        // The first round warms up.
        if context.is_rank0() && round > 0 {
            println!("plain={:.1} logged={:.1}", rates[0], rates[1]);
        }
    }
    metrics.finish()?;
    Ok(())
}
