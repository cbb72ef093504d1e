//! What `cargo-ddp` (the launcher) and `ddp-runtime` (the library inside a worker) agree on.
//!
//! The two never link each other: the launcher must not load libtorch, the runtime must not know cargo. Everything
//! that passes between them is named here once: [environment variables](mod@env), the [event stream](Event), the
//! [error file](ErrorFile), the [job file](mod@job), the [snapshot folder](snapshot) with its [lock] and its [retention],
//! the [file of metrics](metrics), and the [comparison of ranks](rank_diff). Whatever is written to disk, to a pipe or to a
//! socket may be read by another version, so readers ignore what they do not know.

mod aliases;
mod checksum;
mod error_file;
mod events;
mod file_names;
mod hold;
mod os;

pub mod env;
pub mod exit;
pub mod file;
pub mod job;
pub mod join;
pub mod lock;
pub mod metrics;
pub mod rank_diff;
pub mod retention;
pub mod snapshot;
pub mod text;

pub use error_file::{ErrorFile, LOST_PEER};
pub use events::Event;
