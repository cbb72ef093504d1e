//! Samplers, loaders and runs inside and outside of loops, for a debugger to examine: `tests/debug/formatters.py`.

#![allow(unused_variables, clippy::unwrap_used, reason = "they are there to be looked at")]

use std::mem::{ManuallyDrop, MaybeUninit};

use ddp_runtime::data::{DataLoader, EvalSampler, Position, Sampler, TensorDataset};
use ddp_runtime::optim::{Sgd, SgdOptions};
use ddp_runtime::{Context, DistributedSampler, Progress, Result, Run};
use tch::Tensor;
use tch::nn::{Init, VarStore};

/// Every second sample.
struct Even;

impl Sampler for Even {
    fn num_replicas(&self) -> usize {
        1
    }

    fn num_samples(&self) -> usize {
        50
    }

    fn indices(&self, _epoch: u64, seen: usize) -> Result<Vec<i64>> {
        Ok((0..100).step_by(2).skip(seen).collect())
    }
}

/// A variable before it has a value, and after its value is dropped.
fn filled<T>(byte: u8) -> ManuallyDrop<T> {
    let mut memory = MaybeUninit::<ManuallyDrop<T>>::uninit();
    // SAFETY: it is this long.
    unsafe { memory.as_mut_ptr().write_bytes(byte, 1) };
    // SAFETY: only a debugger reads it, and nothing drops it.
    unsafe { memory.assume_init() }
}

fn main() {
    let context = Context::init().unwrap();
    let dataset = || TensorDataset::new(Tensor::arange(100, tch::kind::INT64_CPU)).unwrap();
    let mut loader = DataLoader::new(&context, dataset(), 8).unwrap().seed(7).workers(1);
    loader.resume_at(Position { epoch: 3, samples: 40 });
    let evaluation = DataLoader::eval(&context, dataset(), 16).unwrap();
    let own = DataLoader::with_sampler(dataset(), Even, 20).unwrap();
    let mut batches = evaluation.epoch(0).unwrap();
    let _first = batches.next().unwrap().unwrap();
    let mut own_batches = own.epoch(5).unwrap();
    let _own_first = own_batches.next().unwrap().unwrap();

    let sampler = DistributedSampler::new(100, 3, 2).unwrap().shuffle(false).drop_last(true);
    let eval_sampler = EvalSampler::new(100, 3, 2).unwrap();
    let moved = DistributedSampler::new(100, 3, 2).unwrap();
    let now_elsewhere = [moved];
    let zeroed: ManuallyDrop<DataLoader<TensorDataset<Tensor>>> = filled(0);
    let garbage: ManuallyDrop<DataLoader<TensorDataset<Tensor>>> = filled(0xa5);
    let no_sampler: ManuallyDrop<DistributedSampler> = filled(0xa5);

    for batch in loader.epoch(3).unwrap() {
        let batch = batch.unwrap();
        std::hint::black_box(&now_elsewhere); // BREAK
    }
    by_hand(&sampler, Progress::default());
    with_run(&context).unwrap();
    println!("rank {}", context.rank());
}

/// The loop counts samples, which the sampler does not.
fn by_hand(sampler: &DistributedSampler, mut progress: Progress) {
    while progress.samples < 99 {
        progress.samples += 33;
        std::hint::black_box(&progress); // COUNTED
    }
}

/// The run counts samples, and saves what it has counted.
fn with_run(context: &Context) -> Result<()> {
    let vs = VarStore::new(context.device());
    let _weight = vs.root().var("weight", &[1], Init::Const(0.0));
    let mut train = DataLoader::new(context, TensorDataset::new(Tensor::arange(100, tch::kind::INT64_CPU))?, 8)?;
    let mut run = Run::new(context, &vs, Sgd::new(&vs, SgdOptions::default())).resume(&mut train)?;
    let sampler = DistributedSampler::new(100, 1, 0)?.shuffle(false);
    let garbage: ManuallyDrop<Run<Sgd>> = filled(0xa5);
    while let Some(epoch) = run.next_epoch(1) {
        for batch in train.epoch(epoch)? {
            let batch = batch?;
            run.step_done(&train)?;
            std::hint::black_box(&run); // RUN
        }
        run.epoch_done()?;
    }
    run.finish()
}
