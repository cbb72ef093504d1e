//! A GPT, with GPT-2's names of weights and minGPT's first values.

use serde::{Deserialize, Serialize};
use tch::nn::{self, Init, Module};
use tch::{Kind, Tensor};

/// What a model is built from: saved next to its weights.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Config {
    /// The characters it knows, in the order of their tokens.
    pub vocabulary: String,
    pub n_layer: i64,
    pub n_head: i64,
    pub n_embd: i64,
    /// The longest text that it looks back on.
    pub block_size: i64,
    pub dropout: f64,
}

/// Tokens to scores of the next token.
pub struct Gpt {
    wte: nn::Embedding,
    wpe: nn::Embedding,
    blocks: Vec<Block>,
    ln_f: nn::LayerNorm,
    lm_head: nn::Linear,
    dropout: f64,
}

struct Block {
    ln_1: nn::LayerNorm,
    c_attn: nn::Linear,
    attn_proj: nn::Linear,
    ln_2: nn::LayerNorm,
    c_fc: nn::Linear,
    mlp_proj: nn::Linear,
    n_head: i64,
    dropout: f64,
}

fn normal(stdev: f64) -> Init {
    Init::Randn { mean: 0.0, stdev }
}

fn linear(vs: nn::Path, from: i64, to: i64, stdev: f64, bias: bool) -> nn::Linear {
    nn::linear(vs, from, to, nn::LinearConfig { ws_init: normal(stdev), bs_init: Some(Init::Const(0.0)), bias })
}

impl Gpt {
    pub fn new(vs: nn::Path, config: &Config) -> Self {
        let n_embd = config.n_embd;
        let vocabulary = config.vocabulary.chars().count() as i64;
        let embedding = |name: &str, n| {
            nn::embedding(&vs / name, n, n_embd, nn::EmbeddingConfig { ws_init: normal(0.02), ..Default::default() })
        };
        Self {
            wte: embedding("wte", vocabulary),
            wpe: embedding("wpe", config.block_size),
            blocks: (0..config.n_layer).map(|i| Block::new(&vs / "h" / i, config)).collect(),
            ln_f: nn::layer_norm(&vs / "ln_f", vec![n_embd], Default::default()),
            lm_head: linear(&vs / "lm_head", n_embd, vocabulary, 0.02, false),
            dropout: config.dropout,
        }
    }

    /// Scores of shape [batch, time, vocabulary] for `Int64` tokens of shape [batch, time], time up to the block size.
    pub fn scores(&self, tokens: &Tensor, train: bool) -> Tensor {
        let positions = Tensor::arange(tokens.size()[1], (Kind::Int64, tokens.device()));
        let x = (self.wte.forward(tokens) + self.wpe.forward(&positions)).dropout(self.dropout, train);
        let x = self.blocks.iter().fold(x, |x, block| block.forward(&x, train));
        self.lm_head.forward(&self.ln_f.forward(&x))
    }

    /// The mean loss per token of predicting `targets`, the tokens that come after `tokens`.
    pub fn loss(&self, tokens: &Tensor, targets: &Tensor, train: bool) -> Tensor {
        self.scores(tokens, train).flatten(0, 1).cross_entropy_for_logits(&targets.flatten(0, 1))
    }
}

impl Block {
    fn new(vs: nn::Path, config: &Config) -> Self {
        let Config { n_embd, n_head, dropout, .. } = *config;
        let norm = |name: &str| nn::layer_norm(&vs / name, vec![n_embd], Default::default());
        // The branches add up: each starts smaller, the more there are (GPT-2).
        let residual = 0.02 / (2.0 * config.n_layer as f64).sqrt();
        Self {
            ln_1: norm("ln_1"),
            c_attn: linear(&vs / "attn" / "c_attn", n_embd, 3 * n_embd, 0.02, true),
            attn_proj: linear(&vs / "attn" / "c_proj", n_embd, n_embd, residual, true),
            ln_2: norm("ln_2"),
            c_fc: linear(&vs / "mlp" / "c_fc", n_embd, 4 * n_embd, 0.02, true),
            mlp_proj: linear(&vs / "mlp" / "c_proj", 4 * n_embd, n_embd, residual, true),
            n_head,
            dropout,
        }
    }

    fn forward(&self, x: &Tensor, train: bool) -> Tensor {
        let x = x + self.attention(&self.ln_1.forward(x), train).dropout(self.dropout, train);
        let hidden = self.c_fc.forward(&self.ln_2.forward(&x)).gelu("none");
        &x + self.mlp_proj.forward(&hidden).dropout(self.dropout, train)
    }

    /// Each token looks at those before it, and at itself.
    fn attention(&self, x: &Tensor, train: bool) -> Tensor {
        let [batch, time, n_embd] = x.size()[..] else { unreachable!("scores() makes three dimensions") };
        let heads = self.c_attn.forward(x).view([batch, time, 3, self.n_head, n_embd / self.n_head]);
        let heads = heads.permute([2, 0, 3, 1, 4]); // [3, batch, head, time, part]
        let (q, k, v) = (heads.get(0), heads.get(1), heads.get(2));
        let dropout = if train { self.dropout } else { 0.0 };
        let y = Tensor::scaled_dot_product_attention(&q, &k, &v, None::<&Tensor>, dropout, true, None::<f64>, false);
        self.attn_proj.forward(&y.transpose(1, 2).reshape([batch, time, n_embd]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Device;

    #[test]
    fn token_does_not_depend_on_later_tokens() {
        let config =
            Config { vocabulary: "abcde".into(), n_layer: 2, n_head: 2, n_embd: 8, block_size: 6, dropout: 0.1 };
        let vs = nn::VarStore::new(Device::Cpu);
        let model = Gpt::new(vs.root(), &config);
        let scores = |tokens: &[i64]| model.scores(&Tensor::from_slice(tokens).unsqueeze(0), false);
        let (one, other) = (scores(&[0, 1, 2, 3, 4, 0]), scores(&[0, 1, 2, 4, 0, 1]));
        assert_eq!(one.size(), [1, 6, 5]);
        assert!(one.narrow(1, 0, 3).allclose(&other.narrow(1, 0, 3), 1e-6, 1e-7, false));
        assert!(!one.narrow(1, 3, 1).allclose(&other.narrow(1, 3, 1), 1e-3, 1e-4, false));
    }
}
