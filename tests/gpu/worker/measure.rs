//! Times, by the GPU's own clock where there is a GPU.

use std::time::Instant;

use anyhow::Result;
use ddp_runtime::cuda::{self, Event, current_stream};
use tch::{Device, Tensor};

/// Waits until the device has finished all work.
pub fn synchronize(device: Device) -> Result<()> {
    if device.is_cuda() {
        cuda::synchronize(device)?;
    }
    Ok(())
}

/// A moment in the work of the current stream; on the CPU, the present.
pub enum Mark {
    Gpu(Event),
    Cpu(Instant),
}

impl Mark {
    pub fn now(device: Device) -> Result<Self> {
        if !device.is_cuda() {
            return Ok(Self::Cpu(Instant::now()));
        }
        let mut event = Event::with_timing()?;
        event.record(&current_stream(device)?)?;
        Ok(Self::Gpu(event))
    }

    /// Whether the device has reached it.
    pub fn is_done(&self) -> Result<bool> {
        match self {
            Self::Gpu(event) => Ok(event.is_done()?),
            Self::Cpu(_) => Ok(true),
        }
    }

    /// Waits until the device has reached it.
    pub fn wait(&self) -> Result<()> {
        match self {
            Self::Gpu(event) => Ok(event.synchronize()?),
            Self::Cpu(_) => Ok(()),
        }
    }

    /// Milliseconds from this moment to `end`. Waits for `end`.
    pub fn ms_until(&self, end: &Self) -> Result<f64> {
        end.wait()?;
        match (self, end) {
            (Self::Gpu(start), Self::Gpu(end)) => Ok(start.elapsed_ms(end)?),
            (Self::Cpu(start), Self::Cpu(end)) => Ok(end.duration_since(*start).as_secs_f64() * 1e3),
            _ => Ok(f64::NAN),
        }
    }
}

/// Milliseconds that the device takes for `work`.
pub fn device_ms<T>(device: Device, work: impl FnOnce() -> Result<T>) -> Result<f64> {
    let start = Mark::now(device)?;
    let _result = work()?;
    start.ms_until(&Mark::now(device)?)
}

pub fn ms_since(start: Instant) -> f64 {
    start.elapsed().as_secs_f64() * 1e3
}

pub fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Bytes that the tensors hold.
pub fn bytes_of<'a>(tensors: impl IntoIterator<Item = &'a Tensor>) -> f64 {
    tensors.into_iter().map(|tensor| tensor.numel() * tensor.kind().elt_size_in_bytes()).sum::<usize>() as f64
}

/// Gigabytes per second.
pub fn gb_per_s(bytes: f64, ms: f64) -> f64 {
    bytes / ms / 1e6
}
