//! `cargo ddp snapshot prune`: removes old snapshots by the retention rule of runs.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use ddp_contract::lock::Lock;
pub use ddp_contract::retention::Goal;
/// What stays: the rule is the same as in a run.
pub use ddp_contract::retention::Retention;
use ddp_contract::retention::{self, Candidate};
use ddp_contract::snapshot::{MANIFEST, SnapshotError};

use super::find::{Listed, list};
use crate::Result;

/// What was done, or would be.
#[derive(Debug, Default)]
pub struct Pruned {
    /// Snapshots that went, and their bytes.
    pub removed: Vec<(PathBuf, u64)>,
    /// Valid snapshots that stay.
    pub kept: Vec<PathBuf>,
    /// Damaged ones, which are left alone: they may be all that is left of something.
    pub damaged: Vec<(PathBuf, SnapshotError)>,
    /// Links to directories.
    pub links: Vec<PathBuf>,
    /// Snapshots that could not be removed, and why.
    pub stuck: Vec<(PathBuf, io::Error)>,
}

/// Removes the snapshots below `dir` that need not stay; with `dry_run`, only lists them. Links to directories are left
/// alone, and do not count.
///
/// # Errors
/// As [`list`].
pub fn prune(dir: &Path, keep: Retention, dry_run: bool) -> Result<Pruned> {
    let mut pruned = Pruned::default();
    let mut valid = Vec::new();
    for Listed { folder, bytes, manifest, .. } in list(dir)?.into_iter().rev() {
        match manifest {
            Ok(manifest) => match Candidate::new(folder.clone(), &manifest) {
                Some(candidate) => valid.push((candidate, bytes)),
                None => pruned.links.push(folder),
            },
            Err(damage) => pruned.damaged.push((folder, damage)),
        }
    }
    // The run that writes there may have begun again at lower steps.
    let newest_in_time = Lock::holder(dir).and_then(|_| {
        let written = |candidate: &Candidate| fs::metadata(candidate.folder.join(MANIFEST)).and_then(|m| m.modified());
        let times = valid.iter().filter_map(|(candidate, _)| Some((written(candidate).ok()?, &candidate.folder)));
        times.max().map(|(_, folder)| folder.clone())
    });
    let needed: Vec<PathBuf> = newest_in_time.into_iter().collect();
    let (candidates, bytes): (Vec<_>, Vec<_>) = valid.into_iter().unzip();
    let stays = keep.stays(dir, &candidates, &needed, |_| true);
    // Oldest first, as they are listed.
    for ((Candidate { folder, .. }, bytes), stays) in candidates.into_iter().zip(bytes).zip(stays).rev() {
        if stays {
            pruned.kept.push(folder);
        } else if dry_run {
            pruned.removed.push((folder, bytes));
        } else {
            match retention::remove(&folder) {
                Ok(()) => pruned.removed.push((folder, bytes)),
                Err(err) => pruned.stuck.push((folder, err)),
            }
        }
    }
    pruned.damaged.reverse();
    Ok(pruned)
}
