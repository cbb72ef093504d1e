//! The network.

use ddp_runtime::Learner;
use tch::nn::{self, ConvConfig, ModuleT, SequentialT};
use tch::{Kind, Tensor};

pub const CLASSES: i64 = 10;

/// Two convolutions, a pooling, another convolution, a pooling, and two linear layers.
pub struct Network(SequentialT);

impl Network {
    /// For images of `size` x `size` pixels with one channel.
    pub fn new(vs: nn::Path, size: i64) -> Self {
        let same = ConvConfig { padding: 1, ..Default::default() };
        let flat = 64 * (size / 4) * (size / 4);
        let layers = nn::seq_t()
            .add(nn::conv2d(&vs / "conv1", 1, 32, 3, same))
            .add(nn::batch_norm2d(&vs / "norm1", 32, Default::default()))
            .add_fn(|x| x.relu())
            .add(nn::conv2d(&vs / "conv2", 32, 64, 3, same))
            .add(nn::batch_norm2d(&vs / "norm2", 64, Default::default()))
            .add_fn(|x| x.relu().max_pool2d_default(2))
            .add(nn::conv2d(&vs / "conv3", 64, 64, 3, same))
            .add(nn::batch_norm2d(&vs / "norm3", 64, Default::default()))
            .add_fn(|x| x.relu().max_pool2d_default(2).flatten(1, -1))
            .add(nn::linear(&vs / "hidden", flat, 128, Default::default()))
            .add_fn_t(|x, train| x.relu().dropout(0.3, train))
            .add(nn::linear(&vs / "out", 128, CLASSES, Default::default()));
        Self(layers)
    }

    /// Scores of the classes, [images, CLASSES], for `Float` images of shape [images, 1, size, size].
    pub fn scores(&self, images: &Tensor, train: bool) -> Tensor {
        self.0.forward_t(images, train)
    }
}

impl Learner for Network {
    type Batch = (Tensor, Tensor);

    fn loss(&self, (images, labels): &Self::Batch) -> Tensor {
        self.scores(images, true).cross_entropy_for_logits(labels)
    }

    /// The accuracy: how many are right, of how many.
    fn metric(&self, (images, labels): &Self::Batch) -> Option<(Tensor, i64)> {
        let right = self.scores(images, false).argmax(1, false).eq_tensor(labels);
        Some((right.sum(Kind::Int64), labels.size()[0]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Device;

    #[test]
    fn small_and_large_images_have_a_score_per_class() {
        for size in [8, 28] {
            let network = Network::new(nn::VarStore::new(Device::Cpu).root(), size);
            let images = Tensor::zeros([3, 1, size, size], (Kind::Float, Device::Cpu));
            assert_eq!(network.scores(&images, false).size(), [3, CLASSES]);
        }
    }
}
