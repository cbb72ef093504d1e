//! Every collective, on as many ranks as it is started with:
//! `cargo ddp run -p ddp-runtime --example collectives --nproc 4`.

use std::process::ExitCode;
use std::time::Duration;

use ddp_runtime::{Backend, Context, ProcessGroup, ReduceOp, Result, Work};
use tch::{Kind, Tensor};

fn main() -> ExitCode {
    ddp_runtime::main(run)
}

fn run() -> Result<()> {
    assert!(Backend::Gloo.is_built());
    // Gloo, so that the tensors below may be on the CPU whatever the machine has.
    let context =
        Context::builder().backend(Backend::Gloo).timeout(Duration::from_secs(60)).check_collectives(true).init()?;
    let group = context.group();
    tensors(group)?;
    asynchronous(group)?;
    one_to_one(group)?;
    values(group)?;
    subgroup(group)?;
    group.barrier()?;
    group.barrier_async()?.wait()?;
    group.monitored_barrier(Duration::from_secs(10))?; // its error names the ranks that did not arrive
    if context.is_rank0() {
        println!("{} ranks agree", group.world_size());
    }
    Ok(())
}

/// Two numbers that tell which rank made them.
fn mine(group: &ProcessGroup) -> Tensor {
    Tensor::from_slice(&[group.rank() as f32, 1.0])
}

fn tensors(group: &ProcessGroup) -> Result<()> {
    let (rank, n) = (group.rank(), group.world_size());
    let sum_of_ranks = (0..n).sum::<usize>() as f64;

    let mut x = mine(group);
    group.all_reduce(&mut x, ReduceOp::Sum)?;
    assert_eq!(x.double_value(&[0]), sum_of_ranks);
    for op in [ReduceOp::Avg, ReduceOp::Product, ReduceOp::Min, ReduceOp::Max] {
        group.all_reduce(&mut x, op)?;
    }
    let mut bits = Tensor::from_slice(&[1i64 << rank]);
    group.all_reduce(&mut bits, ReduceOp::BitOr)?;
    assert_eq!(bits.int64_value(&[0]), (1 << n) - 1);
    group.all_reduce(&mut bits, ReduceOp::BitAnd)?;
    group.all_reduce(&mut bits, ReduceOp::BitXor)?;

    let mut x = mine(group);
    group.reduce(&mut x, 0, ReduceOp::Sum)?; // rank 0's is the sum, the others' is undefined
    let mut x = mine(group);
    group.broadcast(&mut x, n - 1)?;
    assert_eq!(x.double_value(&[0]), (n - 1) as f64);

    let all: Vec<Tensor> = group.all_gather(&mine(group))?;
    assert_eq!(all[n - 1].double_value(&[0]), (n - 1) as f64);
    let mut all = Tensor::zeros([n as i64, 2], tch::kind::FLOAT_CPU);
    group.all_gather_into(&mut all, &mine(group))?;
    let gathered: Option<Vec<Tensor>> = group.gather(&mine(group), 0)?;
    assert_eq!(gathered.is_some(), rank == 0);

    let parts: Vec<Tensor> = (0..n).map(|to| Tensor::from_slice(&[(10 * rank + to) as f32])).collect();
    let mut part = Tensor::zeros([1], tch::kind::FLOAT_CPU);
    group.scatter(&mut part, if rank == 0 { &parts } else { &[] }, 0)?;
    assert_eq!(part.double_value(&[0]), rank as f64);
    group.reduce_scatter(&mut part, &parts, ReduceOp::Sum)?;
    let received = group.all_to_all(&parts)?;
    assert_eq!(received[0].double_value(&[0]), rank as f64);
    Ok(())
}

/// Each of them started, and waited for later.
fn asynchronous(group: &ProcessGroup) -> Result<()> {
    let n = group.world_size();
    let mut x = mine(group);
    let work: Work = group.all_reduce_async(&mut x, ReduceOp::Sum)?;
    // … other work, but not with `x` …
    let _done_already = work.is_completed();
    work.wait_timeout(Duration::from_secs(30))?;

    let all = group.all_gather_async(&x)?.wait()?;
    assert_eq!(all.len(), n);
    let mut into = Tensor::zeros([2 * n as i64], (Kind::Float, tch::Device::Cpu));
    group.all_gather_into_async(&mut into, &x)?.wait()?;
    group.broadcast_async(&mut x, 0)?.wait()?;
    group.reduce_async(&mut x, 0, ReduceOp::Max)?.wait()?;
    group.gather_async(&mine(group), 0)?.wait()?;
    let parts: Vec<Tensor> = (0..n).map(|_| mine(group)).collect();
    let mut part = mine(group);
    group.scatter_async(&mut part, if group.rank() == 0 { &parts } else { &[] }, 0)?.wait()?;
    group.reduce_scatter_async(&mut part, &parts, ReduceOp::Sum)?.wait()?;
    group.all_to_all_async(&parts)?.wait()?;
    Ok(())
}

/// Round the ring.
fn one_to_one(group: &ProcessGroup) -> Result<()> {
    let (rank, n) = (group.rank(), group.world_size());
    if n == 1 {
        return Ok(());
    }
    let (next, previous) = ((rank + 1) % n, (rank + n - 1) % n);
    let mut x = Tensor::zeros([2], tch::kind::FLOAT_CPU);
    let sent = group.send_async(&mine(group), next, 7)?;
    group.recv_async(&mut x, previous, 7)?.wait()?;
    sent.wait()?;
    assert_eq!(x.double_value(&[0]), previous as f64);
    match rank {
        0 => group.send(&x, 1)?,
        1 => group.recv(&mut x, 0)?,
        _ => {}
    }
    Ok(())
}

/// Anything that serde knows.
fn values(group: &ProcessGroup) -> Result<()> {
    let (rank, n) = (group.rank(), group.world_size());
    let name = group.broadcast_value(&format!("rank {rank}"), 0)?;
    assert_eq!(name, "rank 0");
    assert_eq!(group.all_gather_value(&rank)?, (0..n).collect::<Vec<_>>());
    assert_eq!(group.gather_value(&(rank, name), 0)?.is_some(), rank == 0);
    Ok(())
}

/// Some of the ranks, in an order of their own.
fn subgroup(group: &ProcessGroup) -> Result<()> {
    let ranks: Vec<usize> = (0..group.world_size()).rev().step_by(2).collect();
    if let Some(some) = group.new_group(&ranks)? {
        assert_eq!(ranks[some.rank()], group.rank());
        some.barrier()?;
    }
    Ok(())
}
