//! What the operating system offers, and how to ask for it: processes, signals, descriptors, files.
//!
//! All that only Linux has is here: pidfds, epoll, /proc and /sys, subreapers, affinity. The rest of the crate keeps to what
//! Unix systems have in common; a test checks it.

pub(crate) mod abstract_socket;
pub(crate) mod adopted;
pub(crate) mod aside;
pub(crate) mod binary;
pub(crate) mod child;
pub(crate) mod cpus;
pub(crate) mod deaths;
pub(crate) mod descriptors;
pub(crate) mod filesystem;
pub(crate) mod host;
pub mod inherited;
pub(crate) mod interfaces;
pub(crate) mod interpreter;
pub(crate) mod json;
pub(crate) mod loopback;
pub(crate) mod origin;
pub mod output;
pub(crate) mod pci;
pub(crate) mod pidfd;
pub(crate) mod private;
pub(crate) mod proc;
pub(crate) mod reap;
pub(crate) mod signals;
pub(crate) mod stdio;
pub(crate) mod wake;
