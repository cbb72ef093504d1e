//! libtorch with CUDA, and without.

use crate::machine::gpus;

/// The CUDA that libtorch's wheels are built with (`cu130`).
pub(crate) const CUDA: (u32, u32) = (13, 0);

/// With or without CUDA.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flavor {
    /// Without CUDA: a quarter of the size, and faster to load.
    Cpu,
    /// With CUDA and NCCL.
    Cuda,
}

impl Flavor {
    /// What this machine wants: CUDA where there is an NVIDIA driver.
    pub fn of_this_machine() -> Self {
        if gpus::driver_present() { Self::Cuda } else { Self::Cpu }
    }

    /// `cpu` or `cuda`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Cuda => "cuda",
        }
    }
}
