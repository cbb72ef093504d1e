//! A worker that does what its arguments say, for tests of the launcher.

use std::process::{ExitCode, exit};
use std::time::Duration;

use anyhow::{Result, bail};
use ddp_runtime::{Context, Ddp, ReduceOp};
use tch::{Tensor, nn};

pub(crate) fn main() -> ExitCode {
    let args: Vec<String> = ddp_tests::args().collect();
    ddp_runtime::main(|| work(&args))
}

/// `toy ACTION [RANK]`: rank RANK (all, if it is missing) does ACTION, the others wait in a collective.
fn work(args: &[String]) -> Result<()> {
    let (action, rank) = (args[0].as_str(), args.get(1).map(|rank| rank.parse::<usize>()).transpose()?);
    if action == "env" {
        let vars: std::collections::BTreeMap<_, _> = std::env::vars().collect();
        println!("{}", serde_json::to_string(&vars)?);
        return Ok(());
    }
    if action == "meet" {
        return meet();
    }
    let seconds = if action == "late" { 10 } else { 600 };
    let context = Context::builder().timeout(Duration::from_secs(seconds)).init()?;
    context.group().barrier()?;
    if action == "differ" {
        return differ(&context);
    }
    context.report_step(0, 7);
    if rank.is_none_or(|rank| rank == context.rank()) {
        match action {
            "panic" => panic!("toy panics"),
            "error" => bail!("toy fails"),
            "shape" => {
                drop(Tensor::ones([2, 3], tch::kind::FLOAT_CPU).matmul(&Tensor::ones([2, 3], tch::kind::FLOAT_CPU)))
            }
            "exit" => exit(7),
            "first-attempt-fails" if context.restart_count() == 0 => bail!("toy fails once"),
            "first-attempt-fails" => {}
            "behind" => {
                println!("behind");
                std::thread::sleep(Duration::from_secs(3600));
            }
            "late" => std::thread::sleep(Duration::from_secs(3600)),
            "sleep" => loop {
                println!("asleep");
                std::thread::sleep(Duration::from_secs(3600));
            },
            other => bail!("no such action: {other}"),
        }
    }
    let mut sum = Tensor::from_slice(&[1.0f32]);
    context.group().all_reduce(&mut sum, ReduceOp::Sum)?;
    println!("rank {} sees {} ranks", context.rank(), sum.double_value(&[0]));
    Ok(())
}

/// Prints the runs of all ranks in this rank's group.
fn meet() -> Result<()> {
    let context = Context::init()?;
    let mut runs = context.group().all_gather_value(&std::env::var("TORCHELASTIC_RUN_ID")?)?;
    runs.dedup();
    println!("met {}", runs.join(" and "));
    Ok(())
}

/// A second layer whose width differs on rank 1.
fn differ(context: &Context) -> Result<()> {
    let vs = nn::VarStore::new(context.device());
    nn::linear(vs.root() / "first", 4, 3, Default::default());
    nn::linear(vs.root() / "second", 3, 2 + context.rank() as i64, Default::default());
    Ddp::new(context.group(), &vs)?;
    Ok(())
}
