//! `Autocast`: PyTorch's `torch.autocast`.

use tch::{Device, Kind};

use crate::error::check;
use crate::{Error, Result, sys};

/// Computes the operators that gain from it in a lower precision: `torch.autocast` (`torch/amp/autocast_mode.py`, with
/// its lists of operators per device).
///
/// Put the forward pass and the loss in [`run`](Self::run); the backward pass follows by itself.
#[derive(Clone, Copy, Debug)]
pub struct Autocast(sys::ddp_autocast_state);

impl Autocast {
    /// Computes in `kind`, `BFloat16` or `Half`, on `device`.
    ///
    /// # Errors
    /// [`Error::Invalid`] for another dtype, or a device that is neither a CPU nor CUDA.
    pub fn new(device: Device, kind: Kind) -> Result<Self> {
        match kind {
            Kind::Half => Self::with(device, HALF, true),
            Kind::BFloat16 => Self::with(device, BFLOAT16, true),
            _ => Err(Error::Invalid(format!("autocast supports BFloat16 and Half, not {kind:?}"))),
        }
    }

    /// Computes as if outside of any autocast: for a part inside of one that needs full precision
    /// (`torch.autocast(enabled=False)`), or to have one loop for all precisions. Tensors that come from outside may be
    /// of a lower precision: convert them first.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a device that is neither a CPU nor CUDA.
    pub fn disabled(device: Device) -> Result<Self> {
        Self::with(device, BFLOAT16, false)
    }

    fn with(device: Device, dtype: i32, enabled: bool) -> Result<Self> {
        let device = match device {
            Device::Cpu => sys::DDP_CPU,
            Device::Cuda(_) => sys::DDP_CUDA,
            other => return Err(Error::Invalid(format!("autocast does not support {other:?}"))),
        };
        Ok(Self(sys::ddp_autocast_state { device, dtype, enabled, cache_enabled: true }))
    }

    /// Runs `f`. What is cast of a parameter is kept until the outermost one ends. It counts for the calling thread.
    pub fn run<T>(&self, f: impl FnOnce() -> T) -> T {
        let mut previous = sys::ddp_autocast_state::default();
        // SAFETY: both are live for the call, which touches this thread's state only.
        check("autocast", |error| unsafe { sys::ddp_autocast_enter(&self.0, &mut previous, error) })
            .expect("CPU and CUDA have an autocast state");
        let _previous = Previous(previous);
        f()
    }
}

const HALF: i32 = 5; // c10::ScalarType
const BFLOAT16: i32 = 15;

/// Puts a thread's state back, also when a panic passes.
struct Previous(sys::ddp_autocast_state);

impl Drop for Previous {
    fn drop(&mut self) {
        // SAFETY: what `ddp_autocast_enter` gave, in the same thread. It can't fail for a state that was there.
        let _ = check("autocast", |error| unsafe { sys::ddp_autocast_exit(&self.0, error) });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Tensor;

    fn product() -> Kind {
        let a = Tensor::ones([2, 2], (Kind::Float, Device::Cpu));
        a.matmul(&a).kind()
    }

    #[test]
    fn autocast_lowers_products_inside_only() {
        let bfloat16 = Autocast::new(Device::Cpu, Kind::BFloat16).unwrap();
        let inside = bfloat16.run(|| {
            let nested = Autocast::disabled(Device::Cpu).unwrap().run(product);
            (product(), nested, product())
        });
        assert_eq!(inside, (Kind::BFloat16, Kind::Float, Kind::BFloat16));
        assert_eq!(Autocast::new(Device::Cpu, Kind::Half).unwrap().run(product), Kind::Half);
        assert_eq!(product(), Kind::Float);
    }

    #[test]
    fn autocast_ends_with_a_panic() {
        let bfloat16 = Autocast::new(Device::Cpu, Kind::BFloat16).unwrap();
        let panicked = std::panic::catch_unwind(|| bfloat16.run(|| panic!("inside")));
        assert!(panicked.is_err());
        assert_eq!(product(), Kind::Float);
    }

    #[test]
    fn autocast_refuses_other_dtypes() {
        assert!(matches!(Autocast::new(Device::Cpu, Kind::Float), Err(Error::Invalid(_))));
    }
}
