//! What a training loop is made of.

pub mod amp;
pub(crate) mod floats;
pub(crate) mod loss_guard;
pub mod lr_scheduler;
pub(crate) mod mean;
pub mod optim;
pub(crate) mod rank_diff;
pub(crate) mod run;
pub(crate) mod scaled;
pub(crate) mod state_dict;
pub(crate) mod stateful;
pub(crate) mod trainer;
