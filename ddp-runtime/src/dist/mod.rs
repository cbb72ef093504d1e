//! What the ranks of a job do together: meeting, collectives, and gradients that are averaged while backward runs.

pub(crate) mod before_save;
pub(crate) mod carriable;
pub(crate) mod collectives;
pub mod comm_hook;
pub(crate) mod consensus;
pub(crate) mod context;
pub(crate) mod ddp;
mod device;
pub(crate) mod fnv;
pub(crate) mod health;
mod in_hook;
mod known_parameters;
mod listen;
mod overdue;
pub(crate) mod params;
pub(crate) mod process_group;
mod reducer;
pub(crate) mod resume_point;
mod spans;
pub(crate) mod store;
mod values;
pub(crate) mod work;
pub(crate) mod world;
