//! The models of `bench_steps`, with the parameter names of `steps_torch.py`.

use anyhow::{Result, bail};
use tch::nn::{self, Module, Path};
use tch::{Reduction, Tensor};

const WIDTH: i64 = 512;
const HEADS: i64 = 8;
const LAYERS: i64 = 3;
const VOCABULARY: i64 = 1000;
const LENGTH: i64 = 32;

/// The loss of a batch (x, y).
pub type Loss = Box<dyn Fn((&Tensor, &Tensor)) -> Tensor>;

/// The model called `name`.
pub fn make(name: &str, root: &Path) -> Result<Loss> {
    match name {
        "linear" => {
            let model = nn::linear(root, 20, 1, Default::default());
            Ok(Box::new(move |(x, y)| model.forward(x).mse_loss(y, Reduction::Mean)))
        }
        "mlp" => {
            let layers: Vec<_> = (0..4).map(|i| nn::linear(root / i, 1024, 1024, Default::default())).collect();
            Ok(Box::new(move |(x, y)| {
                let [hidden @ .., last] = &layers[..] else { return y.shallow_clone() };
                let x = hidden.iter().fold(x.shallow_clone(), |x, layer| layer.forward(&x).relu());
                last.forward(&x).mse_loss(y, Reduction::Mean)
            }))
        }
        "transformer" => {
            let model = Transformer::new(root);
            Ok(Box::new(move |(x, y)| model.forward(x).view([-1, VOCABULARY]).cross_entropy_for_logits(&y.view(-1))))
        }
        other => bail!("no such model: {other}"),
    }
}

/// An encoder: predicts a token for each token.
#[derive(Debug)]
struct Transformer {
    tokens: nn::Embedding,
    positions: nn::Embedding,
    blocks: Vec<Block>,
    norm: nn::LayerNorm,
    head: nn::Linear,
}

impl Transformer {
    fn new(root: &Path) -> Self {
        Self {
            tokens: nn::embedding(root / "tokens", VOCABULARY, WIDTH, Default::default()),
            positions: nn::embedding(root / "positions", LENGTH, WIDTH, Default::default()),
            blocks: (0..LAYERS).map(|i| Block::new(&(root / "blocks" / i))).collect(),
            norm: nn::layer_norm(root / "norm", vec![WIDTH], Default::default()),
            head: nn::linear(root / "head", WIDTH, VOCABULARY, Default::default()),
        }
    }
}

impl Module for Transformer {
    fn forward(&self, x: &Tensor) -> Tensor {
        let positions = Tensor::arange(LENGTH, (tch::Kind::Int64, x.device()));
        let x = self.tokens.forward(x) + self.positions.forward(&positions);
        let x = self.blocks.iter().fold(x, |x, block| block.forward(&x));
        self.head.forward(&self.norm.forward(&x))
    }
}

#[derive(Debug)]
struct Block {
    norm1: nn::LayerNorm,
    qkv: nn::Linear,
    out: nn::Linear,
    norm2: nn::LayerNorm,
    up: nn::Linear,
    down: nn::Linear,
}

impl Block {
    fn new(root: &Path) -> Self {
        let norm = |name| nn::layer_norm(root / name, vec![WIDTH], Default::default());
        let linear = |name, inputs, outputs| nn::linear(root / name, inputs, outputs, Default::default());
        Self {
            norm1: norm("norm1"),
            qkv: linear("qkv", WIDTH, 3 * WIDTH),
            out: linear("out", WIDTH, WIDTH),
            norm2: norm("norm2"),
            up: linear("up", WIDTH, 4 * WIDTH),
            down: linear("down", 4 * WIDTH, WIDTH),
        }
    }

    fn attention(&self, x: &Tensor) -> Tensor {
        let batch = x.size()[0];
        let qkv = self.qkv.forward(x).view([batch, LENGTH, 3, HEADS, WIDTH / HEADS]).permute([2, 0, 3, 1, 4]);
        let [q, k, v] = [0, 1, 2].map(|i| qkv.select(0, i));
        let y = Tensor::scaled_dot_product_attention(&q, &k, &v, None::<Tensor>, 0.0, false, None, false);
        self.out.forward(&y.transpose(1, 2).reshape([batch, LENGTH, WIDTH]))
    }
}

impl Module for Block {
    fn forward(&self, x: &Tensor) -> Tensor {
        let x = x + self.attention(&self.norm1.forward(x));
        let y = self.down.forward(&self.up.forward(&self.norm2.forward(&x)).gelu("none"));
        x + y
    }
}
