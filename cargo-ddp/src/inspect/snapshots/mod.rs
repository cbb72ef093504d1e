//! Snapshots on disk, without libtorch: what they hold, whether they are valid, and import from and export to other
//! programs.
//!
//! | file | what it does |
//! |---|---|
//! | `find` | which snapshot a path means; lists all of them |
//! | `tensors` | safetensors files, read in place |
//! | `nearby` | the default folders of snapshots |
//! | `foreign` | identifies files that are not safetensors |
//! | `diff` | how two sets of tensors differ |
//! | `prune` | which snapshots are removed |
//! | `names` | from one program's names of tensors to another's |
//! | `export` | a model as one file, for other programs |
//! | `torch_file` | PyTorch's `.pt` |
//! | `import` | a snapshot from another program's file |

mod diff;
mod export;
mod find;
mod foreign;
mod import;
mod names;
mod nearby;
mod prune;
mod tensors;
mod torch_file;

pub use diff::{Change, Comparison, compare};
pub use export::export;
pub use find::{Listed, list, newest_valid};
pub use import::import;
pub use names::Names;
pub use nearby::usual_folder;
pub use prune::{Goal, Retention, prune};
pub use tensors::{TensorFile, TensorInfo};
