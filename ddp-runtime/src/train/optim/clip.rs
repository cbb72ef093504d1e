//! Gradient norms and clipping: `torch.nn.utils.clip_grad_norm_`, `clip_grad_value_`.

use tch::Tensor;
use tch::nn::VarStore;

use crate::dist::params;
use crate::error::check;
use crate::{Result, sys};

/// Parameters whose gradients are clipped: those of a `VarStore`, or any list of tensors.
pub trait Gradients {
    /// Gives `f` the parameters that are trained, in their order, each once.
    fn with_parameters<T>(&self, f: impl FnOnce(&[&Tensor]) -> T) -> T;
}

/// Those of its variables that require a gradient. `f` must not use the store.
impl Gradients for VarStore {
    fn with_parameters<T>(&self, f: impl FnOnce(&[&Tensor]) -> T) -> T {
        params::with_trained(self, f)
    }
}

impl Gradients for [Tensor] {
    fn with_parameters<T>(&self, f: impl FnOnce(&[&Tensor]) -> T) -> T {
        f(&self.iter().collect::<Vec<_>>())
    }
}

/// Gives `f` pointers to the parameters.
fn with_pointers<T>(parameters: &(impl Gradients + ?Sized), f: impl FnOnce(&[*mut sys::C_tensor]) -> T) -> T {
    parameters.with_parameters(|parameters| {
        f(&parameters.iter().map(|parameter| parameter.as_ptr().cast_mut()).collect::<Vec<_>>())
    })
}

/// Scales all gradients so that their norm, as one vector, is at most `max_norm`; returns the norm they had, a scalar on
/// the first gradient's device. `norm_type` is 2 for the Euclidean norm, `f64::INFINITY` for the largest value.
/// `torch.nn.utils.clip_grad_norm_`, with the same operators in the same order: the same bits for the same list of
/// parameters. (A `VarStore` has a layer's bias before its weight, which may round the norm otherwise in its last bit.)
///
/// Call it between `Ddp::backward`, after which all ranks have the same gradients, and the optimizer's step. It does not
/// wait for a GPU; reading the norm does. A norm that is not finite makes the gradients so: look at it, or accept it as
/// PyTorch does.
///
/// # Errors
/// [`Error::Torch`](crate::Error::Torch), such as for gradients of integers.
pub fn clip_grad_norm(parameters: &(impl Gradients + ?Sized), max_norm: f64, norm_type: f64) -> Result<Tensor> {
    let mut total = std::ptr::null_mut();
    with_pointers(parameters, |all| {
        // SAFETY: the pointers are of tensors that outlive the call; `total` is written on success only.
        check("clip_grad_norm", |error| unsafe {
            sys::ddp_clip_grad_norm(all.as_ptr(), all.len(), max_norm, norm_type, &mut total, error)
        })
    })?;
    // SAFETY: the call made this tensor for its caller, and nobody else has it.
    Ok(unsafe { Tensor::from_ptr(total) })
}

/// The norm of all gradients as one vector, without changing them: `torch.nn.utils.get_total_norm`, with the same operators
/// in the same order. A scalar on the first gradient's device; 0 without gradients. It does not wait for a GPU.
///
/// # Errors
/// [`Error::Torch`](crate::Error::Torch), such as for gradients of integers.
pub fn grad_norm(parameters: &(impl Gradients + ?Sized), norm_type: f64) -> Result<Tensor> {
    let mut total = std::ptr::null_mut();
    with_pointers(parameters, |all| {
        // SAFETY: as above.
        check("grad_norm", |error| unsafe { sys::ddp_grad_norm(all.as_ptr(), all.len(), norm_type, &mut total, error) })
    })?;
    // SAFETY: as above.
    Ok(unsafe { Tensor::from_ptr(total) })
}

/// Limits each value of the gradients to `-clip_value..=clip_value`: `torch.nn.utils.clip_grad_value_`.
///
/// # Errors
/// [`Error::Torch`](crate::Error::Torch).
pub fn clip_grad_value(parameters: &(impl Gradients + ?Sized), clip_value: f64) -> Result<()> {
    with_pointers(parameters, |all| {
        // SAFETY: the pointers are of tensors that outlive the call.
        check("clip_grad_value", |error| unsafe {
            sys::ddp_clip_grad_value(all.as_ptr(), all.len(), clip_value, error)
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::{Device, Kind};

    #[test]
    fn tied_and_frozen_parameters_of_a_var_store_count_once_or_not() {
        let vs = VarStore::new(Device::Cpu);
        let tied = vs.root().ones("a", &[1]);
        let _ = vs.root().add("b", tied.shallow_clone(), true);
        let frozen = vs.root().ones("frozen", &[1]);
        (&tied * 3.0 + &frozen * 100.0).sum(Kind::Float).backward();
        let _ = frozen.set_requires_grad(false);
        assert_eq!(grad_norm(&vs, 2.0).unwrap().double_value(&[]), 3.0);
    }

    #[test]
    fn gradients_of_a_var_store_are_clipped() {
        let vs = VarStore::new(Device::Cpu);
        let (a, _b) = (vs.root().ones("a", &[2]), vs.root().ones("b", &[1]));
        assert_eq!(f64::try_from(clip_grad_norm(&vs, 1.0, 2.0).unwrap()).unwrap(), 0.0);
        (&a * Tensor::from_slice(&[3f32, -4.0])).sum(Kind::Float).backward();
        let norm = |kind| f64::try_from(grad_norm(&vs, kind).unwrap()).unwrap();
        assert_eq!((norm(2.0), norm(f64::INFINITY)), (5.0, 4.0));
        let total = clip_grad_norm(&vs, 2.5, 2.0).unwrap();
        assert_eq!(f64::try_from(total).unwrap(), 5.0);
        assert!(a.grad().allclose(&Tensor::from_slice(&[1.5f32, -2.0]), 1e-5, 0.0, false));
        clip_grad_value(&vs, 1.75).unwrap();
        assert_eq!(Vec::<f32>::try_from(a.grad()).unwrap()[1], -1.75);
    }
}
