//! cargo: where a project is, what it has, and how cargo is configured there.

mod config;
mod host;
mod program;
mod programs;
mod project;
mod runner;
mod select;
mod settings;

pub(in crate::project) use config::included;
pub use config::{BuildConfig, BuildTarget, TARGET_DIR_VARIABLES, TARGET_VARIABLE, home};
pub use host::host;
pub use program::{program, reads_included_files};
pub use project::{Project, Selection};
pub(in crate::project) use select::Chosen;
pub use settings::{SettingsTable, SettingsTables};
