use tch::nn::VarStore;
use tch::{Device, Kind, Tensor};

use crate::error::check;
use crate::{Error, Result, params, sys};

/// Parameters whose gradients are clipped: those of a `VarStore`, or any list of tensors.
pub trait Gradients {
    /// The gradients that are there, in the order of the parameters. They are handles, not copies.
    ///
    /// # Errors
    /// [`Error::Torch`].
    fn gradients(&self) -> Result<Vec<Tensor>>;
}

impl Gradients for VarStore {
    fn gradients(&self) -> Result<Vec<Tensor>> {
        params::trained_tensors(self).iter().map(gradient).filter_map(Result::transpose).collect()
    }
}

impl Gradients for [Tensor] {
    fn gradients(&self) -> Result<Vec<Tensor>> {
        self.iter().map(gradient).filter_map(Result::transpose).collect()
    }
}

fn gradient(parameter: &Tensor) -> Result<Option<Tensor>> {
    let gradient = parameter.f_grad().map_err(Error::tch("reading a gradient"))?;
    Ok(gradient.defined().then_some(gradient))
}

/// Scales all gradients so that their norm, as one vector, is at most `max_norm`; gives the norm they had, a scalar on
/// the first gradient's device. `norm_type` is 2 for the Euclidean norm, `f64::INFINITY` for the largest value.
/// `torch.nn.utils.clip_grad_norm_`, with the same operators in the same order: the same bits for the same list of
/// parameters. (A `VarStore` has a layer's bias before its weight, which may round the norm otherwise in its last bit.)
///
/// Call it between `Ddp::backward`, after which all ranks have the same gradients, and the optimizer's step. It does not
/// wait for a GPU; reading the norm does. A norm that is not finite makes the gradients so: look at it, or accept it as
/// PyTorch does.
///
/// # Errors
/// [`Error::Torch`], such as for gradients of whole numbers.
pub fn clip_grad_norm(parameters: &(impl Gradients + ?Sized), max_norm: f64, norm_type: f64) -> Result<Tensor> {
    let gradients = parameters.gradients()?;
    if gradients.is_empty() {
        return Tensor::f_zeros([0i64; 0], (Kind::Float, Device::Cpu)).map_err(Error::tch("clip_grad_norm"));
    }
    let pointers: Vec<_> = gradients.iter().map(|gradient| gradient.as_ptr().cast_mut()).collect();
    let mut total = std::ptr::null_mut();
    // SAFETY: the pointers are of `gradients`, which outlive the call; `total` is written on success only.
    check("clip_grad_norm", |error| unsafe {
        sys::ddp_clip_grad_norm(pointers.as_ptr(), pointers.len(), max_norm, norm_type, &mut total, error)
    })?;
    // SAFETY: the call made this tensor for its caller, and nobody else has it.
    Ok(unsafe { Tensor::from_ptr(total) })
}

/// The norm of all gradients as one vector, without changing them: `torch.nn.utils.get_total_norm`. A scalar on the first
/// gradient's device; 0 without gradients.
///
/// # Errors
/// [`Error::Torch`], such as for gradients on different devices.
pub fn grad_norm(parameters: &(impl Gradients + ?Sized), norm_type: f64) -> Result<Tensor> {
    let _guard = tch::no_grad_guard();
    let gradients = parameters.gradients()?;
    if gradients.is_empty() {
        return Tensor::f_zeros([0i64; 0], (Kind::Float, Device::Cpu)).map_err(Error::tch("grad_norm"));
    }
    let norm = |gradient: &Tensor| {
        let all: Option<&[i64]> = None;
        gradient.f_flatten(0, -1)?.f_linalg_norm(norm_type, all, false, None)
    };
    let norms: Result<Vec<Tensor>, _> = gradients.iter().map(norm).collect();
    norms.and_then(|norms| norm(&Tensor::f_stack(&norms, 0)?)).map_err(Error::tch("grad_norm"))
}

/// Limits each value of the gradients to `-clip_value..=clip_value`: `torch.nn.utils.clip_grad_value_`.
///
/// # Errors
/// [`Error::Torch`].
pub fn clip_grad_value(parameters: &(impl Gradients + ?Sized), clip_value: f64) -> Result<()> {
    let _guard = tch::no_grad_guard();
    for mut gradient in parameters.gradients()? {
        let _ = gradient.f_clamp_min_(-clip_value).map_err(Error::tch("clip_grad_value"))?;
        let _ = gradient.f_clamp_max_(clip_value).map_err(Error::tch("clip_grad_value"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gradients_of_a_var_store_are_clipped() {
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
