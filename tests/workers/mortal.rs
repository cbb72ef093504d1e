//! `mortal SNAPSHOTS DEATHS`: a run in which one rank kills itself (SIGKILL) in each of the first DEATHS attempts: before
//! init, in init, in a step, or while a snapshot is written. Prints its final state.

use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use anyhow::Result;
use ddp_runtime::optim::{Optimizer, Sgd, SgdOptions};
use ddp_runtime::{Context, Ddp, Run, Snapshots, World};
use tch::nn::{self, Module, VarStore};
use tch::{Kind, Tensor};

/// Steps of an undisturbed run.
const STEPS: u64 = 40;

pub(crate) fn main() -> ExitCode {
    let args: Vec<String> = ddp_tests::args().collect();
    ddp_runtime::main(|| train(&args))
}

fn train(args: &[String]) -> Result<()> {
    let (dir, deaths): (_, u64) = (&args[0], args[1].parse()?);
    let world = World::from_env()?;
    let attempt = u64::from(world.restart_count);
    // The same on all ranks, different in each attempt.
    let mut random = attempt.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0x1234_5678;
    let mut draw = |below: u64| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random % below
    };
    let (dies, place, delay) = (attempt < deaths && draw(2) == world.rank as u64, draw(4), draw(30));
    let step_of_death = draw(STEPS);
    if dies && place == 0 {
        die();
    }
    if dies && place == 1 {
        // In init, or a little before or after it.
        thread::spawn(move || {
            thread::sleep(Duration::from_millis(delay));
            die();
        });
    }
    let context = Context::init()?;
    let vs = VarStore::new(context.device());
    let model = nn::linear(vs.root(), 64, 64, Default::default());
    tch::no_grad(|| vs.trainable_variables().iter().for_each(|v| drop(v.shallow_clone().fill_(0.01))));
    let ddp = Ddp::new(context.group(), &vs)?;
    let optimizer = Sgd::new(&vs, SgdOptions { lr: 0.01, momentum: 0.9, ..Default::default() });
    let snapshots = Snapshots::open(&context, dir)?.every_steps(1).keep_last(2);
    let mut run = Run::new(&context, &vs, optimizer).snapshots(snapshots).resume(&mut ())?;
    // A run that has already taken all of its steps continues until all deaths have happened.
    let end = if attempt < deaths { u64::MAX } else { STEPS.max(run.step() + 1) };
    let last = run.step() + step_of_death.min(3);
    while run.step() < end {
        if dies && place >= 2 && run.step() >= last {
            if place == 2 {
                die();
            }
            // Snapshots are written by a background thread, which is busy now.
            thread::sleep(Duration::from_micros(delay * 100));
            die();
        }
        let x =
            Tensor::full([8, 64], run.step() as f64 * 0.01 + context.rank() as f64, (Kind::Float, context.device()));
        run.optimizer.zero_grad()?;
        let loss = ddp.forward(|| model.forward(&x).square().mean(Kind::Float))?;
        ddp.backward(&loss)?;
        run.optimizer.step()?;
        run.step_done(&())?;
    }
    run.wait_saved()?;
    println!("rank {} ends with step {}", context.rank(), run.step());
    Ok(())
}

fn die() {
    // SAFETY: it ends this process.
    unsafe { libc::raise(libc::SIGKILL) };
}
