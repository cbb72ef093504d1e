//! Groups of some of the ranks, and messages in both directions.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use ddp_runtime::{Context, P2pOp, ProcessGroup, ReduceOp};
use tch::{Device, Kind, Tensor};

use crate::collectives::unchecked;
use crate::{extremes, need_ranks, numbers_of};

/// Subgroups that are dropped before their results are read.
pub fn subgroup() -> Result<()> {
    let context = unchecked()?;
    let (n, len) = (context.world_size(), if context.device().is_cuda() { 16 << 20 } else { 1 << 20 });
    let all: Vec<usize> = (0..n).collect();
    for round in 0..5 {
        let sub = context.group().new_group(&all)?.context("this rank is not in a group of all ranks")?;
        let mut tensor = Tensor::ones([len], (Kind::Float, context.device()));
        sub.all_reduce(&mut tensor, ReduceOp::Sum)?;
        drop(sub);
        let found = extremes(&tensor);
        ensure!(found == (n as f64, n as f64), "round {round}: {found:?} for {n} ranks");
    }
    println!("rank {}: five dropped subgroups, all sums right", context.rank());
    Ok(())
}

/// Groups that are split off an eagerly connected one: numbered in their own order, nested, of one rank, dropped with work in
/// flight, and closed while the first group stays in use.
pub fn groups() -> Result<()> {
    let start = Instant::now();
    let context = Context::builder()
        .timeout(Duration::from_secs(60))
        .nccl_eager_init(true)
        .nccl_high_priority_stream(true)
        .init()?;
    need_ranks(&context, 2)?;
    let connected = start.elapsed().as_secs_f64();
    let (group, rank, device) = (context.group(), context.rank(), context.device());
    let mut splits = Vec::new();
    for round in 0..3u64 {
        sum_of(group, device, 1 << 10)?;
        let start = Instant::now();
        let reversed = group.new_group(&[1, 0])?.context("this rank is not in the group [1, 0]")?;
        splits.push(start.elapsed().as_secs_f64() * 1e3);
        let (place, size) = (reversed.rank(), reversed.world_size());
        ensure!((place, size) == (1 - rank, 2), "in the group [1, 0], rank {rank} is {place} of {size}");
        ensure!(reversed.backend() == group.backend(), "the subgroup has the backend {:?}", reversed.backend());
        let gathered = reversed.all_gather(&numbers_of(&context, rank, 1000, Kind::Float))?;
        for (tensor, rank) in gathered.iter().zip([1, 0]) {
            ensure!(*tensor == numbers_of(&context, rank, 1000, Kind::Float), "the order of the group [1, 0] is wrong");
        }

        let nested = reversed.new_group(&[0, 1])?.context("this rank is not in the nested group")?;
        let mut tensor = numbers_of(&context, rank, 1000, Kind::Float);
        nested.broadcast(&mut tensor, 0)?;
        ensure!(tensor == numbers_of(&context, 1, 1000, Kind::Float), "the nested group's rank 0 is not rank 1");
        let mut on_cpu = Tensor::from(1.0);
        nested.all_reduce(&mut on_cpu, ReduceOp::Sum)?;
        ensure!(on_cpu.double_value(&[]) == 2.0, "a CPU tensor in the nested group is wrong");

        let chosen = usize::from(round % 2 == 1);
        let alone = group.new_group(&[chosen])?;
        ensure!(alone.is_some() == (rank == chosen), "the group of rank {chosen} is {alone:?} on rank {rank}");
        if let Some(alone) = &alone {
            let mut tensor = Tensor::full([100], 5.0, (Kind::Float, device));
            alone.all_reduce(&mut tensor, ReduceOp::Sum)?;
            ensure!(extremes(&tensor) == (5.0, 5.0), "the sum in a group of one rank is wrong");
        }

        let mut in_flight = Tensor::ones([4 << 20], (Kind::Float, device));
        let work = reversed.all_reduce_async(&mut in_flight, ReduceOp::Sum)?;
        drop((alone, nested, reversed));
        context.report_step(0, round + 1); // closes the dropped groups
        work.wait()?;
        ensure!(extremes(&in_flight) == (2.0, 2.0), "work of a dropped group is wrong");
        sum_of(group, device, 1 << 20)?;
    }
    for len in [4, 16 << 20] {
        swap(&context, len)?;
    }
    splits.sort_by(f64::total_cmp);
    println!(
        "rank {rank}: groups and both directions at once are right; connected in {connected:.2} s, a subgroup in {:.1} ms \
         ({:.1} to {:.1})",
        splits[1], splits[0], splits[2]
    );
    Ok(())
}

fn sum_of(group: &ProcessGroup, device: Device, len: i64) -> Result<()> {
    let mut sum = Tensor::ones([len], (Kind::Float, device));
    group.all_reduce(&mut sum, ReduceOp::Sum)?;
    ensure!(extremes(&sum) == (2.0, 2.0), "the sum in the group of all ranks is {:?}", extremes(&sum));
    Ok(())
}

/// Both ranks send two tensors and receive two.
fn swap(context: &Context, len: i64) -> Result<()> {
    let (rank, other) = (context.rank(), 1 - context.rank());
    let (first, second) =
        (numbers_of(context, rank, len, Kind::Float), numbers_of(context, rank + 5, len / 2, Kind::Int64));
    let (mut to_first, mut to_second) = (first.zeros_like(), second.zeros_like());
    context.group().batch_send_recv(&mut [
        P2pOp::Send { tensor: &first, dst: other },
        P2pOp::Send { tensor: &second, dst: other },
        P2pOp::Recv { tensor: &mut to_first, src: other },
        P2pOp::Recv { tensor: &mut to_second, src: other },
    ])?;
    ensure!(to_first == numbers_of(context, other, len, Kind::Float), "batch_send_recv of {len} Float is wrong");
    ensure!(to_second == numbers_of(context, other + 5, len / 2, Kind::Int64), "batch_send_recv of Int64 is wrong");
    Ok(())
}
