//! Every collective, checked by each rank: `collectives all`; or one mistake, for tests of its error.

use std::process::ExitCode;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use ddp_runtime::{Backend, Context, Error, P2pOp, ProcessGroup, ReduceOp};
use serde_json::json;
use tch::{Device, Kind, Tensor};

static DEVICE: OnceLock<Device> = OnceLock::new();

pub(crate) fn main() -> ExitCode {
    let args: Vec<String> = ddp_tests::args().collect();
    ddp_runtime::main(|| work(&args[0]))
}

fn work(action: &str) -> Result<()> {
    let builder = Context::builder().timeout(Duration::from_secs(30));
    let builder = if action == "uncompared" { builder.check_first_collectives(2) } else { builder };
    let context = builder.init()?;
    DEVICE.get_or_init(|| context.device());
    let group = context.group();
    match action {
        "all" => {
            all(group)?;
            all_async(group)?;
            subgroups(group)?;
            batches(group)?;
            println!("all collectives are right");
        }
        "mistakes" => mistakes(group)?,
        "late" => late(group)?,
        "uncompared" => uncompared(group)?,
        "gone" => gone(group)?,
        other => bail!("no such action: {other}"),
    }
    Ok(())
}

/// Every rank sends to each other one and receives from it, twice, all at the same time.
fn batches(group: &ProcessGroup) -> Result<()> {
    let (rank, n) = (group.rank(), group.world_size());
    let message = |from: usize, to: usize, i: usize| own(from * 100 + to * 10 + i);
    let peers = || (0..n).filter(|peer| *peer != rank).flat_map(|peer| [(peer, 0), (peer, 1)]);
    let sent: Vec<Tensor> = peers().map(|(to, i)| message(rank, to, i)).collect();
    let mut received: Vec<Tensor> = peers().map(|_| own(0).zeros_like()).collect();
    let sends = sent.iter().zip(peers()).map(|(tensor, (dst, _))| P2pOp::Send { tensor, dst });
    let recvs = received.iter_mut().zip(peers()).map(|(tensor, (src, _))| P2pOp::Recv { tensor, src });
    group.batch_send_recv(&mut sends.chain(recvs).collect::<Vec<_>>())?;
    for (tensor, (from, i)) in received.iter().zip(peers()) {
        ensure!(*tensor == message(from, rank, i), "from rank {from}: {tensor:?}");
    }
    group.batch_send_recv(&mut [])?;
    let mut own = own(rank);
    let to_itself = group.batch_send_recv(&mut [P2pOp::Recv { tensor: &mut own, src: rank }]);
    ensure!(matches!(to_itself, Err(Error::Invalid(_))), "{to_itself:?}");
    let mut columns = Tensor::zeros([2, 2], (Kind::Float, device())).tr();
    let into_columns = group.batch_send_recv(&mut [P2pOp::Recv { tensor: &mut columns, src: (rank + 1) % n }]);
    ensure!(matches!(into_columns, Err(Error::Invalid(_))), "{into_columns:?}");
    Ok(())
}

/// Only two calls of each kind are compared.
fn uncompared(group: &ProcessGroup) -> Result<()> {
    let rank = group.rank();
    let mut tensor = own(rank);
    for _ in 0..2 {
        group.all_reduce(&mut tensor, ReduceOp::Sum)?;
    }
    // Gloo does not notice by itself that the operations differ.
    group.all_reduce(&mut tensor, if rank == 0 { ReduceOp::Max } else { ReduceOp::Min })?;
    let pair = |i: i64| {
        if rank == 0 { group.send(&own(0).slice(0, 0, i, 1), 1) } else { group.recv(&mut own(1).slice(0, 0, i, 1), 0) }
    };
    pair(3)?;
    pair(2)?;
    let mut bytes = own(1).to_kind(Kind::Int);
    if rank == 0 {
        group.send(&own(0), 1)?
    } else {
        group.recv(&mut bytes, 0)?
    }
    println!("two calls were compared");
    Ok(())
}

/// Where the tensors are: where the worker trains.
fn device() -> Device {
    *DEVICE.get().expect("it is set first")
}

fn numbers<T: tch::kind::Element>(numbers: &[T]) -> Tensor {
    Tensor::from_slice(numbers).to_device(device())
}

/// `[rank, rank + 1, rank + 2]`
fn own(rank: usize) -> Tensor {
    Tensor::arange(3, (Kind::Float, device())) + rank as f64
}

fn all(group: &ProcessGroup) -> Result<()> {
    let (rank, n) = (group.rank(), group.world_size());
    let ranks: Vec<f64> = (0..n).map(|r| r as f64).collect();
    let sum: f64 = ranks.iter().sum();
    for (op, expected) in [
        (ReduceOp::Sum, sum),
        (ReduceOp::Avg, sum / n as f64),
        (ReduceOp::Product, ranks.iter().product()),
        (ReduceOp::Min, 0.0),
        (ReduceOp::Max, n as f64 - 1.0),
    ] {
        let mut tensor = own(rank);
        group.all_reduce(&mut tensor, op)?;
        ensure!((tensor.double_value(&[0]) - expected).abs() < 1e-6, "{op:?} gives {tensor:?}");
        let mut tensor = own(rank);
        group.reduce(&mut tensor, n - 1, op)?;
        ensure!(rank != n - 1 || (tensor.double_value(&[0]) - expected).abs() < 1e-6, "reduce {op:?} gives {tensor:?}");
    }
    // NCCL has no bitwise operations.
    let bitwise = if group.backend() == Backend::Gloo { 3 } else { 0 };
    for (op, expected) in [
        (ReduceOp::BitAnd, (0..n as i64).fold(-1, |a, b| a & (b + 4))),
        (ReduceOp::BitOr, (0..n as i64).fold(0, |a, b| a | (b + 4))),
        (ReduceOp::BitXor, (0..n as i64).fold(0, |a, b| a ^ (b + 4))),
    ]
    .into_iter()
    .take(bitwise)
    {
        let mut tensor = numbers(&[rank as i64 + 4]);
        group.all_reduce(&mut tensor, op)?;
        ensure!(tensor.int64_value(&[0]) == expected, "{op:?} gives {tensor:?}");
    }
    let mut integers = numbers(&[1i64]);
    ensure!(group.all_reduce(&mut integers, ReduceOp::Avg).is_err(), "integers have no average");

    let mut tensor = own(rank);
    group.broadcast(&mut tensor, n - 1)?;
    ensure!(tensor == own(n - 1), "broadcast gives {tensor:?}");
    let gathered = group.all_gather(&own(rank))?;
    ensure!((0..n).all(|r| gathered[r] == own(r)), "all_gather gives {gathered:?}");
    let mut into = Tensor::zeros([3 * n as i64], (Kind::Float, device()));
    group.all_gather_into(&mut into, &own(rank))?;
    ensure!(into == Tensor::cat(&gathered, 0), "all_gather_into gives {into:?}");
    let at_one = group.gather(&own(rank), 1)?;
    ensure!(at_one.is_some() == (rank == 1), "gather is for rank 1");
    ensure!(at_one.is_none_or(|list| (0..n).all(|r| list[r] == own(r))), "gather is wrong");
    let parts: Vec<Tensor> = (0..n).map(|r| own(r + 10)).collect();
    let mut part = Tensor::zeros([3], (Kind::Float, device()));
    group.scatter(&mut part, if rank == 1 { &parts } else { &[] }, 1)?;
    ensure!(part == own(rank + 10), "scatter gives {part:?}");
    let lists: Vec<Tensor> = (0..n).map(|r| own(r) * (rank as f64 + 1.0)).collect();
    let mut share = Tensor::zeros([3], (Kind::Float, device()));
    group.reduce_scatter(&mut share, &lists, ReduceOp::Sum)?;
    let factor = (1..=n).sum::<usize>() as f64;
    ensure!(share.allclose(&(own(rank) * factor), 1e-6, 1e-6, false), "reduce_scatter gives {share:?}");
    let sent: Vec<Tensor> = (0..n).map(|r| own(10 * rank + r)).collect();
    let received = group.all_to_all(&sent)?;
    ensure!((0..n).all(|r| received[r] == own(10 * r + rank)), "all_to_all gives {received:?}");
    if rank == 0 {
        group.send(&own(7), 1)?;
    } else if rank == 1 {
        let mut tensor = own(0);
        group.recv(&mut tensor, 0)?;
        ensure!(tensor == own(7), "recv gives {tensor:?}");
    }
    group.barrier()?;
    group.monitored_barrier(Duration::from_secs(20))?;
    // Tensors that are not contiguous are gathered in their logical order.
    let strided = Tensor::arange(6, (Kind::Float, device())).view([2, 3]).tr();
    ensure!(group.all_gather(&strided)?[0] == strided, "a strided tensor is gathered wrong");

    let value = json!({ "rank": rank, "nan": null, "list": [1, 2.5, "x"] });
    let values = group.all_gather_value(&value)?;
    ensure!(values.iter().enumerate().all(|(r, v)| v["rank"] == r), "all_gather_value gives {values:?}");
    ensure!(group.broadcast_value(&value, 1)?["rank"] == 1, "broadcast_value is wrong");
    let infinite = group.broadcast_value(&(f64::NEG_INFINITY, f32::MAX), 0)?;
    ensure!(infinite == (f64::NEG_INFINITY, f32::MAX), "a value changed on its way");
    ensure!(
        group.gather_value(&rank, 1)?.is_some_and(|all| all.len() == n) == (rank == 1),
        "gather_value is for rank 1"
    );
    Ok(())
}

fn all_async(group: &ProcessGroup) -> Result<()> {
    let (rank, n) = (group.rank(), group.world_size());
    let (mut a, mut b) = (own(rank), own(rank));
    let first = group.all_reduce_async(&mut a, ReduceOp::Sum)?;
    let second = group.all_reduce_async(&mut b, ReduceOp::Avg)?;
    let third = group.all_gather_async(&own(rank))?;
    let gathered = third.wait()?;
    second.wait_timeout(Duration::from_secs(20))?;
    first.wait()?;
    ensure!(gathered.len() == n && a.allclose(&(&b * n as f64), 1e-6, 1e-6, false), "{a:?} and {b:?} do not agree");

    // Both ways at once, matched by tag: neither waits for the other to be received. (NCCL has no tags, and there each rank may
    // wait for the other.)
    if rank < 2 && group.backend() == Backend::Gloo {
        let peer = 1 - rank;
        let mut received = [own(0), own(0)];
        let sends = [group.send_async(&own(peer), peer, 2)?, group.send_async(&own(peer + 5), peer, 1)?];
        let [one, two] = &mut received;
        let receives = [group.recv_async(one, peer, 1)?, group.recv_async(two, peer, 2)?];
        for work in sends.into_iter().chain(receives) {
            work.wait()?;
        }
        ensure!(received[0] == own(rank + 5) && received[1] == own(rank), "tags are mixed up: {received:?}");
    }
    let work = group.barrier_async()?;
    let start = Instant::now();
    while !work.is_completed() {
        ensure!(start.elapsed() < Duration::from_secs(20), "a barrier does not end");
        std::thread::yield_now();
    }
    Ok(work.wait()?)
}

fn subgroups(group: &ProcessGroup) -> Result<()> {
    let (rank, n) = (group.rank(), group.world_size());
    let turned: Vec<usize> = (0..n).rev().collect();
    let whole = group.new_group(&turned)?.expect("all ranks are in it");
    ensure!(whole.rank() == n - 1 - rank, "ranks are numbered in the order of the list");
    let mut tensor = own(rank);
    whole.broadcast(&mut tensor, 0)?;
    ensure!(tensor == own(n - 1), "rank 0 of the turned group is the last");
    let alone = group.new_group(&[n - 1])?;
    ensure!(alone.is_some() == (rank == n - 1), "only the last rank is in its group");
    if let Some(alone) = alone {
        alone.barrier()?;
    }
    ensure!(matches!(group.new_group(&[n]), Err(Error::RankOutOfRange { .. })), "there is no rank {n}");
    ensure!(matches!(group.new_group(&[0, 0]), Err(Error::Invalid(_))), "a rank can't be there twice");
    Ok(())
}

/// Each of these is an error on every rank, and leaves the group usable.
fn mistakes(group: &ProcessGroup) -> Result<()> {
    let (rank, n) = (group.rank(), group.world_size());
    let mut odd = Tensor::zeros([2 + rank as i64], (Kind::Float, device()));
    let mut kinds = Tensor::zeros([2], (if rank == 0 { Kind::Float } else { Kind::Double }, device()));
    let two = || vec![own(0), own(0)];
    let short = || if rank == 1 { vec![own(0)] } else { (0..n).map(own).collect() };
    let mistakes: [(&str, Result<(), Error>); 8] = [
        ("shape", group.all_reduce(&mut odd, ReduceOp::Sum)),
        ("dtype", group.all_reduce(&mut kinds, ReduceOp::Sum)),
        ("op", group.all_reduce(&mut own(0), if rank == 0 { ReduceOp::Sum } else { ReduceOp::Max })),
        ("root", group.broadcast(&mut own(0), rank.min(1))),
        ("operation", if rank == 0 { group.barrier() } else { group.all_gather(&own(0)).map(|_| ()) }),
        ("gathered shape", group.all_gather(&odd).map(|_| ())),
        ("list", group.reduce_scatter(&mut own(0), &short(), ReduceOp::Sum)),
        ("group", group.new_group(&[rank.min(1)]).map(|_| ())),
    ];
    for (mistake, outcome) in mistakes {
        match outcome {
            Err(Error::CallsDiffer { rank: 1, .. } | Error::Invalid(_)) => {}
            other => bail!("{mistake}: {other:?}"),
        }
    }
    ensure!(matches!(group.broadcast(&mut own(0), n), Err(Error::RankOutOfRange { .. })), "there is no rank {n}");
    ensure!(matches!(group.send(&own(0), rank), Err(Error::Invalid(_))), "nobody sends to itself");
    ensure!(n == 2 || group.all_to_all(&two()).is_err(), "two tensors are not {n}");
    if rank < 2 {
        // One sends three numbers where the other expects two; both send.
        let shapes = if rank == 0 { group.send(&own(0), 1) } else { group.recv(&mut own(0).narrow(0, 0, 2), 0) };
        for outcome in [shapes, group.send(&own(0), 1 - rank)] {
            let problem = outcome.err().map(|err| err.to_string()).unwrap_or_default();
            ensure!(problem.contains("called send of [3] Float"), "{problem:?}");
        }
    }
    let mut sum = numbers(&[1.0f32]);
    group.all_reduce(&mut sum, ReduceOp::Sum)?;
    ensure!(sum.double_value(&[0]) == n as f64, "the group is usable after mistakes");
    println!("all mistakes are errors");
    Ok(())
}

/// The last rank does not join a monitored barrier.
fn late(group: &ProcessGroup) -> Result<()> {
    if group.rank() == group.world_size() - 1 {
        std::thread::sleep(Duration::from_secs(3600));
    }
    match group.monitored_barrier(Duration::from_secs(2)) {
        Err(err) if group.rank() == 0 => bail!("monitored: {err}"),
        _ => std::thread::sleep(Duration::from_secs(3600)),
    }
    Ok(())
}

/// The last rank ends: the others get an error immediately.
fn gone(group: &ProcessGroup) -> Result<()> {
    group.barrier()?;
    if group.rank() == group.world_size() - 1 {
        return Ok(());
    }
    let start = Instant::now();
    let outcome = group.barrier();
    ensure!(matches!(outcome, Err(Error::LostPeer { .. } | Error::Torch { .. })), "{outcome:?}");
    ensure!(start.elapsed() < Duration::from_secs(10), "it took {:?}", start.elapsed());
    let again = group.all_reduce(&mut own(0), ReduceOp::Sum);
    ensure!(again.is_err() && start.elapsed() < Duration::from_secs(15), "a dead group gives {again:?}");
    println!("the group is known to be dead");
    Ok(())
}
