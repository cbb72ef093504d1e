//! Settings of libtorch's backends, for the whole process: `torch.backends`, `torch.set_float32_matmul_precision` and
//! `torch.use_deterministic_algorithms`.
//!
//! Set them once, before training. They can be set without a GPU, too. What they change is not stored in snapshots.
//!
//! ```
//! use ddp_runtime::backends::{self, MatmulPrecision};
//!
//! # fn main() -> ddp_runtime::Result<()> {
//! backends::set_float32_matmul_precision(MatmulPrecision::High)?; // TF32 on NVIDIA's tensor cores
//! assert_eq!(backends::float32_matmul_precision()?, MatmulPrecision::High);
//! # backends::set_float32_matmul_precision(MatmulPrecision::Highest)
//! # }
//! ```

use crate::error::check;
use crate::{Result, sys};

/// How `Float` matrices are multiplied inside; the result is `Float` always.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MatmulPrecision {
    /// In `Float`: libtorch's default.
    #[default]
    Highest = 0,
    /// In TF32 (10 bits of mantissa), where the hardware has it. This is `torch.backends.cuda.matmul.allow_tf32 = True`.
    High = 1,
    /// In bfloat16 (7 bits), where there is a fast algorithm for it; on CUDA as [`High`](Self::High).
    Medium = 2,
}

/// Sets how `Float` matrices are multiplied (`torch.set_float32_matmul_precision`).
///
/// # Errors
/// [`Error::Torch`](crate::Error::Torch).
pub fn set_float32_matmul_precision(precision: MatmulPrecision) -> Result<()> {
    // SAFETY: a number and an error slot.
    check("setting the matmul precision", |error| unsafe { sys::ddp_set_matmul_precision(precision as i32, error) })
}

/// How `Float` matrices are multiplied (`torch.get_float32_matmul_precision`).
///
/// # Errors
/// [`Error::Torch`](crate::Error::Torch).
pub fn float32_matmul_precision() -> Result<MatmulPrecision> {
    let mut precision = 0;
    // SAFETY: `precision` is written on success only.
    check("reading the matmul precision", |error| unsafe { sys::ddp_get_matmul_precision(&mut precision, error) })?;
    let all = [MatmulPrecision::Highest, MatmulPrecision::High];
    Ok(all.into_iter().find(|known| *known as i32 == precision).unwrap_or(MatmulPrecision::Medium))
}

/// Lets cuDNN's convolutions of `Float` tensors use TF32 (`torch.backends.cudnn.allow_tf32`): on by default.
///
/// # Errors
/// [`Error::Torch`](crate::Error::Torch).
pub fn set_cudnn_allow_tf32(allow: bool) -> Result<()> {
    set(Flag::CudnnAllowTf32, allow)
}

/// Whether cuDNN's convolutions may use TF32.
///
/// # Errors
/// [`Error::Torch`](crate::Error::Torch).
pub fn cudnn_allow_tf32() -> Result<bool> {
    get(Flag::CudnnAllowTf32)
}

/// Makes cuDNN try its algorithms on the first input of each shape, and keep the fastest (`torch.backends.cudnn.benchmark`):
/// off by default. It helps where shapes stay the same.
///
/// # Errors
/// [`Error::Torch`](crate::Error::Torch).
pub fn set_cudnn_benchmark(benchmark: bool) -> Result<()> {
    set(Flag::CudnnBenchmark, benchmark)
}

/// Whether cuDNN tries its algorithms.
///
/// # Errors
/// [`Error::Torch`](crate::Error::Torch).
pub fn cudnn_benchmark() -> Result<bool> {
    get(Flag::CudnnBenchmark)
}

/// Restricts cuDNN to deterministic algorithms (`torch.backends.cudnn.deterministic`): off by default.
/// [`use_deterministic_algorithms`] does this and more.
///
/// # Errors
/// [`Error::Torch`](crate::Error::Torch).
pub fn set_cudnn_deterministic(deterministic: bool) -> Result<()> {
    set(Flag::CudnnDeterministic, deterministic)
}

/// Whether cuDNN is restricted to deterministic algorithms.
///
/// # Errors
/// [`Error::Torch`](crate::Error::Torch).
pub fn cudnn_deterministic() -> Result<bool> {
    get(Flag::CudnnDeterministic)
}

/// Makes every operator deterministic: the same input on the same hardware gives the same bits
/// (`torch.use_deterministic_algorithms`). An operator without a deterministic algorithm is an error, or, with `warn_only`, a
/// warning on stderr.
///
/// On CUDA, cuBLAS needs the environment variable `CUBLAS_WORKSPACE_CONFIG=:4096:8`, and operators that use it are errors
/// without it.
///
/// # Errors
/// [`Error::Torch`](crate::Error::Torch).
pub fn use_deterministic_algorithms(enabled: bool, warn_only: bool) -> Result<()> {
    // SAFETY: two flags and an error slot.
    check("setting deterministic algorithms", |error| unsafe { sys::ddp_set_deterministic(enabled, warn_only, error) })
}

/// Whether operators must be deterministic (`torch.are_deterministic_algorithms_enabled`); true with `warn_only`, too.
///
/// # Errors
/// [`Error::Torch`](crate::Error::Torch).
pub fn are_deterministic_algorithms_enabled() -> Result<bool> {
    Ok(deterministic()?.0)
}

/// Whether an operator that is not deterministic is a warning only
/// (`torch.is_deterministic_algorithms_warn_only_enabled`).
///
/// # Errors
/// [`Error::Torch`](crate::Error::Torch).
pub fn is_deterministic_algorithms_warn_only_enabled() -> Result<bool> {
    Ok(deterministic()?.1)
}

fn deterministic() -> Result<(bool, bool)> {
    let (mut enabled, mut warn_only) = (false, false);
    // SAFETY: both are written on success only.
    check("reading deterministic algorithms", |error| unsafe {
        sys::ddp_get_deterministic(&mut enabled, &mut warn_only, error)
    })?;
    Ok((enabled, warn_only))
}

/// As in `ddp_backend_flag`.
#[derive(Clone, Copy)]
enum Flag {
    CudnnAllowTf32 = 0,
    CudnnBenchmark = 1,
    CudnnDeterministic = 2,
}

fn set(flag: Flag, value: bool) -> Result<()> {
    // SAFETY: a number, a flag and an error slot.
    check("setting a backend's flag", |error| unsafe { sys::ddp_set_backend_flag(flag as i32, value, error) })
}

fn get(flag: Flag) -> Result<bool> {
    let mut value = false;
    // SAFETY: `value` is written on success only.
    check("reading a backend's flag", |error| unsafe { sys::ddp_get_backend_flag(flag as i32, &mut value, error) })?;
    Ok(value)
}
