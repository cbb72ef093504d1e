//! A loader in a real worker: `loader ACTION WORKERS`, with WORKERS threads.

use std::process::ExitCode;

use anyhow::{Result, bail, ensure};
use ddp_runtime::Context;
use ddp_runtime::data::{DataLoader, Dataset, TensorDataset, mean_over_ranks};
use tch::{Kind, Tensor};

pub(crate) fn main() -> ExitCode {
    let args: Vec<String> = ddp_tests::args().collect();
    ddp_runtime::main(|| work(&args[0], args[1].parse()?))
}

fn work(action: &str, workers: usize) -> Result<()> {
    let context = Context::init()?;
    if action == "mean" {
        return mean(&context, workers);
    }
    let loader = DataLoader::new(&context, Torn.stacked(), 4)?.shuffle(false).workers(workers);
    for epoch in 0..2 {
        let mut batches = 0;
        for batch in loader.epoch(epoch)? {
            match batch {
                Err(err) if action == "fail" => return Err(err.into()),
                Err(err) => println!("skipped: {err}"),
                Ok(_) => batches += 1,
            }
        }
        println!("epoch {epoch} had {batches} batches");
    }
    match action {
        "go-on" => Ok(()),
        "fail-later" => bail!("the disk is full"),
        "panic-later" => panic!("the model is gone"),
        other => bail!("no such action: {other}"),
    }
}

/// A dataset that panics at sample 9.
struct Torn;

impl Dataset for Torn {
    type Item = i64;

    fn len(&self) -> usize {
        20
    }

    fn get(&self, index: usize) -> ddp_runtime::Result<i64> {
        assert!(index != 9, "the picture is torn");
        Ok(index as i64)
    }
}

/// Means over datasets that can't be split evenly, one of them with fewer samples than ranks.
fn mean(context: &Context, workers: usize) -> Result<()> {
    for len in [1, 2, 10, 31] {
        let x = Tensor::arange(len, (Kind::Float, tch::Device::Cpu)).square();
        let expected = x.mean(Kind::Double).double_value(&[]);
        let eval = DataLoader::eval(context, TensorDataset::new(x)?, 3)?.workers(workers).device(context.device());
        let (mut sum, mut count) = (Tensor::zeros([], (Kind::Float, context.device())), 0);
        for batch in eval.epoch(0)? {
            let batch = batch?;
            sum += batch.sum(Kind::Float);
            count += batch.size()[0];
        }
        let mean = mean_over_ranks(context.group(), &sum, count)?;
        ensure!((mean - expected).abs() < 1e-9, "the mean of {len} is {mean} and not {expected}");
    }
    println!("all means are right");
    Ok(())
}
