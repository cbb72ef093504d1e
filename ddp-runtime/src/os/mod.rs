//! What this crate asks of the operating system beyond the standard library: all that is special to Linux is in this folder.

pub(crate) mod fd;
pub(crate) mod files;
pub(crate) mod launcher;
pub(crate) mod memory;
pub(crate) mod process;
pub(crate) mod requests;
pub(crate) mod signals;
