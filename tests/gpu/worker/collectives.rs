//! Collectives, and ranks whose calls differ, that leave early or join late.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use ddp_runtime::{Context, ReduceOp};
use tch::{Device, Kind, Tensor};

use crate::measure::synchronize;
use crate::{extremes, need_ranks, numbers_of};

/// Checks that the ranks reach each other.
pub fn probe() -> Result<()> {
    let context = Context::builder().timeout(Duration::from_secs(20)).init()?;
    let mut sum = Tensor::ones([1 << 20], (Kind::Float, context.device()));
    context.group().all_reduce(&mut sum, ReduceOp::Sum)?;
    let ((low, high), n) = (extremes(&sum), context.world_size());
    ensure!(low == n as f64 && high == n as f64, "{low} to {high} for {n} ranks");
    println!("rank {} of {n} on {:?}: reached", context.rank(), context.device());
    Ok(())
}

/// All collectives, for several sizes and dtypes.
pub fn collectives() -> Result<()> {
    let context = Context::builder().timeout(Duration::from_secs(60)).init()?;
    let (group, rank, n) = (context.group(), context.rank(), context.world_size());
    let start = Instant::now();
    let largest = if context.device().is_cuda() { 4 << 20 } else { 1 << 16 };
    for kind in [Kind::Float, Kind::BFloat16, Kind::Int64] {
        for len in [1, 7, 4096, 1 << 18, largest] {
            reductions(&context, len, kind)?;
            exchanges(&context, len, kind)?;
        }
    }
    let strided = numbers_of(&context, rank, 6, Kind::Float).view([2, 3]).tr();
    ensure!(group.all_gather(&strided)?[rank] == strided, "all_gather of a strided tensor is wrong");
    let values = group.all_gather_value(&(rank, "x".to_owned()))?;
    ensure!(values.iter().enumerate().all(|(r, value)| value.0 == r), "all_gather_value gives {values:?}");
    let mut on_cpu = Tensor::from_slice(&[1f32]);
    group.all_reduce(&mut on_cpu, ReduceOp::Sum)?;
    ensure!(on_cpu.double_value(&[0]) == n as f64, "all_reduce of a CPU tensor next to CUDA tensors is wrong");
    group.barrier()?;
    group.monitored_barrier(Duration::from_secs(20))?;
    let (seconds, device) = (start.elapsed().as_secs_f64(), context.device());
    println!("rank {rank} of {n} on {device:?} with {:?}: all collectives are right, {seconds:.2} s", group.backend());
    Ok(())
}

fn reductions(context: &Context, len: i64, kind: Kind) -> Result<()> {
    let (group, rank, n) = (context.group(), context.rank(), context.world_size());
    let own = |rank| numbers_of(context, rank, len, kind);
    let (last, ranks) = (n - 1, (0..n as i64).sum::<i64>());
    let sum = (own(0) * n as i64 + ranks).to_kind(kind);
    for (op, expected) in [(ReduceOp::Sum, &sum), (ReduceOp::Max, &own(last)), (ReduceOp::Min, &own(0))] {
        let mut tensor = own(rank);
        group.all_reduce(&mut tensor, op)?;
        ensure!(tensor == *expected, "all_reduce {op:?} of {len} {kind:?} is wrong");
    }
    if kind == Kind::Float {
        let mut tensor = own(rank);
        group.all_reduce(&mut tensor, ReduceOp::Avg)?;
        ensure!(tensor == &sum / n as f64, "the average of {len} is wrong");
    }
    let mut tensor = own(rank);
    group.reduce(&mut tensor, last, ReduceOp::Sum)?;
    ensure!(rank != last || tensor == sum, "reduce of {len} {kind:?} is wrong");
    let lists: Vec<Tensor> = (0..n).map(own).collect();
    let mut share = Tensor::zeros([len], (kind, context.device()));
    group.reduce_scatter(&mut share, &lists, ReduceOp::Sum)?;
    ensure!(share == (own(rank) * n as i64).to_kind(kind), "reduce_scatter of {len} {kind:?} is wrong");
    Ok(())
}

fn exchanges(context: &Context, len: i64, kind: Kind) -> Result<()> {
    let (group, rank, n) = (context.group(), context.rank(), context.world_size());
    let own = |rank| numbers_of(context, rank, len, kind);
    let last = n - 1;
    let mut tensor = own(rank);
    group.broadcast(&mut tensor, last)?;
    ensure!(tensor == own(last), "broadcast of {len} {kind:?} is wrong");
    let gathered = group.all_gather(&own(rank))?;
    ensure!((0..n).all(|r| gathered[r] == own(r)), "all_gather of {len} {kind:?} is wrong");
    let mut into = Tensor::zeros([len * n as i64], (kind, context.device()));
    group.all_gather_into(&mut into, &own(rank))?;
    ensure!(into == Tensor::cat(&gathered, 0), "all_gather_into of {len} {kind:?} is wrong");
    let sent: Vec<Tensor> = (0..n).map(|r| own(10 * rank + r)).collect();
    let received = group.all_to_all(&sent)?;
    ensure!((0..n).all(|r| received[r] == own(10 * r + rank)), "all_to_all of {len} {kind:?} is wrong");
    let at_last = group.gather(&own(rank), last)?;
    ensure!(at_last.is_none_or(|list| (0..n).all(|r| list[r] == own(r))), "gather of {len} {kind:?} is wrong");
    let mut share = Tensor::zeros([len], (kind, context.device()));
    group.scatter(&mut share, if rank == last { &sent } else { &[] }, last)?;
    ensure!(share == own(10 * last + rank), "scatter of {len} {kind:?} is wrong");
    if n > 1 && rank == 0 {
        group.send(&own(7), 1)?;
    } else if rank == 1 {
        group.recv(&mut share, 0)?;
        ensure!(share == own(7), "recv of {len} {kind:?} is wrong");
    }
    Ok(())
}

/// Both ranks send first, and then receive. (NCCL hangs until the timeout; `groups` has the call that does not.)
pub fn exchange() -> Result<()> {
    let context = Context::builder().timeout(Duration::from_secs(20)).init()?;
    need_ranks(&context, 2)?;
    let (group, rank) = (context.group(), context.rank());
    for len in [4, 16 << 20] {
        let mine = numbers_of(&context, rank, len, Kind::Float);
        let mut theirs = Tensor::zeros([len], (Kind::Float, context.device()));
        let send = group.send_async(&mine, 1 - rank, 0)?;
        let receive = group.recv_async(&mut theirs, 1 - rank, 0)?;
        send.wait()?;
        receive.wait()?;
        ensure!(theirs == numbers_of(&context, 1 - rank, len, Kind::Float), "{len} numbers arrived wrong");
    }
    println!("rank {rank}: both directions at once are right");
    Ok(())
}

/// Two processes on one GPU take turns, so collectives are slow there: the timeout leaves room for that.
pub fn unchecked() -> Result<Context> {
    Ok(Context::builder().timeout(Duration::from_secs(40)).check_collectives(false).init()?)
}

/// Rank 1 returns while the GPU still has work that rank 0 needs.
pub fn leave() -> Result<()> {
    let context = unchecked()?;
    let len = if context.device().is_cuda() { 8 << 20 } else { 1 << 20 };
    let mut tensors: Vec<_> = (0..40).map(|_| Tensor::ones([len], (Kind::Float, context.device()))).collect();
    for tensor in &mut tensors {
        context.group().all_reduce(tensor, ReduceOp::Sum)?;
    }
    if context.rank() == 1 {
        println!("rank 1 leaves");
        return Ok(());
    }
    let n = context.world_size() as f64;
    let wrong = tensors.iter().filter(|tensor| extremes(tensor) != (n, n)).count();
    ensure!(wrong == 0, "{wrong} of {} sums are wrong after rank 1 left", tensors.len());
    println!("rank 0: all sums are right");
    Ok(())
}

/// The last rank joins its first collective after `seconds`.
pub fn late(seconds: u64) -> Result<()> {
    let context = unchecked()?;
    let (rank, n) = (context.rank(), context.world_size());
    let start = Instant::now();
    if rank == n - 1 {
        thread::sleep(Duration::from_secs(seconds));
    }
    let mut sum = Tensor::ones([1 << 20], (Kind::Float, context.device()));
    context.group().all_reduce(&mut sum, ReduceOp::Sum)?;
    let found = extremes(&sum);
    ensure!(found == (n as f64, n as f64), "{found:?} for {n} ranks");
    let waited = start.elapsed().as_secs_f64();
    ensure!(waited > seconds as f64 - 0.5, "a sum after {waited:.1} s, before the last rank joined");
    println!("rank {rank}: right after {waited:.1} s");
    Ok(())
}

/// Operations whose `Work` and tensors are dropped without waiting, while others allocate and free memory.
pub fn dropped() -> Result<()> {
    let context = unchecked()?;
    let (group, device, n) = (context.group(), context.device(), context.world_size() as i64);
    for round in 0..20 {
        let mut tensor = Tensor::ones([4 << 20], (Kind::Float, device));
        drop(group.all_reduce_async(&mut tensor, ReduceOp::Sum)?);
        drop(group.all_gather_async(&tensor)?);
        drop(tensor);
        let filled: Vec<_> = (0..50).map(|i| Tensor::full([1 << 18], i, (Kind::Int64, device))).collect();
        let right = filled.iter().enumerate().all(|(i, tensor)| extremes(tensor) == (i as f64, i as f64));
        ensure!(right, "round {round}: another tensor was overwritten");
    }
    let mut sum = Tensor::ones([1], (Kind::Int64, device));
    group.all_reduce(&mut sum, ReduceOp::Sum)?;
    ensure!(sum.int64_value(&[0]) == n, "the last sum is {sum:?}");
    println!("rank {}: nothing was overwritten", context.rank());
    Ok(())
}

/// The tensors of the ranks differ in device, strides or shape: an error on all ranks, without waiting for a timeout.
pub fn differ(how: &str) -> Result<()> {
    let context = Context::builder().timeout(Duration::from_secs(20)).init()?;
    let odd = context.rank() == 1;
    let mut tensor = Tensor::ones([4, 4], (Kind::Float, context.device()));
    match how {
        "device" if odd => tensor = tensor.to_device(Device::Cpu),
        "strides" if odd => tensor = Tensor::ones([4, 8], (Kind::Float, context.device())).slice(1, 0, 8, 2),
        "shape" if odd => tensor = Tensor::ones([4, 5], (Kind::Float, context.device())),
        "device" | "strides" | "shape" => {}
        other => bail!("no such difference: {other}"),
    }
    let start = Instant::now();
    let outcome = context.group().all_reduce(&mut tensor, ReduceOp::Sum);
    synchronize(context.device())?;
    let seconds = start.elapsed().as_secs_f64();
    let Err(error) = outcome else { bail!("{how}: no error after {seconds:.1} s") };
    ensure!(seconds < 5.0, "{how}: only after {seconds:.1} s: {error}");
    println!("rank {}: after {seconds:.2} s: {error}", context.rank());
    Ok(())
}
