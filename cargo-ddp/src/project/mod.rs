//! A project: finding and building it with cargo, and the libtorch that it links.

pub mod cargo;
pub mod libtorch;
pub mod trainable;
