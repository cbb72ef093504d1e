//! Datasets and the loader that feeds them to the ranks: what `torch.utils.data` is to a Python program.
//!
//! A [`DataLoader`] splits each epoch among the ranks with a [`DistributedSampler`](crate::DistributedSampler), gathers
//! batches in worker threads ahead of the training loop, and knows its position, so that a run can resume in the middle
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
//!   can be read in one piece, [`BatchDataset`]. Augmentation goes into [`Dataset::get_in_epoch`] or
//!   [`BatchDataset::batch_in_epoch`].

mod collate;
mod dataset;
pub mod idx;
pub(crate) mod loader;
pub(crate) mod sampler;
mod tensor_dataset;
mod tokens;

pub use collate::{Collate, TensorStack};
pub use dataset::{BatchDataset, Collated, Dataset, Stacked, sample_seed};
pub use loader::{Batches, DataLoader, Position, Shared, Tensors};
pub use sampler::{EvalSampler, Sampler, mean_over_ranks};
pub use tensor_dataset::TensorDataset;
pub use tokens::{TokenDataset, TokenKind};
