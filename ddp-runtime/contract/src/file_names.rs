//! The files of a snapshot.

/// The manifest's file name.
pub const MANIFEST: &str = "state.json";
/// The model's file name: parameters and buffers under their plain names.
pub const MODEL: &str = "model.safetensors";
/// The optimizer's file name: state tensors as `<parameter>.<state>`.
pub const OPTIMIZER: &str = "optimizer.safetensors";
/// The file name of tensors of other objects, such as a running mean of the weights; absent if there are none.
pub const STATES: &str = "states.safetensors";
/// The file name of the ranks' random number generators: byte tensors `rank<R>.cpu` and, on a GPU, `rank<R>.cuda`.
pub const RNG: &str = "rng.safetensors";
