//! Batches of a rank, made ahead of the training loop by worker threads.

mod batches;
mod catch;
mod ending;
mod intraop;
mod position;
mod shared;
mod tensors;
pub(super) mod transfer;
mod workers;

/// What worker threads are made of.
mod sync {
    pub use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
    pub use std::thread::{Builder, JoinHandle};

    pub(crate) use super::ending::join;
}

#[cfg(test)]
mod properties;
#[cfg(test)]
mod schedules;
#[cfg(test)]
mod tests;

use std::cell::Cell;
use std::fmt;
use std::sync::Arc;

use tch::Device;
use tracing::debug;

use crate::cuda::side_stream;
use crate::data::loader::batches::Cursor;
use crate::data::loader::transfer::Transfer;
use crate::data::loader::workers::{Load, Workers};
use crate::data::{BatchDataset, EvalSampler, Sampler};
use crate::worker::panics::caught;
use crate::worker::process::process;
use crate::worker::say::say;
use crate::{Context, DistributedSampler, Error, Result};

pub use batches::Batches;
pub use position::Position;
pub use shared::Shared;
pub use tensors::Tensors;

/// How many batches a worker makes ahead: PyTorch's `prefetch_factor`.
const PREFETCH: usize = 2;

/// Gives a rank its batches, epoch by epoch: PyTorch's `DataLoader` with a `DistributedSampler` inside.
///
/// Batches are in the sampler's order, whatever the number of workers. See the [module](crate::data) for a training
/// loop.
///
/// ```
/// # let context = ddp_runtime::Context::init()?;
/// use ddp_runtime::data::{DataLoader, TensorDataset};
///
/// let dataset = TensorDataset::new(tch::Tensor::from_slice(&[0i64, 1, 2, 3, 4, 5, 6]))?;
/// let loader = DataLoader::new(&context, dataset, 3)?.shuffle(false).drop_last(true).drop_last_batch(true);
/// let loader = loader.workers(2).prefetch(1);
/// assert_eq!(loader.batches_per_epoch(), 2);
/// let batches: Vec<_> = loader.epoch(0)?.collect::<Result<_, _>>()?;
/// assert_eq!(batches, [tch::Tensor::from_slice(&[0i64, 1, 2]), tch::Tensor::from_slice(&[3i64, 4, 5])]);
/// # Ok::<(), ddp_runtime::Error>(())
/// ```
pub struct DataLoader<D: BatchDataset, S = DistributedSampler> {
    dataset: Arc<D>,
    sampler: S,
    batch_size: usize,
    drop_last_batch: bool,
    workers: usize,
    prefetch: usize,
    transfer: Option<Transfer<D::Batch>>,
    position: Cell<Position>,
    resume: Cell<Option<Position>>,
    /// Whether an epoch without batches is still to be reported: by rank 0, once.
    tells_if_empty: Cell<bool>,
}

impl<D: BatchDataset> DataLoader<D> {
    /// Trains on `dataset` with batches of `batch_size` samples per rank: shuffled with seed 0, all ranks with the same
    /// number of samples (see [`DistributedSampler`]), without worker threads.
    ///
    /// # Errors
    /// [`Error::Invalid`] when `batch_size` is 0.
    pub fn new(context: &Context, dataset: D, batch_size: usize) -> Result<Self> {
        let sampler = DistributedSampler::new(dataset.len(), context.world_size(), context.rank())?;
        let loader = Self::with_sampler(dataset, sampler, batch_size)?;
        loader.tells_if_empty.set(context.is_rank0());
        Ok(loader)
    }

    /// Whether samples are permuted, differently in each epoch: on by default.
    pub fn shuffle(mut self, shuffle: bool) -> Self {
        self.sampler = self.sampler.shuffle(shuffle);
        self
    }

    /// The seed of the permutations: 0 by default. It must be the same on all ranks.
    pub fn seed(mut self, seed: u64) -> Self {
        self.sampler = self.sampler.seed(seed);
        self
    }

    /// Leave out the samples that can't be split evenly among the ranks, instead of repeating some: off by default.
    pub fn drop_last(mut self, drop_last: bool) -> Self {
        self.sampler = self.sampler.drop_last(drop_last);
        self
    }

    /// The position of the training loop, with the last batch that it was given counted as seen. It is the same on all
    /// ranks that have taken the same number of batches. Batches made ahead do not count.
    pub fn position(&self) -> Position {
        self.position.get()
    }

    /// Continues in the middle of an epoch: the next [`epoch`](Self::epoch) of this number gives what is left of it
    /// after the position's samples. Other epochs, and this one later, are complete.
    ///
    /// The loader needs the shuffle, seed and length of the one that was at this [`position`](Self::position). Its
    /// world size and batch size may be others: each sample that is left is seen exactly once, as
    /// [`DistributedSampler::indices_from`] says.
    ///
    /// ```
    /// # let context = ddp_runtime::Context::init()?;
    /// use ddp_runtime::data::{Batches, DataLoader, Position, TensorDataset};
    /// use tch::Tensor;
    ///
    /// let dataset = || TensorDataset::new(Tensor::arange(10, (tch::Kind::Int64, tch::Device::Cpu)));
    /// let loader = DataLoader::new(&context, dataset()?, 4)?.seed(1);
    /// let mut batches: Batches<Tensor> = loader.epoch(3)?;
    /// batches.next().expect("there are three")?;
    /// let position = loader.position();
    /// assert_eq!(position, Position { epoch: 3, samples: 4 });
    ///
    /// // In another run, with another batch size:
    /// let mut loader = DataLoader::new(&context, dataset()?, 6)?.seed(1);
    /// loader.resume_at(position);
    /// assert_eq!(loader.epoch(3)?.count(), 1);
    /// # Ok::<(), ddp_runtime::Error>(())
    /// ```
    pub fn resume_at(&mut self, position: Position) {
        self.resume.set(Some(position));
        self.position.set(position);
    }
}

impl<D: BatchDataset> DataLoader<D, EvalSampler> {
    /// Evaluates on `dataset` with batches of up to `batch_size` samples per rank: each sample goes to exactly one rank,
    /// in the dataset's order. Ranks may have different numbers of batches: see [`EvalSampler`].
    ///
    /// # Errors
    /// [`Error::Invalid`] when `batch_size` is 0.
    pub fn eval(context: &Context, dataset: D, batch_size: usize) -> Result<Self> {
        let sampler = EvalSampler::new(dataset.len(), context.world_size(), context.rank())?;
        let loader = Self::with_sampler(dataset, sampler, batch_size)?;
        loader.tells_if_empty.set(context.is_rank0());
        Ok(loader)
    }
}

impl<D: BatchDataset, S: Sampler> DataLoader<D, S> {
    /// A loader with your own sampler, over the same dataset.
    ///
    /// # Errors
    /// [`Error::Invalid`] when `batch_size` is 0.
    pub fn with_sampler(dataset: D, sampler: S, batch_size: usize) -> Result<Self> {
        if batch_size == 0 {
            return Err(Error::Invalid("the batch size must be at least 1".into()));
        }
        Ok(Self {
            dataset: Arc::new(dataset),
            sampler,
            batch_size,
            drop_last_batch: false,
            workers: 0,
            prefetch: PREFETCH,
            transfer: None,
            position: Cell::default(),
            resume: Cell::default(),
            tells_if_empty: Cell::new(true),
        })
    }

    /// Number of threads that make batches ahead of the loop: 0 by default, which makes them in the loop's thread when
    /// they are asked for. In a worker libtorch computes on one core, as in PyTorch's workers.
    pub fn workers(mut self, workers: usize) -> Self {
        self.workers = workers;
        self
    }

    /// Number of batches that each worker makes ahead: 2 by default, at least 1. (PyTorch's `prefetch_factor`.)
    pub fn prefetch(mut self, prefetch: usize) -> Self {
        self.prefetch = prefetch.max(1);
        self
    }

    /// Leave out an epoch's last batch if it is smaller than the others: off by default. (The `drop_last` of PyTorch's
    /// `DataLoader`; [`DistributedSampler::drop_last`] is another thing.)
    pub fn drop_last_batch(mut self, drop_last_batch: bool) -> Self {
        self.drop_last_batch = drop_last_batch;
        self
    }

    /// Moves batches to `device`. For a GPU they are first copied to pinned memory, in the worker threads if there are
    /// any, so that the loop does not wait for the GPU. With [`workers`](Self::workers), the next batch is copied on its own
    /// stream while the step computes, so two batches are on the GPU.
    pub fn device(mut self, device: Device) -> Self
    where
        D::Batch: Tensors,
    {
        self.transfer = Some(Transfer::to(device));
        self
    }

    /// The dataset.
    pub fn dataset(&self) -> &D {
        &self.dataset
    }

    /// Number of this rank's batches in a complete epoch.
    pub fn batches_per_epoch(&self) -> usize {
        self.batches(self.sampler.num_samples())
    }

    /// This rank's batches of epoch number `epoch` (from 0), or what is left of it after
    /// [`resume_at`](DataLoader::resume_at). Its worker threads start immediately.
    ///
    /// An empty epoch, such as one of a dataset with fewer samples than a batch with
    /// [`drop_last_batch`](Self::drop_last_batch), is reported on stderr, once.
    ///
    /// A batch's item is an [`Error::Sample`] or [`Error::Batch`] when the dataset returns an error or panics.
    ///
    /// # Errors
    /// The sampler's; [`Error::Invalid`] when no thread can be started.
    pub fn epoch(&self, epoch: u64) -> Result<Batches<'_, D::Batch>> {
        process().deferred.finish(); // the threads of the epoch before
        if self.batches_per_epoch() == 0 && self.tells_if_empty.take() {
            let (samples, ranks, batch) = (self.dataset.len(), self.sampler.num_replicas(), self.batch_size);
            let full = if self.drop_last_batch { "full " } else { "" };
            let (samples, ranks) = (count(samples, "sample"), count(ranks, "rank"));
            say(format_args!("warning: an epoch has no batches: {samples} for {ranks}, in {full}batches of {batch}"));
        }
        let resumed = self.resume.get().filter(|position| position.epoch == epoch);
        let start = resumed.unwrap_or(Position { epoch, samples: 0 });
        let seen = usize::try_from(start.samples).unwrap_or(usize::MAX);
        let indices = self.sampler.indices(epoch, seen)?;

        let (samples, batches) = (indices.len(), self.batches(indices.len()));
        debug!(epoch, samples, batches, workers = self.workers.min(batches), "epoch of a data loader started");
        let load = self.load(epoch, indices);
        let workers = match self.workers.min(batches) {
            0 => None,
            count => {
                let device = self.transfer.map(|transfer| transfer.device);
                let set_up = move || {
                    intraop::use_one_core();
                    side_stream::use_gpu(device)
                };
                Some(Workers::start(&load, batches, count, self.prefetch, set_up)?)
            }
        };
        if resumed.is_some() {
            self.resume.set(None);
        }
        self.position.set(start);
        let (batch_size, num_replicas) = (self.batch_size, self.sampler.num_replicas());
        let cursor = Cursor { next: 0, batches, batch_size, samples, num_replicas, start, position: &self.position };
        let start_copy = self.transfer.and_then(|transfer| transfer.start_copy());
        Ok(Batches { load, workers, transfer: self.transfer, start_copy, ahead: None, cursor })
    }

    /// How many batches `samples` samples make.
    fn batches(&self, samples: usize) -> usize {
        match self.drop_last_batch {
            true => samples / self.batch_size,
            false => samples.div_ceil(self.batch_size),
        }
    }

    /// Makes an epoch's batches from their slices of `indices`.
    fn load(&self, epoch: u64, indices: Vec<i64>) -> Arc<Load<D::Batch>> {
        let (dataset, batch_size, transfer) = (Arc::clone(&self.dataset), self.batch_size, self.transfer);
        Arc::new(move |batch| {
            let start = batch * batch_size;
            let end = (start + batch_size).min(indices.len());
            let batch = catch::batch(&*dataset, epoch, &indices[start..end])?;
            match transfer {
                Some(Transfer { device, pin, .. }) => caught(|| pin(batch, device)),
                None => Ok(batch),
            }
        })
    }
}

fn count(n: usize, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

impl<D: BatchDataset, S: fmt::Debug> fmt::Debug for DataLoader<D, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DataLoader")
            .field("sampler", &self.sampler)
            .field("batch_size", &self.batch_size)
            .field("workers", &self.workers)
            .field("position", &self.position.get())
            .finish_non_exhaustive()
    }
}
