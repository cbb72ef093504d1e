//! Copies of a run's tensors, so that they can be written while training continues.

use std::collections::HashMap;
use std::thread::{self, JoinHandle};

use tch::{Device, Kind, Tensor};

use super::pinned::Pinned;
use super::tensors::HostTensor;
use crate::cuda::side_stream;
use crate::cuda::side_stream::{Copies, SideStream};
use crate::{Error, Result, memory};

/// Memory for the copies, kept from one snapshot to the next.
#[derive(Debug, Default)]
pub(super) struct Stage {
    free: HashMap<String, Tensor>,
    /// For tensors of a GPU.
    pinned: Pinned,
    stream: Option<SideStream>,
    /// Copies from the GPU that nobody has waited for.
    under_way: Vec<Copies>,
}

impl Stage {
    /// Copies tensors to host memory, contiguous. `file` distinguishes equal names in two files.
    ///
    /// A GPU's tensors are copied by the GPU, after the work that it was given so far, while the calling thread continues. The
    /// copies are complete after [`wait`](Self::wait). The work that the thread gives the GPU from now on may change the
    /// tensors or reuse their memory: the GPU starts it after the copies.
    pub(super) fn copy(&mut self, file: &str, tensors: Vec<(String, Tensor)>) -> Result<Vec<HostTensor>> {
        let _guard = tch::no_grad_guard();
        let copied = tensors.into_iter().map(|(name, tensor)| self.copy_one(file, name, &tensor)).collect();
        // Also after an error: some copies may be under way.
        if let Some(stream) = &self.stream {
            let copies = stream.end()?;
            copies.arrive()?;
            self.under_way.push(copies);
        }
        copied
    }

    fn copy_one(&mut self, file: &str, name: String, tensor: &Tensor) -> Result<HostTensor> {
        let mut buffer = match self.free.remove(&key(file, &name)) {
            Some(buffer) if buffer.size() == tensor.size() && buffer.kind() == tensor.kind() => buffer,
            _ => buffer(&mut self.pinned, &tensor.size(), tensor.kind(), tensor.device())?,
        };
        match self.stream_of(tensor.device())? {
            Some(stream) => stream.to_host(tensor, &mut buffer)?,
            None => buffer.f_copy_(tensor).map_err(failed)?,
        }
        HostTensor::new(name, buffer)
    }

    /// The stream for copies from this device; `None` for the CPU.
    fn stream_of(&mut self, device: Device) -> Result<Option<&SideStream>> {
        if !device.is_cuda() {
            return Ok(None);
        }
        if self.stream.is_none() {
            self.stream = Some(SideStream::new(device)?);
        }
        Ok(self.stream.as_ref())
    }

    /// Waits until all copies have their content.
    pub(super) fn wait(&mut self) -> Result<()> {
        self.under_way.drain(..).try_for_each(|copies| copies.wait())
    }

    /// Gets the memory for copies of such tensors, in a background thread: the first copy would spend most of its time on
    /// it.
    pub(super) fn prepare(like: Vec<(&'static str, Vec<(String, Tensor)>)>) -> Option<JoinHandle<Self>> {
        let needed: Vec<(String, Vec<i64>, Kind, Device)> = like
            .into_iter()
            .flat_map(|(file, tensors)| {
                tensors.into_iter().map(move |(name, t)| (key(file, &name), t.size(), t.kind(), t.device()))
            })
            .collect();
        let prepare = move || {
            let mut stage = Self::default();
            // Without it, pinned memory would belong to GPU 0.
            let gpu = needed.iter().map(|(.., device)| *device).find(|device| device.is_cuda());
            if side_stream::use_gpu(gpu).is_ok() {
                for (key, size, kind, device) in needed {
                    let Ok(mut buffer) = buffer(&mut stage.pinned, &size, kind, device) else { break };
                    let _ = buffer.f_zero_(); // touches each page
                    stage.free.insert(key, buffer);
                }
            }
            stage
        };
        thread::Builder::new().name("ddp-snapshot".into()).spawn(prepare).ok()
    }

    /// Takes the memory back.
    pub(super) fn recycle(&mut self, file: &str, tensors: Vec<HostTensor>) {
        self.free.extend(tensors.into_iter().map(|t| (key(file, t.name()), t.into_tensor())));
    }
}

/// Memory for the copy of a tensor on `device`: pinned for a GPU, unless there is no more of that.
fn buffer(pinned: &mut Pinned, size: &[i64], kind: Kind, device: Device) -> Result<Tensor> {
    let pinned = device.is_cuda().then(|| pinned.take(size, kind)).and_then(Result::ok);
    pinned.map_or_else(|| memory::empty(size, kind).map_err(failed), Ok)
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
    fn staged_copies_are_contiguous_and_their_memory_is_reused() {
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
