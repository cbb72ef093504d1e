//! What can be looked at: the machine, snapshots on disk, what runs have measured.

pub mod doctor;
#[cfg(feature = "plot")]
pub mod plots;
pub mod snapshots;
