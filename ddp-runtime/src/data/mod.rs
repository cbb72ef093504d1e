//! Datasets and the loader that feeds them to the ranks: what `torch.utils.data` is to a Python program.
//!
//! A [`DataLoader`] splits each epoch among the ranks with a [`DistributedSampler`](crate::DistributedSampler), gathers
//! batches in worker threads ahead of the training loop, and knows where it stands, so that a run can go on in the middle
//! of an epoch, with another number of ranks if need be.
//!
//! ```
//! use ddp_runtime::Context;
//! use ddp_runtime::data::{DataLoader, TensorDataset, mean_over_ranks};
//! use tch::{Kind, Tensor};
//!
//! # fn main() -> Result<(), ddp_runtime::Error> {
//! let context = Context::init()?;
//! let x = Tensor::randn([100, 3], (Kind::Float, tch::Device::Cpu));
//! let y = x.sum_dim_intlist(1, false, Kind::Float);
//!
//! let train = TensorDataset::new((x.shallow_clone(), y.shallow_clone()))?;
//! let loader = DataLoader::new(&context, train, 8)?.seed(1).workers(2).device(context.device());
//! for epoch in 0..2 {
//!     for batch in loader.epoch(epoch)? {
//!         let (x, y) = batch?; // [8, 3] and [8]; the last batch may be smaller
//!         assert_eq!(x.size()[0], y.size()[0]);
//!         let _position = loader.position(); // goes into a snapshot; `resume_at` takes it
//!     }
//! }
//!
//! // Evaluation: every sample counts once, so ranks may have different numbers of batches.
//! let eval = DataLoader::eval(&context, TensorDataset::new((x, y))?, 32)?;
//! let (mut loss, mut count) = (Tensor::zeros([], (Kind::Float, context.device())), 0);
//! for batch in eval.epoch(0)? {
//!     let (x, y) = batch?;
//!     loss += (x.mean_dim(1, false, Kind::Float) - &y).square().sum(Kind::Float);
//!     count += y.size()[0];
//! }
//! println!("loss {:.4}", mean_over_ranks(context.group(), &loss, count)?);
//! # Ok(())
//! # }
//! ```
//!
//! # Which dataset
//! - [`TensorDataset`]: everything is in memory; a batch is one `index_select` per tensor.
//! - [`TokenDataset`]: windows of a token file, for language models; the file is mapped, not read.
//! - [`idx`]: MNIST's files as tensors.
//! - Your own: implement [`Dataset`] (one sample at a time; [`Dataset::stacked`] makes batches of them) or, where a batch
//!   can be had at once, [`BatchDataset`]. Augmentation goes into [`Dataset::get_in_epoch`] or
//!   [`BatchDataset::batch_in_epoch`].

mod batches;
pub(crate) mod catch;
mod collate;
mod dataset;
mod ending;
mod eval;
pub mod idx;
mod intraop;
mod loader;
mod sampler;
mod shared;
mod tensor_dataset;
mod tensors;
mod tokens;
mod transfer;
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

pub use batches::Batches;
pub use collate::{Collate, Collated, Stacked, TensorStack};
pub use dataset::{BatchDataset, Dataset, sample_seed};
pub(crate) use ending::is_busy;
pub use eval::{EvalSampler, mean_over_ranks};
pub use loader::{DataLoader, Position};
pub use sampler::Sampler;
pub use shared::Shared;
pub use tensor_dataset::TensorDataset;
pub use tensors::Tensors;
pub use tokens::{TokenDataset, TokenKind};
