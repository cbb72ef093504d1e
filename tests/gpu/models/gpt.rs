//! A GPT-2 for the GPU benchmark, like the one in its Python twin.

use tch::Tensor;
use tch::nn::{self, Module, Path, VarStore};

use super::{Loss, cross_entropy};
use crate::values::integers;

pub struct Size {
    layers: i64,
    heads: i64,
    width: i64,
    vocabulary: i64,
    length: i64,
    batch: i64,
}

/// GPT-2 small; its vocabulary of 50257 is padded to a multiple of 64.
pub const GPT2_SMALL: Size = Size { layers: 12, heads: 12, width: 768, vocabulary: 50304, length: 1024, batch: 8 };
pub const TINY: Size = Size { layers: 2, heads: 4, width: 64, vocabulary: 128, length: 32, batch: 2 };

pub fn loss(vs: &VarStore, size: &Size, seed: i64) -> Loss {
    let model = Gpt::new(&vs.root(), size);
    let tokens = |seed| integers(&[size.batch, size.length], size.vocabulary, seed, vs.device());
    let (x, y) = (tokens(seed), tokens(seed + 1).view(-1));
    Box::new(move || cross_entropy(&model.forward(&x).flatten(0, 1), &y))
}

/// Without dropout; the head has the weights of the embedding.
#[derive(Debug)]
struct Gpt {
    tokens: nn::Embedding,
    positions: nn::Embedding,
    blocks: Vec<Block>,
    norm: nn::LayerNorm,
}

impl Gpt {
    fn new(root: &Path, size: &Size) -> Self {
        Self {
            tokens: nn::embedding(root / "tokens", size.vocabulary, size.width, Default::default()),
            positions: nn::embedding(root / "positions", size.length, size.width, Default::default()),
            blocks: (0..size.layers).map(|i| Block::new(&(root / "blocks" / i), size)).collect(),
            norm: nn::layer_norm(root / "norm", vec![size.width], Default::default()),
        }
    }
}

impl Module for Gpt {
    fn forward(&self, x: &Tensor) -> Tensor {
        let positions = Tensor::arange(x.size()[1], (tch::Kind::Int64, x.device()));
        let x = self.tokens.forward(x) + self.positions.forward(&positions);
        let x = self.blocks.iter().fold(x, |x, block| block.forward(&x));
        self.norm.forward(&x).linear(&self.tokens.ws, None::<Tensor>)
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
    heads: i64,
}

impl Block {
    fn new(root: &Path, &Size { heads, width, .. }: &Size) -> Self {
        let norm = |name| nn::layer_norm(root / name, vec![width], Default::default());
        let linear = |name, inputs, outputs| nn::linear(root / name, inputs, outputs, Default::default());
        Self {
            norm1: norm("norm1"),
            qkv: linear("qkv", width, 3 * width),
            out: linear("out", width, width),
            norm2: norm("norm2"),
            up: linear("up", width, 4 * width),
            down: linear("down", 4 * width, width),
            heads,
        }
    }

    fn attention(&self, x: &Tensor) -> Tensor {
        let (batch, length, width) = x.size3().expect("batch, length, width");
        let by_head = |x: &Tensor| x.view([batch, length, self.heads, width / self.heads]).transpose(1, 2);
        let qkv = self.qkv.forward(x).split(width, 2);
        let (q, k, v) = (by_head(&qkv[0]), by_head(&qkv[1]), by_head(&qkv[2]));
        let y = Tensor::scaled_dot_product_attention(&q, &k, &v, None::<Tensor>, 0.0, true, None, false);
        self.out.forward(&y.transpose(1, 2).reshape([batch, length, width]))
    }
}

impl Module for Block {
    fn forward(&self, x: &Tensor) -> Tensor {
        let x = x + self.attention(&self.norm1.forward(x));
        let y = self.down.forward(&self.up.forward(&self.norm2.forward(&x)).gelu("none"));
        x + y
    }
}
