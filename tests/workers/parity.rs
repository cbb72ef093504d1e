//! The seed job on given data and first weights; prints each step's loss as the bits of its f32.
//! Its Python twin is `golden/seed_job.py`.

use std::collections::HashMap;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use ddp_runtime::optim::{AdamW, AdamWOptions, Optimizer, Sgd, SgdOptions};
use ddp_runtime::{Backend, Context, Ddp, DistributedSampler};
use tch::nn::{self, Module};
use tch::{Reduction, Tensor};

const STEPS: usize = 100;
const BATCH: usize = 32;

pub(crate) fn main() -> ExitCode {
    let args: Vec<String> = ddp_tests::args().collect();
    ddp_runtime::main(|| train(&args[0], &args[1]))
}

fn train(input: &str, optimizer: &str) -> Result<()> {
    let input: HashMap<String, Tensor> = Tensor::read_safetensors(input)?.into_iter().collect();
    let get = |name: &str| input.get(name).context(name.to_owned());
    let (x, y) = (get("x")?, get("y")?);
    // The golden numbers are the CPU's.
    let context = Context::builder().backend(Backend::Gloo).init()?;
    let vs = nn::VarStore::new(context.device());
    let mut model = nn::linear(vs.root(), 2, 1, Default::default());
    if context.rank() == 0 {
        // The other ranks get them by Ddp's broadcast.
        tch::no_grad(|| model.ws.copy_(input.get("weight").unwrap_or(&model.ws.copy())));
        let bias = get("bias")?;
        tch::no_grad(|| model.bs.as_mut().map(|b| b.copy_(bias)));
    }
    let ddp = Ddp::new(context.group(), &vs)?;
    match optimizer {
        "sgd" => steps(&context, &ddp, &model, (x, y), Sgd::new(&vs, SgdOptions { lr: 0.03, ..Default::default() })),
        "momentum" => {
            let options =
                SgdOptions { lr: 0.01, momentum: 0.9, weight_decay: 1e-3, nesterov: true, ..Default::default() };
            steps(&context, &ddp, &model, (x, y), Sgd::new(&vs, options))
        }
        "adamw" => {
            steps(&context, &ddp, &model, (x, y), AdamW::new(&vs, AdamWOptions { lr: 0.03, ..Default::default() }))
        }
        other => anyhow::bail!("no such optimizer: {other}"),
    }
}

fn steps(
    context: &Context,
    ddp: &Ddp,
    model: &nn::Linear,
    (x, y): (&Tensor, &Tensor),
    mut optimizer: impl Optimizer,
) -> Result<()> {
    let mut sampler = DistributedSampler::new(x.size()[0] as usize, context.world_size(), context.rank())?;
    let mut done = 0;
    for epoch in 0.. {
        sampler.set_epoch(epoch);
        for batch in sampler.indices()?.chunks(BATCH) {
            if done == STEPS {
                return Ok(());
            }
            let batch = Tensor::from_slice(batch);
            optimizer.zero_grad()?;
            let loss = ddp.forward(|| {
                model.forward(&x.index_select(0, &batch)).mse_loss(&y.index_select(0, &batch), Reduction::Mean)
            })?;
            ddp.backward(&loss)?;
            optimizer.step()?;
            println!("loss {} {:08x}", context.rank(), (loss.double_value(&[]) as f32).to_bits());
            done += 1;
        }
    }
    Ok(())
}
