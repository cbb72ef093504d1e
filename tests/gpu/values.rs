//! Weights and batches that are the same in Python, without files: hashes of positions, computed by the same operators.

use tch::nn::VarStore;
use tch::{Device, Kind, Tensor};

/// Numbers from -1/2 to 1/2 that look random, in `Double`.
fn noise(shape: &[i64], seed: i64, device: Device) -> Tensor {
    let positions = Tensor::arange(shape.iter().product::<i64>(), (Kind::Double, device));
    let x = (positions * 12.9898 + seed as f64).sin() * 43758.5453;
    (&x - x.floor() - 0.5).view(shape)
}

/// Numbers of mean 0 and variance 1.
pub fn floats(shape: &[i64], seed: i64, device: Device) -> Tensor {
    (noise(shape, seed, device) * 12f64.sqrt()).to_kind(Kind::Float)
}

/// Whole numbers from 0 to `below`, exclusive.
pub fn integers(shape: &[i64], below: i64, seed: i64, device: Device) -> Tensor {
    ((noise(shape, seed, device) + 0.5) * below as f64).floor().to_kind(Kind::Int64)
}

/// Fills the parameters: matrices with the variance of PyTorch's `Linear`, biases with 0, weights of norms with 1.
pub fn fill(vs: &VarStore, is_channels_last: bool) {
    let mut parameters: Vec<_> = vs.variables().into_iter().filter(|(_, variable)| variable.requires_grad()).collect();
    parameters.sort_by(|a, b| a.0.cmp(&b.0));
    for ((name, mut parameter), seed) in parameters.into_iter().zip(0..) {
        let size = parameter.size();
        let data = match size[..] {
            [_] if name.ends_with("bias") => parameter.zeros_like(),
            [_] => parameter.ones_like(),
            _ => {
                let fan_in = size[1..].iter().product::<i64>() as f64;
                (noise(&size, seed, vs.device()) * (2.0 / fan_in.sqrt())).to_kind(Kind::Float)
            }
        };
        let data = if is_channels_last && size.len() == 4 { channels_last(&data) } else { data };
        parameter.set_data(&data.detach());
    }
}

/// A copy with the strides of `torch.channels_last`, for which tch has no function.
pub fn channels_last(tensor: &Tensor) -> Tensor {
    let size = tensor.size();
    let (c, h, w) = (size[1], size[2], size[3]);
    let mut copy = Tensor::empty_strided(&size, [c * h * w, 1, c * w, c], (tensor.kind(), tensor.device()));
    copy.copy_(tensor);
    copy
}
