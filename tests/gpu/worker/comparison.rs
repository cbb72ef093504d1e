//! The cost of comparing the ranks' calls.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use ddp_runtime::{Context, ReduceOp};
use tch::{Kind, Tensor};

use crate::measure::{median, ms_since, synchronize};

const WARM_UP: u64 = 20;
const CALLS: u64 = 100;

/// The median microseconds of calls: until they return, and until their result is available.
struct Cost {
    call: f64,
    result: f64,
}

/// Measures an all_reduce of one number: with and without the comparison of calls, and without waiting.
pub fn compare() -> Result<()> {
    let context =
        Context::builder().timeout(Duration::from_secs(60)).check_first_collectives(WARM_UP + CALLS).init()?;
    let (group, device, rank, n) = (context.group(), context.device(), context.rank(), context.world_size());
    let mut tensor = Tensor::from(rank as f64).to_device(device);
    let mut cost = |calls: u64| -> Result<Cost> {
        let (mut call, mut result) = (Vec::new(), Vec::new());
        for _ in 0..calls {
            let start = Instant::now();
            group.all_reduce(&mut tensor, ReduceOp::Max)?;
            call.push(ms_since(start) * 1e3);
            synchronize(device)?;
            result.push(ms_since(start) * 1e3);
        }
        Ok(Cost { call: median(call), result: median(result) })
    };
    cost(WARM_UP)?;
    let compared = cost(CALLS)?;
    let plain = cost(CALLS)?;
    ensure!(tensor.double_value(&[]) == (n - 1) as f64, "the maximum is {tensor:?}");

    let mut tensors: Vec<_> = (0..CALLS).map(|_| Tensor::full([1], rank as i64, (Kind::Int64, device))).collect();
    let (mut calls, mut works) = (Vec::new(), Vec::new());
    for tensor in &mut tensors {
        let start = Instant::now();
        works.push(group.all_reduce_async(tensor, ReduceOp::Max)?);
        calls.push(ms_since(start) * 1e3);
    }
    works.into_iter().try_for_each(|work| work.wait())?;
    ensure!(tensors.iter().all(|tensor| tensor.int64_value(&[0]) == n as i64 - 1), "an async maximum is wrong");
    println!(
        "rank {rank} of {n} on {device:?}: all_reduce of one number, microseconds until the call returns / the result is \
         there: compared {:.1} / {:.1}, not compared {:.1} / {:.1}, async {:.1}",
        compared.call,
        compared.result,
        plain.call,
        plain.result,
        median(calls)
    );
    Ok(())
}
