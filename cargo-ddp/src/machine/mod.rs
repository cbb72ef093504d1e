//! The machine that jobs run on.

pub mod gpus;
