//! What a training loop is made of.

pub mod amp;
pub(crate) mod loss_guard;
pub mod lr_scheduler;
pub mod optim;
pub(crate) mod trainer;
