use std::collections::HashMap;

use tch::Tensor;

use super::Parameters;
use crate::{Error, Result, sys};

/// One kind of state (`exp_avg`, say): a tensor per parameter, once the parameter had a gradient.
#[derive(Debug)]
pub(super) struct Slots {
    name: &'static str,
    tensors: Vec<Option<Tensor>>,
    scalar: bool,
}

impl Slots {
    pub(super) fn new(name: &'static str, parameters: &Parameters) -> Self {
        Self { name, tensors: parameters.named.iter().map(|_| None).collect(), scalar: false }
    }

    /// State that is one number per parameter instead of a tensor of its shape.
    pub(super) fn scalar(self) -> Self {
        Self { scalar: true, ..self }
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

    fn shape_for(&self, parameter: &Tensor) -> Vec<i64> {
        if self.scalar { Vec::new() } else { parameter.size() }
    }
}

/// All state of `parameters`, by name.
pub(super) fn save(parameters: &Parameters, all: &[&Slots]) -> Vec<(String, Tensor)> {
    let mut named = Vec::new();
    for (i, (parameter, _)) in parameters.named.iter().enumerate() {
        for slots in all {
            named.extend(slots.tensors[i].iter().map(|t| (format!("{parameter}.{}", slots.name), t.shallow_clone())));
        }
    }
    named
}

/// Replaces all state by `loaded`, or nothing if it does not fit.
pub(super) fn load(parameters: &Parameters, all: &mut [&mut Slots], loaded: HashMap<String, Tensor>) -> Result<()> {
    let mismatch = |problem: String| Error::StateMismatch { what: "the optimizer's state".into(), problem };
    let mut loaded = loaded;
    let mut fresh = Vec::new();
    for slots in all.iter() {
        let mut tensors = Vec::new();
        for (name, parameter) in &parameters.named {
            let key = format!("{name}.{}", slots.name);
            let Some(tensor) = loaded.remove(&key) else {
                tensors.push(None);
                continue;
            };
            let expected = slots.shape_for(parameter);
            if tensor.size() != expected {
                return Err(mismatch(format!("{key} has shape {:?}, and {expected:?} is needed", tensor.size())));
            }
            let copy = tensor.f_to_device_(parameter.device(), tensor.kind(), false, true);
            tensors.push(Some(copy.map_err(Error::tch("loading the optimizer's state"))?));
        }
        fresh.push(tensors);
    }
    if let Some(name) = loaded.keys().min() {
        return Err(mismatch(format!("{name} belongs to no parameter and state of this optimizer")));
    }
    for (slots, tensors) in all.iter_mut().zip(fresh) {
        slots.tensors = tensors;
    }
    Ok(())
}
