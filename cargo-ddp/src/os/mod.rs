//! What the operating system offers, and how to ask for it: processes, signals, descriptors, files.

pub(crate) mod adopted;
pub(crate) mod aside;
pub(crate) mod binary;
pub(crate) mod child;
pub(crate) mod descriptors;
pub(crate) mod host;
pub mod inherited;
pub(crate) mod interfaces;
pub(crate) mod interpreter;
pub(crate) mod json;
pub(crate) mod loopback;
pub(crate) mod origin;
pub mod output;
pub(crate) mod private;
pub(crate) mod reap;
pub(crate) mod signals;
pub(crate) mod stdio;
