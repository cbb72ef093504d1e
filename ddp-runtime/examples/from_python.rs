//! `docs/from-python/train.py`, line by line: see `docs/from-python.md`.
//! `cargo ddp run -p ddp-runtime --example from_python --nproc 2 -- FOLDER 4 2`

use std::process::ExitCode;

use ddp_runtime::data::{DataLoader, Dataset};
use ddp_runtime::optim::{Optimizer, Sgd, SgdOptions};
use ddp_runtime::{Context, Ddp, Result, Run, Snapshots};
use tch::nn::{self, Module, VarStore};
use tch::{Kind, Reduction, Tensor};

struct Samples {
    x: Vec<[f32; 20]>,
}

impl Dataset for Samples {
    type Item = (Tensor, Tensor);

    fn len(&self) -> usize {
        self.x.len()
    }

    fn get(&self, index: usize) -> Result<Self::Item> {
        let x = Tensor::from_slice(&self.x[index]);
        let y = x.sum(Kind::Float).unsqueeze(0);
        Ok((x, y))
    }
}

impl Samples {
    fn new(size: usize) -> Self {
        let number = |i: usize, j: usize| ((i * 20 + j) as f32 * 0.7).sin();
        Self { x: (0..size).map(|i| std::array::from_fn(|j| number(i, j))).collect() }
    }
}

fn train(folder: &str, total_epochs: u64, save_every: u64) -> Result<()> {
    let context = Context::init()?;
    let device = context.device();

    let dataset = Samples::new(2048).stacked();
    let mut loader = DataLoader::new(&context, dataset, 32)?.workers(1).device(device);

    let vs = VarStore::new(device);
    let model = nn::linear(vs.root(), 20, 1, Default::default());
    let optimizer = Sgd::new(&vs, SgdOptions { lr: 0.01, ..Default::default() });
    let snapshots = Snapshots::open(&context, folder)?.every_epochs(save_every);
    let mut run = Run::new(&context, &vs, optimizer).snapshots(snapshots).resume(&mut loader)?;
    let ddp = Ddp::new(context.group(), &vs)?;

    while let Some(epoch) = run.next_epoch(total_epochs) {
        let mut last = None;
        for batch in loader.epoch(epoch)? {
            let (x, y) = batch?;
            run.optimizer.zero_grad()?;
            let loss = ddp.forward(|| model.forward(&x).mse_loss(&y, Reduction::Mean))?;
            ddp.backward(&loss)?;
            run.optimizer.step()?;
            run.step_done(&loader)?;
            last = Some(loss);
        }
        if let (true, Some(loss)) = (context.is_rank0(), last) {
            println!("epoch {}: loss {:.6}", epoch + 1, loss.double_value(&[]));
        }
        run.epoch_done()?;
    }
    run.finish()
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let number = |i: usize, default| args.get(i).and_then(|text| text.parse().ok()).unwrap_or(default);
    ddp_runtime::main(|| train(args.first().map_or("snapshots", String::as_str), number(1, 4), number(2, 2)))
}
