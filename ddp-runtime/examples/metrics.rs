//! A small classifier whose training is measured: `cargo ddp run -p ddp-runtime --example metrics --nproc 2`, then
//! `cargo ddp plot`, or `tensorboard --logdir runs`. Arguments: learning rate, folder for snapshots, epochs.

use std::process::ExitCode;

use ddp_runtime::data::{DataLoader, TensorDataset};
use ddp_runtime::metrics::Metrics;
use ddp_runtime::optim::{Sgd, SgdOptions};
use ddp_runtime::{Context, Error, Learner, Snapshots, Trainer};
use tch::nn::{self, Module};
use tch::{Kind, Tensor};

fn main() -> ExitCode {
    ddp_runtime::main(train)
}

/// Two classes, each a spiral in the plane.
fn spirals(samples: i64) -> (Tensor, Tensor) {
    let class = Tensor::arange(samples, tch::kind::INT64_CPU).remainder(2);
    let radius = Tensor::arange(samples, tch::kind::FLOAT_CPU) / samples as f64;
    let angle = &radius * 9.0 + &class * std::f64::consts::PI;
    let points = Tensor::stack(&[&radius * angle.cos(), &radius * angle.sin()], 1);
    let noise = Tensor::randn(points.size(), tch::kind::FLOAT_CPU) * 0.02;
    (points + noise, class)
}

struct Classifier(nn::Sequential);

impl Learner for Classifier {
    type Batch = (Tensor, Tensor);

    fn loss(&self, (x, y): &Self::Batch) -> Tensor {
        self.0.forward(x).cross_entropy_for_logits(y)
    }

    fn metric(&self, (x, y): &Self::Batch) -> Option<(Tensor, i64)> {
        let right = self.0.forward(x).argmax(-1, false).eq_tensor(y);
        Some((right.sum(Kind::Int64), y.size()[0]))
    }
}

fn train() -> Result<(), Error> {
    let mut args = std::env::args().skip(1);
    let number = |text: Option<String>, default: f64| text.map_or(Ok(default), |text| text.parse());
    let lr = number(args.next(), 0.1).map_err(Error::other)?;
    let dir = args.next();
    let epochs = number(args.next(), 60.0).map_err(Error::other)? as u64;

    let context = Context::init()?;
    tch::manual_seed(1);
    let mut train = DataLoader::new(&context, TensorDataset::new(spirals(2048))?, 32)?;
    let test = DataLoader::eval(&context, TensorDataset::new(spirals(512))?, 256)?;
    let vs = nn::VarStore::new(context.device());
    let hidden = |name: &str, inputs| nn::linear(vs.root() / name, inputs, 64, Default::default());
    let model = nn::seq().add(hidden("in", 2)).add_fn(|x| x.relu()).add(hidden("mid", 64)).add_fn(|x| x.relu());
    let learner = Classifier(model.add(nn::linear(vs.root() / "out", 64, 2, Default::default())));
    let optimizer = Sgd::new(&vs, SgdOptions { lr, momentum: 0.9, ..Default::default() });

    let metrics = Metrics::open(&context)?;
    metrics.hparams([("lr", lr.into()), ("epochs", epochs.into())], ["eval/accuracy"])?;
    let mut trainer = Trainer::new(&context, &vs, optimizer)?.metrics(&metrics).metric_name("eval/accuracy");
    if let Some(dir) = dir {
        trainer = trainer.snapshots(Snapshots::open(&context, dir)?.every_epochs(5).keep_last(2));
    }
    let outcome = trainer.fit(&learner, epochs, &mut train, Some(&test))?;
    // What the trainer does not know of.
    for (name, tensor) in vs.variables() {
        metrics.histogram(&name, &tensor, outcome.progress.step)?;
    }
    metrics.finish()
}
