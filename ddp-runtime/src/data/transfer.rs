use tch::{Device, Tensor};

use crate::data::Tensors;
use crate::error::check;
use crate::store::to_i32;
use crate::{Error, Result, sys};

/// How batches come to the training device: copied to pinned memory where they are made, so that the training loop's
/// copy to the GPU need not wait for the GPU.
pub(super) struct Transfer<B> {
    pub device: Device,
    pub pin: fn(B, Device) -> Result<B>,
    pub send: fn(B, Device) -> Result<B>,
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
        }
    }
}

/// `tensor` in page-locked memory if it is in other memory of the CPU and has to go to a GPU; else itself.
pub(super) fn pinned_for(tensor: &Tensor, device: Device) -> Result<Tensor> {
    if !device.is_cuda() || tensor.device() != Device::Cpu {
        return Ok(tensor.shallow_clone());
    }
    let mut pinned = std::ptr::null_mut();
    // SAFETY: `tensor` is live; `pinned` is written on success only.
    check("pinning a batch", |error| unsafe { sys::ddp_pin_memory(tensor.as_ptr(), &mut pinned, error) })?;
    // SAFETY: it is a new tensor that nobody else owns.
    Ok(unsafe { Tensor::from_ptr(pinned) })
}

/// `tensor` on `device`, in stream order on CUDA; itself if it is there.
pub(super) fn to_device(tensor: &Tensor, device: Device) -> Result<Tensor> {
    let failed = Error::tch("moving a batch to its device");
    let kind = tensor.f_kind().map_err(&failed)?;
    tensor.f_to_device_(device, kind, device.is_cuda(), false).map_err(failed)
}

/// Makes `device` the calling thread's, if it is a GPU: pinned memory belongs to the current one, and in a new thread
/// that is GPU 0.
pub(super) fn use_gpu(device: Option<Device>) -> Result<()> {
    let Some(Device::Cuda(index)) = device else { return Ok(()) };
    // SAFETY: plain numbers.
    check("choosing a GPU", |error| unsafe { sys::ddp_set_cuda_device(to_i32(index), error) })
}
