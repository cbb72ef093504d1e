//! Copies of a run's tensors, so that they can be written while training goes on.

use std::collections::HashMap;
use std::thread::{self, JoinHandle};

use tch::{Kind, Tensor};

use super::tensors::HostTensor;
use crate::{Error, Result, memory};

/// Memory for the copies, kept from one snapshot to the next.
#[derive(Debug, Default)]
pub(super) struct Stage {
    free: HashMap<String, Tensor>,
}

impl Stage {
    /// Copies tensors to memory of this computer, contiguous. `file` tells names apart that two files have.
    pub(super) fn copy(&mut self, file: &str, tensors: Vec<(String, Tensor)>) -> Result<Vec<HostTensor>> {
        let _guard = tch::no_grad_guard();
        let copy = |(name, tensor): (String, Tensor)| {
            let mut buffer = match self.free.remove(&key(file, &name)) {
                Some(buffer) if buffer.size() == tensor.size() && buffer.kind() == tensor.kind() => buffer,
                _ => memory::empty(&tensor.size(), tensor.kind()).map_err(failed)?,
            };
            buffer.f_copy_(&tensor).map_err(failed)?;
            HostTensor::new(name, buffer)
        };
        tensors.into_iter().map(copy).collect()
    }

    /// Gets the memory for copies of such tensors, in a thread of its own: the first copy would spend most of its time on
    /// it.
    pub(super) fn prepare(like: Vec<(&'static str, Vec<(String, Tensor)>)>) -> Option<JoinHandle<Self>> {
        let needed: Vec<(String, Vec<i64>, Kind)> = like
            .into_iter()
            .flat_map(|(file, tensors)| {
                tensors.into_iter().map(move |(name, t)| (key(file, &name), t.size(), t.kind()))
            })
            .collect();
        let prepare = move || {
            let made = needed.into_iter().filter_map(|(key, size, kind)| {
                let mut buffer = memory::empty(&size, kind).ok()?;
                let _ = buffer.f_zero_().ok()?; // touches each page
                Some((key, buffer))
            });
            Self { free: made.collect() }
        };
        thread::Builder::new().name("ddp-snapshot".into()).spawn(prepare).ok()
    }

    /// Takes the memory back.
    pub(super) fn recycle(&mut self, file: &str, tensors: Vec<HostTensor>) {
        self.free.extend(tensors.into_iter().map(|t| (key(file, t.name()), t.into_tensor())));
    }
}

fn key(file: &str, name: &str) -> String {
    format!("{file}/{name}")
}

fn failed(err: tch::TchError) -> Error {
    Error::tch("copying a tensor for a snapshot")(err)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_are_contiguous_and_their_memory_is_used_again() {
        let mut stage = Stage::default();
        let x = Tensor::arange(6, tch::kind::INT64_CPU).view([2, 3]).tr();
        let mut tensors = stage.copy("f", vec![("x".into(), x.shallow_clone())]).unwrap();
        let copied = tensors.remove(0).into_tensor();
        assert!(copied.is_contiguous());
        assert_eq!(copied, x);
        let address = copied.data_ptr();
        stage.recycle("f", vec![HostTensor::new("x".into(), copied).unwrap()]);
        let mut again = stage.copy("f", vec![("x".into(), x + 1)]).unwrap();
        assert_eq!(again.remove(0).into_tensor().data_ptr(), address);
    }
}
