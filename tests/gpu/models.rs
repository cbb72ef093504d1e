//! The models of `gpu_steps`, with their batches and optimizers.

mod gpt;

use anyhow::{Result, bail};
use ddp_runtime::amp::Autocast;
use ddp_runtime::backends::{self, MatmulPrecision};
use ddp_runtime::optim::{AdamW, AdamWOptions, Optimizer, Sgd, SgdOptions};
use ddp_runtime::{Context, Result as RuntimeResult};
use tch::nn::{self, Module, ModuleT, VarStore};
use tch::vision::resnet;
use tch::{Device, Kind, Reduction, Tensor};

use crate::values::{channels_last, fill, floats, integers};

/// The models, each with the ways to clear gradients that are measured: to none, to zero, and to none with
/// `batched_grad_copy`.
const MODELS: [(&str, &[&str]); 5] = [
    ("linear", &["none"]),
    ("mlp", &["none", "zero", "batched"]),
    ("resnet50_tf32", &["none"]),
    ("resnet50_bf16", &["none"]),
    ("gpt_bf16", &["none", "zero", "batched"]),
];

/// The loss of this rank's batch.
pub type Loss = Box<dyn Fn() -> Tensor>;

pub struct Setup {
    pub vs: VarStore,
    pub loss: Loss,
    pub optimizer: Box<dyn Optimizer>,
}

pub fn names() -> [&'static str; 5] {
    MODELS.map(|(name, _)| name)
}

/// The variants of the model called `name`.
pub fn variants(name: &str) -> Result<&'static [&'static str]> {
    match MODELS.iter().find(|(model, _)| *model == name) {
        Some((_, variants)) => Ok(variants),
        None => bail!("unknown model `{name}`, expected one of {}", names().join(", ")),
    }
}

/// The model called `name`, filled, with this rank's batch on its device.
pub fn start(name: &str, small: bool, context: &Context) -> Result<Setup> {
    variants(name)?;
    let is_tf32 = name.ends_with("_tf32");
    backends::set_float32_matmul_precision(if is_tf32 { MatmulPrecision::High } else { MatmulPrecision::Highest })?;
    backends::set_cudnn_allow_tf32(is_tf32)?;
    backends::set_cudnn_benchmark(true)?;

    let (device, seed) = (context.device(), 1000 + 10 * context.rank() as i64);
    let vs = VarStore::new(device);
    let loss = match name {
        "linear" => linear(&vs, seed),
        "mlp" => mlp(&vs, if small { 64 } else { 1024 }, seed),
        "resnet50_tf32" => resnet50(&vs, false, if small { (4, 64) } else { (64, 224) }, seed),
        "resnet50_bf16" => resnet50(&vs, true, if small { (4, 64) } else { (128, 224) }, seed),
        _ => gpt::loss(&vs, if small { &gpt::TINY } else { &gpt::GPT2_SMALL }, seed),
    };
    fill(&vs, name == "resnet50_bf16");
    let loss = if name.ends_with("_bf16") { in_bfloat16(device, loss)? } else { loss };
    let sgd = |lr, momentum| Box::new(Sgd::new(&vs, SgdOptions { lr, momentum, ..Default::default() }));
    let optimizer: Box<dyn Optimizer> = match name {
        "linear" | "mlp" => sgd(0.03, 0.0),
        "gpt_bf16" => Box::new(AdamW::new(&vs, AdamWOptions { lr: 3e-4, ..Default::default() })),
        _ => sgd(0.001, 0.9),
    };
    Ok(Setup { vs, loss, optimizer })
}

fn linear(vs: &VarStore, seed: i64) -> Loss {
    let model = nn::linear(vs.root(), 20, 1, Default::default());
    let (x, y) = (floats(&[32, 20], seed, vs.device()), floats(&[32, 1], seed + 1, vs.device()));
    Box::new(move || model.forward(&x).mse_loss(&y, Reduction::Mean))
}

fn mlp(vs: &VarStore, width: i64, seed: i64) -> Loss {
    let layers = [0, 1, 2, 3].map(|i| nn::linear(vs.root() / i, width, width, Default::default()));
    let (x, y) = (floats(&[32, width], seed, vs.device()), floats(&[32, width], seed + 1, vs.device()));
    Box::new(move || {
        let [hidden @ .., last] = &layers;
        let x = hidden.iter().fold(x.shallow_clone(), |x, layer| layer.forward(&x).relu());
        last.forward(&x).mse_loss(&y, Reduction::Mean)
    })
}

/// tch's ResNet-50 is v1.5: the 3x3 convolution of a block has its stride.
fn resnet50(vs: &VarStore, is_channels_last: bool, (batch, side): (i64, i64), seed: i64) -> Loss {
    let model = resnet::resnet50(&vs.root(), 1000);
    let x = floats(&[batch, 3, side, side], seed, vs.device());
    let x = if is_channels_last { channels_last(&x) } else { x };
    let y = integers(&[batch], 1000, seed + 1, vs.device());
    Box::new(move || cross_entropy(&model.forward_t(&x, true), &y))
}

/// Python's `F.cross_entropy`: the operator, which autocast knows, where tch's `cross_entropy_for_logits` has two.
fn cross_entropy(logits: &Tensor, y: &Tensor) -> Tensor {
    logits.cross_entropy_loss(y, None::<Tensor>, Reduction::Mean, -100, 0.0)
}

fn in_bfloat16(device: Device, loss: Loss) -> RuntimeResult<Loss> {
    let autocast = Autocast::new(device, Kind::BFloat16)?;
    Ok(Box::new(move || autocast.run(&loss)))
}
