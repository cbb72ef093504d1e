//! Whether a model's tensors can be sent to other ranks, and saved: known at the start, by name.

use tch::nn::VarStore;
use tch::{Kind, Tensor};

use crate::dist::params;
use crate::{Backend, Error, Result, sys};

/// What c10d's backends send (`ProcessGroupGloo.cpp`, `NCCLUtils.cpp`); complex numbers go as pairs.
const SENT: [Kind; 12] = [
    Kind::Float,
    Kind::Double,
    Kind::Half,
    Kind::BFloat16,
    Kind::Int64,
    Kind::Int,
    Kind::Int8,
    Kind::Uint8,
    Kind::Bool,
    Kind::ComplexHalf,
    Kind::ComplexFloat,
    Kind::ComplexDouble,
];

/// What NCCL alone sends.
const SENT_BY_NCCL: [Kind; 4] = [Kind::Float8e5m2, Kind::Float8e4m3fn, Kind::Float8e5m2fnuz, Kind::Float8e4m3fnuz];

/// Whether all ranks can get rank 0's parameters and buffers.
///
/// # Errors
/// [`Error::Invalid`] with the tensors that `backend` can't send.
pub(crate) fn check_sent(vs: &VarStore, backend: Backend) -> Result<()> {
    let more: &[Kind] = if backend == Backend::Nccl { &SENT_BY_NCCL } else { &[] };
    check(vs, &[&SENT, more].concat(), &format!("sent between ranks by {backend:?}"))
}

/// Whether a snapshot can hold the model: `kinds` are those of its files.
///
/// # Errors
/// [`Error::Invalid`] with the tensors that can't be saved.
pub(crate) fn check_saved(vs: &VarStore, kinds: &[Kind]) -> Result<()> {
    check(vs, kinds, "saved in a snapshot's safetensors file")
}

fn check(vs: &VarStore, kinds: &[Kind], what: &str) -> Result<()> {
    let all = params::all(vs);
    let refused: Vec<String> =
        all.iter().filter_map(|(name, tensor)| Some(format!("{name} ({})", obstacle(tensor, kinds)?))).collect();
    if refused.is_empty() {
        return Ok(());
    }
    let tensors = refused.join(", ");
    Err(Error::Invalid(format!(
        "tensors of the model can't be {what}: {tensors}; keep them out of the VarStore, or convert them"
    )))
}

fn obstacle(tensor: &Tensor, kinds: &[Kind]) -> Option<String> {
    // SAFETY: a live tensor, which the call only looks at.
    match unsafe { sys::ddp_tensor_form(tensor.as_ptr()) } {
        sys::DDP_ORDINARY => match tensor.f_kind() {
            Ok(kind) if kinds.contains(&kind) => None,
            Ok(kind) => Some(format!("{kind:?}")),
            Err(_) => Some("a dtype that tch lacks".into()),
        },
        sys::DDP_UNDEFINED => Some("undefined".into()),
        sys::DDP_SPARSE => Some("sparse".into()),
        sys::DDP_QUANTIZED => Some("quantized".into()),
        sys::DDP_META => Some("on the meta device, without data".into()),
        _ => Some("computed from other parameters: detach it".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Device;

    #[test]
    fn tensors_that_cannot_be_sent_are_all_named() {
        let vs = VarStore::new(Device::Cpu);
        let ones = |kind| Tensor::ones([2], (kind, Device::Cpu));
        let weight = vs.root().var("weight", &[2], tch::nn::Init::Const(1.0));
        SENT.iter().for_each(|kind| drop(vs.root().add(&format!("{kind:?}"), ones(*kind), false)));
        assert!(check_sent(&vs, Backend::Gloo).is_ok());
        for (name, tensor) in [
            ("short", ones(Kind::Int16)),
            ("sparse", ones(Kind::Float).to_sparse_sparse_dim(1)),
            ("quantized", ones(Kind::Float).quantize_per_tensor(0.1, 0, Kind::QInt8)),
            ("none", Tensor::new()),
            ("twice", weight * 2),
        ] {
            let _ = vs.root().add(name, tensor, false);
        }
        let err = check_sent(&vs, Backend::Gloo).unwrap_err().to_string();
        assert_eq!(
            err,
            "tensors of the model can't be sent between ranks by Gloo: none (undefined), quantized (quantized), \
             short (Int16), sparse (sparse), twice (computed from other parameters: detach it); keep them out of the VarStore, or convert them"
        );
    }
}
