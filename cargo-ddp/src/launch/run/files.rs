//! The launcher's own files in a run's directory.

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use ddp_contract::job::{FILE, Job, Origin};
use serde::{Deserialize, Serialize};

use super::previous;
use crate::os::{json, private};

/// In each run's directory: marks it as one, and names the process and the machine that made it.
pub(super) const MARKER: &str = ".cargo-ddp-run";
/// In each run's directory: locked as long as the launcher lives.
pub(super) const LOCK: &str = ".lock";
/// The extension of a launcher's file that is being written.
const PARTIAL: &str = "partial";
/// All of them, with those of earlier versions. The marker is the last.
pub(super) const ALL: [&str; 8] =
    ["job.partial", "run.partial", "report.partial", previous::REPORT_FILE, previous::RUN_FILE, FILE, LOCK, MARKER];

/// The content of the marker. A marker without a version has version 0.
#[derive(Serialize, Deserialize)]
pub(super) struct Marker {
    #[serde(default)]
    pub(super) version: u32,
    #[serde(flatten)]
    pub(super) origin: Origin,
}

/// The version of markers that are written.
pub(super) const MARKER_VERSION: u32 = 1;

/// Replaces a file of the launcher in a run's directory: complete or not at all, and for its owner alone, as it may hold
/// the arguments of a program.
pub(super) fn write(path: &Path, content: &[u8]) -> io::Result<()> {
    let partial = path.with_extension(PARTIAL);
    let _ = fs::remove_file(&partial);
    let mut file = private::create(&partial)?;
    file.write_all(content)?;
    fs::rename(partial, path)
}

/// Whether this is the directory of a run. Earlier versions left no marker, but a `run.json`.
pub(crate) fn is_run(path: &Path) -> bool {
    path.join(MARKER).is_file() || json::read::<previous::RunFile>(&path.join(previous::RUN_FILE)).is_some()
}

/// The job of the run in this directory, in the present format or the one before.
pub(crate) fn load(path: &Path) -> Option<Job> {
    json::read(&path.join(FILE)).or_else(|| previous::load(path))
}
