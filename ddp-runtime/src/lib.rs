//! Distributed data-parallel training for [tch](https://docs.rs/tch): what `torch.distributed`,
//! `DistributedDataParallel`, `DistributedSampler` and an optimizer's `state_dict` are to a Python program, on PyTorch's
//! own C++ classes (c10d's stores and process groups, the DDP `Reducer`, the fused optimizer kernels). What it computes
//! is compared with Python's bit by bit in its tests.
//!
//! A worker is started by `cargo ddp run` (or torchrun) once per GPU; it finds its place in the environment.
//!
//! ```
//! use ddp_runtime::data::{DataLoader, TensorDataset};
//! use ddp_runtime::optim::{Optimizer, Sgd, SgdOptions};
//! use ddp_runtime::{Context, Ddp, Run};
//! use tch::{Kind, Tensor, nn, nn::Module};
//!
//! fn main() -> std::process::ExitCode {
//!     ddp_runtime::main(train)
//! }
//!
//! fn train() -> ddp_runtime::Result<()> {
//!     let context = Context::init()?;
//!     let x = Tensor::randn([64, 2], (Kind::Float, context.device()));
//!     let mut train = DataLoader::new(&context, TensorDataset::new(x)?, 8)?;
//!     let vs = nn::VarStore::new(context.device());
//!     let model = nn::linear(vs.root(), 2, 1, Default::default());
//!     let ddp = Ddp::new(context.group(), &vs)?; // all ranks now hold rank 0's parameters
//!     let optimizer = Sgd::new(&vs, SgdOptions { lr: 0.03, ..Default::default() });
//!
//!     // With `.snapshots(…)` the run is saved and resumed.
//!     let mut run = Run::new(&context, &vs, optimizer).resume(&mut train)?;
//!     while let Some(epoch) = run.next_epoch(2) {
//!         for batch in train.epoch(epoch)? {
//!             let x = batch?;
//!             run.optimizer.zero_grad()?;
//!             let loss = ddp.forward(|| model.forward(&x).square().mean(Kind::Float))?;
//!             ddp.backward(&loss)?; // gradients are all-reduced while backward runs
//!             run.optimizer.step()?;
//!             run.step_done(&train)?;
//!         }
//!         run.epoch_done()?;
//!     }
//!     run.finish()
//! }
//! ```
//!
//! # What is where
//! [`Run`] is what a training loop is written with; [`Trainer`] is a loop that is written already. The crate's `examples/` have
//! a loop with everything, every collective and every scheduler.
//!
//! | Python | here |
//! |---|---|
//! | `init_process_group`, `dist.all_reduce` … | [`Context`], [`ProcessGroup`] |
//! | `DistributedDataParallel`, `no_sync`, `join` | [`Ddp`] |
//! | `SyncBatchNorm` | [`nn::SyncBatchNorm`] |
//! | `register_comm_hook`, PowerSGD | [`comm_hook`] |
//! | `torch.optim`, `clip_grad_norm_` | [`optim`] |
//! | `ZeroRedundancyOptimizer` | [`optim::ZeroRedundancy`] |
//! | `torch.optim.lr_scheduler` | [`lr_scheduler`] |
//! | `torch.autocast`, `GradScaler` | [`amp`] |
//! | `torch.cuda`: streams, events, memory | [`cuda`] |
//! | `torch.backends`, `use_deterministic_algorithms` | [`backends`] |
//! | `Dataset`, `DataLoader`, `DistributedSampler` | [`data`], [`DistributedSampler`] |
//! | `torch.save`, `torch.load` | [`Run`] with [`Snapshots`]; [`SavedModel`] for inference |
//! | `state_dict`, `load_state_dict` | [`Stateful`] |
//! | `torch.distributed.elastic`'s `record` | [`main`] |
//! | `SummaryWriter` | [`Metrics`](metrics::Metrics) |
//! | `torch.distributed.breakpoint` | [`debug::break_here`] |
//!
//! # What runs where
//! With CUDA each worker uses the GPU numbered `LOCAL_RANK` among the visible ones, and NCCL; without, the CPU and Gloo.
//! The NCCL path is compiled whenever libtorch has CUDA. It has run on one NVIDIA H200, with one rank and with two ranks on
//! that GPU; it has not run on several GPUs yet.
//!
//! # Building
//! libtorch 2.13.0 and a C++20 compiler are needed; `cargo ddp setup` provides the former. The build script passes
//! `DEP_DDP_RUNTIME_LIBTORCH_LIB` (the folder of the libraries, for an rpath) and `DEP_DDP_RUNTIME_CUDA` (0 or 1) on to
//! the build script of a program that depends on this crate. `DDP_WITHOUT_NCCL=1` leaves NCCL out.
//!
//! # Exit codes
//! Those of [`main`]: 0, 1 after an error, 101 after a panic, and 75 when the run was asked to stop (SIGTERM,
//! SIGINT, SIGUSR1), has saved a snapshot on all ranks, and resumes from it when it is started again.
//!
//! # Conventions
//! - Plain settings are a struct with PyTorch's names and defaults, written as `SgdOptions { lr: 0.1, ..Default::default() }`. A
//!   new field is a change of the minor version. What holds resources ([`Run`], [`Trainer`], [`Snapshots`],
//!   [`DataLoader`](data::DataLoader), [`ContextBuilder`]) is set up by methods that take and return it. `new` takes what is
//!   needed, `with_options` also takes settings.
//! - Enums of errors and events, and structs of results that a program only reads, are `#[non_exhaustive]`. Structs of settings are
//!   not, as `..Default::default()` would be refused.
//! - tch's types are part of this crate's interface: [`tch`] is the version that it uses.
//!
//! # Errors
//! libtorch's errors come with their first line; `DDP_BACKTRACE=1` keeps the C++ stack trace.
//!
//! # Diagnostics
//! With `DDP_LOG=debug` (a filter of tracing-subscriber's `EnvFilter`) a worker prints diagnostics on stderr, with
//! `DDP_LOG_FORMAT=json` as JSON lines. A program with its own [tracing](https://docs.rs/tracing) subscriber, installed before
//! [`Context::init`], gets them instead: spans `run`, `epoch`, `step` and `snapshot`, and events in them.

/// The guide's pages, compiled with the tests.
#[cfg(doctest)]
mod guide {
    #[doc = include_str!("../../docs/data-loading.md")]
    struct DataLoading;
    #[doc = include_str!("../../docs/snapshots.md")]
    struct Snapshots;
}

mod dist;
mod error;
mod memory;
mod os;
mod snapshot;
mod sys;
mod train;
mod worker;

pub mod backends;
pub mod cuda;
pub mod data;
pub mod metrics;
pub mod nn;
#[cfg(feature = "clap")]
pub mod settings;

#[doc(inline)]
pub use dist::comm_hook;
#[doc(inline)]
pub use train::{amp, lr_scheduler, optim};
#[doc(inline)]
pub use worker::debug;

pub use data::sampler::distributed::DistributedSampler;
pub use dist::collectives::P2pOp;
pub use dist::context::{Context, ContextBuilder};
pub use dist::ddp::{CommHook, Ddp, DdpOptions, JoinDivisor};
pub use dist::process_group::{Backend, ProcessGroup, ReduceOp};
pub use dist::work::Work;
pub use dist::world::{Master, World};
pub use error::{Error, Result};
pub use snapshot::{Goal, Progress, SavedModel, Snapshots};
pub use tch;
pub use train::loss_guard::{LossGuard, NonFinite};
pub use train::mean::Mean;
pub use train::run::{Resumable, Run};
pub use train::state_dict::StateDict;
pub use train::stateful::Stateful;
pub use train::trainer::{EpochReport, Learner, Outcome, StepEvery, Trainer};
pub use worker::main::main;
pub(crate) use worker::step_report::StepReport;
