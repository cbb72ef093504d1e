//! How batches are copied to the GPU, through pinned memory and one batch ahead.

use std::cell::OnceCell;

use tch::{Device, Tensor};

use crate::cuda::side_stream::{Copies, SideStream};
use crate::data::Tensors;
use crate::error::check;
use crate::{Error, Result, sys};

/// How batches get to the training device: copied to pinned memory where they are made, so that the training loop's
/// copy to the GPU need not wait for the GPU, and one batch ahead, so that a step does not wait for the copy.
pub(super) struct Transfer<B> {
    pub device: Device,
    pub pin: fn(B, Device) -> Result<B>,
    pub send: fn(B, Device) -> Result<B>,
    /// `send` on a stream next to the computation.
    send_ahead: fn(B, Device, &SideStream) -> Result<B>,
}

impl<B> Clone for Transfer<B> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<B> Copy for Transfer<B> {}

impl<B: Tensors> Transfer<B> {
    pub(super) fn to(device: Device) -> Self {
        Self {
            device,
            pin: |batch, device| match device {
                Device::Cuda(_) => batch.map(&mut |tensor| pinned_for(tensor, device)),
                _ => Ok(batch),
            },
            send: |batch, device| batch.map(&mut |tensor| to_device(tensor, device)),
            send_ahead: |batch, device, stream| {
                batch.map(&mut |tensor| match tensor.device() {
                    Device::Cpu => stream.to_device(tensor),
                    _ => to_device(tensor, device),
                })
            },
        }
    }
}

/// Starts the copy of a batch.
pub(super) type StartCopy<B> = dyn Fn(B) -> Result<Ahead<B>>;

impl<B: 'static> Transfer<B> {
    /// How copies are started ahead of the loop; `None` if the device is not a GPU.
    pub(super) fn start_copy(&self) -> Option<Box<StartCopy<B>>> {
        let Self { device, send_ahead, .. } = *self;
        let made = OnceCell::new();
        let start_copy = move |batch| {
            let stream = match made.get() {
                Some(stream) => stream,
                None => {
                    let stream = SideStream::new(device)?;
                    made.get_or_init(|| stream)
                }
            };
            let sent = send_ahead(batch, device, stream);
            let copies = stream.end()?;
            // Of a batch that failed half-way, the other half may be under way: see `Ahead`.
            if sent.is_err() {
                copies.arrive()?;
            }
            Ok(Ahead { batch: Some(sent?), copies: Box::new(copies) })
        };
        device.is_cuda().then(|| Box::new(start_copy) as _)
    }
}

/// A batch whose copy may be under way. The GPU's later work waits for the copy before the batch is used, and before it is
/// dropped, as its memory is then reused.
pub(super) struct Ahead<B> {
    batch: Option<B>,
    copies: Box<dyn Arrive>,
}

/// Makes the GPU's later work wait for a copy. The calling thread continues.
pub(super) trait Arrive {
    fn arrive(&self) -> Result<()>;
}

impl Arrive for Copies {
    fn arrive(&self) -> Result<()> {
        Copies::arrive(self)
    }
}

impl<B> Ahead<B> {
    #[cfg(test)]
    pub(super) fn new(batch: B, copies: impl Arrive + 'static) -> Self {
        Self { batch: Some(batch), copies: Box::new(copies) }
    }

    pub(super) fn arrive(mut self) -> Result<B> {
        self.copies.arrive()?;
        self.batch.take().ok_or_else(|| Error::Invalid("a batch was taken twice".into()))
    }
}

impl<B> Drop for Ahead<B> {
    fn drop(&mut self) {
        if self.batch.is_some() {
            let _ = self.copies.arrive(); // fails if the GPU is lost, and then nothing is used again
        }
    }
}

/// `tensor` in page-locked memory if it is in other memory of the CPU and has to go to a GPU; else itself.
pub(in crate::data) fn pinned_for(tensor: &Tensor, device: Device) -> Result<Tensor> {
    if !device.is_cuda() || tensor.device() != Device::Cpu {
        return Ok(tensor.shallow_clone());
    }
    let mut pinned = std::ptr::null_mut();
    // SAFETY: `tensor` is live; `pinned` is written on success only.
    check("pinning a batch", |error| unsafe { sys::ddp_pin_memory(tensor.as_ptr(), &mut pinned, error) })?;
    // SAFETY: it is a new tensor that nobody else owns.
    Ok(unsafe { Tensor::from_ptr(pinned) })
}

/// `tensor` on `device`, in stream order on CUDA; itself if it is already on that device.
pub(in crate::data) fn to_device(tensor: &Tensor, device: Device) -> Result<Tensor> {
    let failed = Error::tch("moving a batch to its device");
    let kind = tensor.f_kind().map_err(&failed)?;
    tensor.f_to_device_(device, kind, device.is_cuda(), false).map_err(failed)
}
