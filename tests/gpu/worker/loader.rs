//! The time that the loader's copies to the GPU add to a step.

use std::collections::VecDeque;

use anyhow::{Result, ensure};
use ddp_runtime::Context;
use ddp_runtime::data::{BatchDataset, DataLoader, Shared};
use tch::{Device, Kind, Tensor};

use crate::measure::{Mark, bytes_of, device_ms, gb_per_s, median};
use crate::need_ranks;

/// Different batches in memory.
const PREPARED: usize = 8;
const WARM_UP: usize = 30;
const STEPS: usize = 100;

/// Batches that are in memory already. All elements of a batch are its number.
struct Prepared(Vec<Shared<Tensor>>);

impl Prepared {
    fn new(width: i64, pinned_for: Option<Device>) -> Result<Self> {
        let batch = |number: usize| -> Result<_> {
            let batch = Tensor::full([width, width], number as i64, (Kind::Float, Device::Cpu));
            let batch = match pinned_for {
                Some(device) if device.is_cuda() => batch.f_pin_memory(device)?,
                _ => batch,
            };
            Ok(Shared::new(batch)?)
        };
        Ok(Self((0..PREPARED).map(batch).collect::<Result<_>>()?))
    }
}

impl BatchDataset for Prepared {
    type Batch = Tensor;

    fn len(&self) -> usize {
        WARM_UP + STEPS
    }

    fn batch(&self, indices: &[i64]) -> ddp_runtime::Result<Tensor> {
        self.0[indices[0].unsigned_abs() as usize % PREPARED].get()
    }
}

/// Matrix products that take longer than the copy of a batch.
struct Work {
    device: Device,
    /// Products with it change nothing if all elements are equal.
    mean: Tensor,
    products: usize,
}

impl Work {
    /// The first, the last and one computed element: all are the batch's number.
    fn step(&self, batch: &Tensor) -> Tensor {
        let y = (0..self.products).fold(batch.shallow_clone(), |y, _| y.matmul(&self.mean));
        Tensor::stack(&[batch.get(0).get(0), batch.get(-1).get(-1), y.get(-1).get(0)], 0)
    }

    /// The median milliseconds of a step. The loop is at most `ahead` steps ahead of the device.
    fn steps(&self, batches: impl Iterator<Item = Result<Tensor>>, ahead: usize) -> Result<f64> {
        let (mut pending, mut times, mut seen) = (VecDeque::new(), Vec::new(), Vec::new());
        for batch in batches {
            seen.push(self.step(&batch?));
            pending.push_back(Mark::now(self.device)?);
            while pending.len() > ahead.max(1) {
                let Some(first) = pending.pop_front() else { break };
                times.push(first.ms_until(&pending[0])?);
            }
        }
        while pending.len() > 1 {
            let Some(first) = pending.pop_front() else { break };
            times.push(first.ms_until(&pending[0])?);
        }
        for (number, values) in seen.iter().enumerate() {
            let expected = (number % PREPARED) as f64;
            let values: Vec<f64> = (0..3).map(|i| values.double_value(&[i])).collect();
            ensure!(values.iter().all(|value| *value == expected), "batch {number} holds {values:?}, not {expected}");
        }
        Ok(median(times.split_off(WARM_UP.min(times.len() / 2))))
    }

    fn with_loader(&self, context: &Context, dataset: Prepared, ahead: usize) -> Result<f64> {
        let workers = if self.device.is_cuda() { 8 } else { 1 };
        let loader = DataLoader::new(context, dataset, 1)?.shuffle(false).workers(workers).device(self.device);
        self.steps(loader.epoch(0)?.map(|batch| Ok(batch?)), ahead)
    }

    fn without_loader(&self, dataset: &Prepared) -> Result<f64> {
        let resident: Vec<Tensor> =
            dataset.0.iter().map(|batch| Ok(batch.get()?.to_device(self.device))).collect::<Result<_>>()?;
        self.steps((0..WARM_UP + STEPS).map(|i| Ok(resident[i % PREPARED].shallow_clone())), 2)
    }
}

/// Steps with the loader against the same steps on batches that stay on the device. Most loops look at a loss now and then, so
/// they are a few steps ahead of the GPU; one that never does may be as far ahead as the GPU's queue is long.
pub fn overlap() -> Result<()> {
    let context = Context::init()?;
    need_ranks(&context, 1)?;
    let device = context.device();
    let width = if device.is_cuda() { 4096 } else { 256 };
    let pageable = || Prepared::new(width, None);
    let pinned = || Prepared::new(width, Some(device));

    let batch = pinned()?.0[0].get()?;
    let copy = || -> Result<f64> { device_ms(device, || Ok(batch.f_to_device_(device, Kind::Float, true, true)?)) };
    copy()?;
    let copy_ms = median((0..20).map(|_| copy()).collect::<Result<Vec<_>>>()?);
    let mean = Tensor::full([width, width], 1.0 / width as f64, (Kind::Float, device));
    let mut work = Work { device, mean, products: 4 };
    let on_device = batch.to_device(device);
    let product = || device_ms(device, || Ok(work.step(&on_device)));
    product()?;
    let product_ms = median((0..5).map(|_| product()).collect::<Result<Vec<_>>>()?) / 4.0;
    work.products = (6.0 * copy_ms / product_ms).ceil().clamp(1.0, 64.0) as usize;

    let resident = pageable()?;
    let before = work.without_loader(&resident)?;
    let from_pageable = work.with_loader(&context, pageable()?, 2)?;
    let from_pinned = work.with_loader(&context, pinned()?, 2)?;
    let unbounded = work.with_loader(&context, pageable()?, usize::MAX)?;
    let after = work.without_loader(&resident)?;
    let without = (before + after) / 2.0;
    let percent = |with: f64| (with - without) / copy_ms * 100.0;
    let gigabytes = gb_per_s(bytes_of([&batch]), copy_ms);
    println!(
        "loader_overlap on {device:?}: a copy takes {copy_ms:.3} ms ({gigabytes:.1} GB/s), a step {without:.3} ms without the \
         loader ({before:.3}, {after:.3}); with it, of a copy's time more: {:.1} % (goal: at most 10 %), {:.1} % from pinned \
         batches, {:.1} % if the loop never waits",
        percent(from_pageable),
        percent(from_pinned),
        percent(unbounded)
    );
    if device.is_cuda() {
        ensure!(without > 3.0 * copy_ms, "a step takes {without:.3} ms, and hides no copy of {copy_ms:.3} ms");
        ensure!(percent(from_pageable) < 50.0, "the copies do not run next to the steps");
    }
    Ok(())
}
