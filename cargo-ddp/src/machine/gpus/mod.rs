//! The machine's GPUs, through NVML, the driver's own interface. A missing driver is an answer, not a failure.

mod gpu;
mod nvml;
mod select;

pub use gpu::{Gpu, gigabytes};
#[cfg(test)]
pub(crate) use gpu::{Memory, User};
pub(crate) use nvml::list_or_problem;
pub use nvml::{driver_present, list};
pub use select::{available, count, select};
