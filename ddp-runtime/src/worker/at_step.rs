//! `cargo ddp run --at-step N`: the step at whose end all ranks stop, and the folder in place of the program's own snapshots.

use std::path::PathBuf;

use ddp_contract::env;

use super::variables;
use crate::{Error, Result};

/// Where a job of `--at-step` stops.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AtStep {
    /// Optimizer steps that are done then.
    pub(crate) step: u64,
    /// Snapshots are loaded from here and saved here, whatever folder the program opens.
    pub(crate) dir: PathBuf,
}

impl AtStep {
    /// What the launcher has set; `None` for any other job.
    ///
    /// # Errors
    /// [`Error::BadVariable`] and [`Error::MissingVariable`].
    pub(crate) fn from_env() -> Result<Option<Self>> {
        let Some(step) = variables::number::<u64>(env::AT_STEP)? else { return Ok(None) };
        let dir = std::env::var_os(env::AT_STEP_DIR).filter(|dir| !dir.is_empty()).map(PathBuf::from);
        let dir = dir.ok_or_else(|| Error::BadVariable {
            name: env::AT_STEP,
            value: step.to_string(),
            problem: format!("{} is not set; start the job with `cargo ddp run --at-step {step}`", env::AT_STEP_DIR),
        })?;
        Ok(Some(Self { step, dir }))
    }
}
