//! Checks of ddp-runtime on a GPU, with one rank or with two ranks on one device: `gpu_checks ACTION ...`. Every rank checks
//! its own results, and exits with code 0 if they are right. All actions also run on the CPU with Gloo, so that the checks
//! themselves can be tried without a GPU; GPU_CHECKS_NEED_GPU makes that an error.
//!
//! | action | ranks | what it checks |
//! |---|---|---|
//! | `probe` | 1, 2 | the ranks reach each other |
//! | `collectives` | 1, 2 | the results of all collectives |
//! | `exchange` | 2 | `send_async` first on both ranks (hangs on NCCL, as in Python) |
//! | `differ device\|strides\|shape` | 2 | tensors that differ between ranks are an error on all of them |
//! | `dropped` | 1, 2 | an operation that is dropped without waiting overwrites nothing |
//! | `leave` | 2 | a rank returns while the GPU still has work that the other rank needs |
//! | `late SECONDS` | 2 | a rank joins its first collective late |
//! | `compare` | 1, 2 | measures what the comparison of calls costs |
//! | `subgroup` | 1, 2 | a subgroup that is dropped before its result is read |
//! | `groups` | 2 | eager connections, split groups, a high-priority stream, `batch_send_recv` |
//! | `train` | 1, 2 | losses with DDP, against one model on the CPU |
//! | `gloo_cuda [send]` | 2 | Gloo with CUDA tensors (`send`: messages between two ranks) |
//! | `resume DIR STEPS DIE_AT` | 1, 2 | resuming after SIGKILL |
//! | `seeded` | 1 | random numbers of a GPU that the snapshot does not have |
//! | `snapshot_race DIR` | 1, 2 | steps that change the model while it is copied for a snapshot |
//! | `snapshot_speed DIR` | 1 | measures saving and loading 2 GB |
//! | `loader_overlap` | 1 | measures what the loader adds to a step |
//! | `hidden_sync [PART]` | 1, 2 | which parts of a training loop wait for the GPU |
//! | `fail HOW` | 2 | the last rank fails: error, panic, exit, kill, sleep, assert, memory, metrics |

mod collectives;
mod comparison;
mod failures;
mod groups;
mod loader;
mod measure;
mod snapshots;
mod training;
mod waits;

use std::process::ExitCode;

use anyhow::{Context as _, Result, bail, ensure};
use ddp_runtime::Context;
use tch::{Cuda, Kind, Tensor};

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    ddp_runtime::main(|| run(&args))
}

fn run(args: &[&str]) -> Result<()> {
    let needs_gpu = std::env::var_os("GPU_CHECKS_NEED_GPU").is_some();
    ensure!(!needs_gpu || Cuda::is_available(), "no GPU: CUDA is not available");
    match *args {
        ["probe"] => collectives::probe(),
        ["collectives"] => collectives::collectives(),
        ["exchange"] => collectives::exchange(),
        ["differ", how] => collectives::differ(how),
        ["dropped"] => collectives::dropped(),
        ["leave"] => collectives::leave(),
        ["late", seconds] => collectives::late(number(seconds)?),
        ["compare"] => comparison::compare(),
        ["subgroup"] => groups::subgroup(),
        ["groups"] => groups::groups(),
        ["train"] => training::train(),
        ["gloo_cuda"] => training::gloo_cuda(),
        ["gloo_cuda", "send"] => training::gloo_cuda_send(),
        ["resume", dir, steps, die_at] => snapshots::resume(dir, number(steps)?, number(die_at)?),
        ["seeded"] => snapshots::seeded(),
        ["seeded", dir] => snapshots::save_on_cpu(dir), // run by `seeded`
        ["snapshot_race", dir] => snapshots::race(dir),
        ["snapshot_speed", dir] => snapshots::speed(dir),
        ["loader_overlap"] => loader::overlap(),
        ["hidden_sync"] => waits::hidden_sync(None),
        ["hidden_sync", part] => waits::hidden_sync(Some(part)),
        ["fail", how] => failures::fail(how),
        _ => bail!("no such action: {args:?}"),
    }
}

fn number(text: &str) -> Result<u64> {
    text.parse().with_context(|| format!("{text:?} is not a number"))
}

/// The tensor of `rank`: small integers, whose sums are exact in every dtype.
fn numbers_of(context: &Context, rank: usize, len: i64, kind: Kind) -> Tensor {
    (Tensor::arange(len, (Kind::Int64, context.device())).remainder(97) + rank as i64).to_kind(kind)
}

/// The least and the greatest element.
fn extremes(tensor: &Tensor) -> (f64, f64) {
    (tensor.min().double_value(&[]), tensor.max().double_value(&[]))
}

fn need_ranks(context: &Context, ranks: usize) -> Result<()> {
    let found = context.world_size();
    ensure!(found == ranks, "this check is for {ranks} ranks, and there are {found}");
    Ok(())
}
