//! The state tensors of optimizers, and how they are saved and loaded.

use std::collections::HashMap;

use tch::{Kind, TchError, Tensor};

use super::Parameters;
use crate::{Error, Result, memory, sys};

/// One kind of state (`exp_avg`, say): a tensor per parameter, once the parameter had a gradient.
#[derive(Debug)]
pub(super) struct Slots {
    name: &'static str,
    tensors: Vec<Option<Tensor>>,
    scalar: bool,
}

impl Slots {
    /// `scalar`: the state is one number per parameter instead of a tensor of its shape.
    pub(super) fn new(name: &'static str, scalar: bool, parameters: &Parameters) -> Self {
        Self { name, tensors: parameters.named.iter().map(|_| None).collect(), scalar }
    }

    /// Pointers to the tensors, null where there is none yet.
    pub(super) fn pointers(&self) -> Vec<*mut sys::C_tensor> {
        let pointer = |t: &Option<Tensor>| t.as_ref().map_or(std::ptr::null_mut(), |t| t.as_ptr().cast_mut());
        self.tensors.iter().map(pointer).collect()
    }

    /// Takes over the tensors that a step created where `pointers` were null.
    pub(super) fn adopt(&mut self, pointers: &[*mut sys::C_tensor]) {
        for (slot, &pointer) in self.tensors.iter_mut().zip(pointers) {
            if slot.is_none() && !pointer.is_null() {
                // SAFETY: the step made this tensor for its caller, and nobody else has it.
                *slot = Some(unsafe { Tensor::from_ptr(pointer) });
            }
        }
    }
}

/// All state of `parameters`, by name.
pub(super) fn save(parameters: &Parameters, states: &[Slots]) -> Vec<(String, Tensor)> {
    let mut named = Vec::new();
    for (i, (parameter, _)) in parameters.named.iter().enumerate() {
        for slots in states {
            named.extend(slots.tensors[i].iter().map(|t| (format!("{parameter}.{}", slots.name), t.shallow_clone())));
        }
    }
    named
}

/// Replaces the state of all groups by `loaded`, or nothing if it does not fit.
pub(super) fn load(groups: Vec<(&Parameters, &mut [Slots])>, mut loaded: HashMap<&str, &Tensor>) -> Result<()> {
    let mismatch = |problem: String| Error::StateMismatch { what: "the optimizer's state".into(), problem };
    let mut fresh = Vec::new();
    for (parameters, states) in &groups {
        for slots in states.iter() {
            for (name, parameter) in &parameters.named {
                fresh.push(match loaded.remove(&*format!("{name}.{}", slots.name)) {
                    Some(tensor) => {
                        check_fit(tensor, (slots.name, slots.scalar), name, parameter)?;
                        Some(tensor)
                    }
                    None => None,
                });
            }
        }
    }
    if let Some(name) = loaded.keys().min() {
        return Err(mismatch(format!("{name} is not a state of this optimizer")));
    }
    let mut fresh = fresh.into_iter();
    for (parameters, states) in groups {
        for slots in states {
            for (slot, (_, parameter)) in slots.tensors.iter_mut().zip(&parameters.named) {
                let Some(tensor) = fresh.next().flatten() else {
                    *slot = None;
                    continue;
                };
                fill(slot, tensor, parameter, slots.scalar).map_err(Error::tch("loading the optimizer's state"))?;
            }
        }
    }
    Ok(())
}

/// Copies `loaded` into the slot's own memory, or into new memory like a new state's: on the parameter's device, with its
/// dtype and strides, which the kernels rely on; one `Float` for a scalar (`torch/optim/optimizer.py`,
/// `_process_value_according_to_param_policy`).
fn fill(slot: &mut Option<Tensor>, loaded: &Tensor, parameter: &Tensor, scalar: bool) -> Result<(), TchError> {
    let _guard = tch::no_grad_guard();
    if slot.is_none() {
        *slot = Some(match scalar {
            true => Tensor::f_empty([1i64; 0], (Kind::Float, parameter.device()))?,
            false => memory::empty_like(parameter)?,
        });
    }
    slot.as_mut().map_or(Ok(()), |own| own.f_copy_(loaded))
}

/// Whether `loaded` can be the state of this name, which may be one number, of a parameter.
pub(super) fn check_fit(
    loaded: &Tensor,
    (state, is_scalar): (&str, bool),
    name: &str,
    parameter: &Tensor,
) -> Result<()> {
    let expected = if is_scalar { Vec::new() } else { parameter.size() };
    let found = loaded.size();
    if found != expected {
        let problem = format!("{name}.{state} has shape {found:?}, expected {expected:?}");
        return Err(Error::StateMismatch { what: "the optimizer's state".into(), problem });
    }
    Ok(())
}
