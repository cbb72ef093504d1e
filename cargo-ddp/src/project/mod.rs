//! A project: finding and building it with cargo, the libtorch that it links, and the builds that it shares with others.

pub mod cargo;
pub mod libtorch;
pub mod shared;
pub mod trainable;
