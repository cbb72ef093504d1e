//! The ranks of a job join and add up a number: a start for your own loop.

use std::process::ExitCode;

use ddp_runtime::{Context, ReduceOp, Result};
use tch::{Kind, Tensor};

fn main() -> ExitCode {
    ddp_runtime::main(|| train().map(drop)) // an error or a panic reaches the launcher, with its reason
}

/// The sum of all ranks' numbers.
fn train() -> Result<i64> {
    // This worker's rank and device come from the environment, and all ranks join here.
    let context = Context::init()?;

    let mut sum = Tensor::full([1], context.rank() as i64 + 1, (Kind::Int64, context.device()));
    context.group().all_reduce(&mut sum, ReduceOp::Sum)?; // every rank takes part, and has the sum afterwards

    // Your loop: `Ddp` averages gradients, `DataLoader` splits the data, `Run` counts, reports, saves and resumes.

    let sum = sum.int64_value(&[0]);
    println!("rank {} of {} on {:?}: the sum is {sum}", context.rank(), context.world_size(), context.device());
    Ok(sum)
}

#[cfg(test)]
mod tests {
    #[test]
    fn sum_of_one_rank_is_its_own_number() {
        assert_eq!(super::train().unwrap(), 1);
    }
}
