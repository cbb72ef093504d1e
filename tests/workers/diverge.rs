//! `diverge DIR [snapshots] [zero]`: a run that lasts until `DIR/stop` exists, and whose ranks differ on request. Files in DIR:
//!
//! | name | meaning |
//! |---|---|
//! | `flip-RANK` | flip a bit of one element on this rank: of the `parameter`, once; of its `gradient`, or of the `buffer`, after each step. `clear`: clear the gradients |
//! | `hold-RANK` | this rank waits before it ends its step |
//! | `stop` | end |

use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};
use ddp_runtime::optim::{Optimizer, Sgd, SgdOptions, ZeroRedundancy};
use ddp_runtime::{Context, Ddp, Run, Snapshots};
use tch::nn::{self, Module, VarStore};
use tch::{Kind, Tensor};

const PAUSE: Duration = Duration::from_millis(5);

pub(crate) fn main() -> ExitCode {
    let args: Vec<String> = ddp_tests::args().collect();
    ddp_runtime::main(|| train(&args))
}

fn train(args: &[String]) -> Result<()> {
    let dir = Path::new(args.first().context("a directory")?);
    let context = Context::init()?;
    let rank = context.rank();
    let vs = VarStore::new(context.device());
    tch::manual_seed(7);
    let first = nn::linear(vs.root() / "first", 3, 4, Default::default());
    let second = nn::linear(vs.root() / "second", 4, 1, Default::default());
    let seen = (vs.root() / "norm").zeros_no_train("seen", &[5]);
    let ddp = Ddp::new(context.group(), &vs)?;
    let options = SgdOptions { lr: 1e-3, momentum: 0.9, ..Default::default() };
    let optimizer: Box<dyn Optimizer> = if args.iter().any(|arg| arg == "zero") {
        Box::new(ZeroRedundancy::new(context.group(), &vs, options)?)
    } else {
        Box::new(Sgd::new(&vs, options))
    };
    let mut run = Run::new(&context, &vs, optimizer);
    if args.iter().any(|arg| arg == "snapshots") {
        run = run.snapshots(Snapshots::open(&context, dir.join("snapshots"))?);
    }
    let mut run = run.resume(&mut ())?;
    let mut is_flipped = false;
    while !context.group().broadcast_value(&dir.join("stop").exists(), 0)? {
        run.optimizer.zero_grad()?;
        let x = Tensor::arange(12, (Kind::Float, context.device())).view([4, 3]) / 12 + rank as f64;
        let loss = ddp.forward(|| second.forward(&first.forward(&x).tanh()).square().mean(Kind::Float))?;
        ddp.backward(&loss)?;
        run.optimizer.step()?;
        let flip = fs::read_to_string(dir.join(format!("flip-{rank}"))).unwrap_or_default();
        match flip.as_str() {
            "parameter" if !is_flipped => self::flip(&first.ws, 2 * 3 + 1),
            "gradient" => self::flip(&first.ws.grad(), 3 * 3),
            "buffer" => self::flip(&seen, 3),
            "clear" => run.optimizer.zero_grad()?,
            _ => {}
        }
        if !flip.is_empty() && !std::mem::replace(&mut is_flipped, true) {
            println!("rank {rank} flipped a bit after step {}", run.step() + 1);
        }
        while dir.join(format!("hold-{rank}")).exists() {
            thread::sleep(PAUSE);
        }
        run.step_done(&())?;
        if run.step() == 3 {
            println!("rank {rank} trains");
        }
        thread::sleep(PAUSE);
    }
    run.finish()?;
    println!("rank {rank} ends");
    Ok(())
}

/// Flips a bit in the middle of the mantissa of element number `place`.
fn flip(tensor: &Tensor, place: i64) {
    let _ = tensor.detach().view([-1]).view_dtype(Kind::Int).narrow(0, place, 1).bitwise_xor_(1_i64 << 18);
}
