//! What the user should know about a plan, such as GPUs that others use.

use super::Binding;

/// Something about a plan that the user should know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Note {
    /// The machine has no GPU, and the user chose no number of workers: there will be one, on the CPU.
    NoGpu,
    /// Others use a GPU of the job.
    BusyGpu {
        /// The GPU.
        gpu: String,
        /// Who uses it, and how much of its memory.
        busy: String,
    },
    /// Where the workers are bound, by rank.
    Bindings(Vec<Binding>),
}
