//! A run that prints each step's batch, a random number and the bits of the weights after it: `at_step SNAPSHOTS EPOCHS
//! EVERY_STEPS KEEP_EVERY`. If EVERY_STEPS is not a number, the run has no snapshots.

use std::process::ExitCode;

use anyhow::Result;
use ddp_runtime::data::{DataLoader, Dataset};
use ddp_runtime::metrics::Metrics;
use ddp_runtime::optim::{Optimizer, Sgd, SgdOptions};
use ddp_runtime::{Context, Ddp, DdpOptions, Run, Snapshots};
use tch::nn::{self, ModuleT, VarStore};
use tch::{Kind, Tensor};

const SAMPLES: usize = 96;
const BATCH: usize = 2;

pub(crate) fn main() -> ExitCode {
    let args: Vec<String> = ddp_tests::args().collect();
    ddp_runtime::main(|| train(&args))
}

/// Each sample has its index.
struct Numbers;

impl Dataset for Numbers {
    type Item = (Tensor, i64);

    fn len(&self) -> usize {
        SAMPLES
    }

    fn get(&self, index: usize) -> ddp_runtime::Result<Self::Item> {
        let x = (Tensor::arange(8, tch::kind::FLOAT_CPU) + index as i64 * 13).remainder(17) / 17;
        Ok((x, index as i64))
    }
}

fn train(args: &[String]) -> Result<()> {
    let (dir, epochs, keep): (_, u64, u64) = (&args[0], args[1].parse()?, args[3].parse()?);
    let every: Option<u64> = args[2].parse().ok();
    let context = Context::init()?;
    tch::manual_seed(7 + context.rank() as i64);
    let vs = VarStore::new(context.device());
    let model = nn::seq_t()
        .add(nn::linear(vs.root() / "in", 8, 16, Default::default()))
        .add_fn_t(|x, train| x.relu().dropout(0.2, train))
        .add(nn::linear(vs.root() / "out", 16, 1, Default::default()));
    let options = DdpOptions { first_bucket_bytes: 64, bucket_cap_bytes: 256, ..Default::default() };
    let ddp = Ddp::with_options(context.group(), &vs, options)?;
    let optimizer = Sgd::new(&vs, SgdOptions { lr: 0.05, momentum: 0.9, ..Default::default() });
    let mut loader = DataLoader::new(&context, Numbers.stacked(), BATCH)?.seed(3);

    let metrics = Metrics::open_in(&context, format!("{dir}/metrics"))?;
    let mut run = Run::new(&context, &vs, optimizer).metrics(&metrics);
    if let Some(every) = every {
        run = run.snapshots(Snapshots::open(&context, dir)?.every_steps(every).keep_every(keep));
    }
    let mut run = run.resume(&mut loader)?;
    while let Some(epoch) = run.next_epoch(epochs) {
        for batch in loader.epoch(epoch)? {
            let (x, index) = batch?;
            run.optimizer.zero_grad()?;
            let target = index.remainder(7).to_kind(Kind::Float).unsqueeze(1);
            let loss = ddp.forward(|| model.forward_t(&x, true).mse_loss(&target, tch::Reduction::Mean))?;
            ddp.backward(&loss)?;
            run.optimizer.step()?;
            run.log("loss", &loss)?;
            let random = Tensor::rand([1], tch::kind::FLOAT_CPU).double_value(&[0]);
            let mut weights: Vec<_> = vs.variables().into_iter().collect();
            weights.sort_by(|(a, _), (b, _)| a.cmp(b));
            let bytes: Vec<u8> = weights
                .into_iter()
                .flat_map(|(_, tensor)| Vec::<f32>::try_from(tensor.flatten(0, -1)).unwrap_or_default())
                .flat_map(f32::to_le_bytes)
                .collect();
            let (rank, step, samples) = (context.rank(), run.step() + 1, Vec::<i64>::try_from(index)?);
            println!("step {rank} {step} {:08x} {random} {samples:?}", crc32c::crc32c(&bytes));
            run.step_done(&loader)?;
        }
        run.epoch_done()?;
    }
    run.finish()?;
    Ok(())
}
