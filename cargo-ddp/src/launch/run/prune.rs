//! Removes the logs of old runs.
//!
//! The directory of runs may be the user's own (`--log-dir data`). So pruning removes what the launcher wrote, by name, and
//! nothing of a directory without a marker; metrics, plots, and whatever else a program or its user put there stay.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use super::files;
use super::presence::{Presence, presence};

/// Removes what the launcher of a run that has ended wrote to its attempts, and the directory, if nothing but the launcher's
/// own files is left. Says whether anything was removed.
pub(super) fn prune(path: &Path) -> bool {
    let is_directory = fs::symlink_metadata(path).is_ok_and(|found| found.is_dir());
    if !is_directory || presence(path) != Presence::Ended {
        return false;
    }
    let mut removed = false;
    let mut others = false;
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if is_attempt(&name) && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            removed |= remove_logs(&entry.path());
            others |= fs::remove_dir(entry.path()).is_err();
        } else {
            others |= !files::ALL.contains(&name.as_str());
        }
    }
    if !others {
        // The marker last: what a kill leaves is still known as a run.
        removed |= files::ALL.iter().all(|name| remove_file(&path.join(name))) && fs::remove_dir(path).is_ok();
    }
    removed
}

fn is_attempt(name: &str) -> bool {
    name.strip_prefix("attempt-").is_some_and(|number| number.parse::<u32>().is_ok())
}

/// `rank-3.stderr.log.1` and the like.
fn is_of_rank(name: &str) -> bool {
    const KINDS: [&str; 7] =
        ["stdout.log", "stdout.log.1", "stderr.log", "stderr.log.1", "error.json", "error.partial", "stacks.txt"];
    let parts = name.strip_prefix("rank-").and_then(|rest| rest.split_once('.'));
    parts.is_some_and(|(rank, kind)| rank.parse::<usize>().is_ok() && KINDS.contains(&kind))
}

fn remove_logs(attempt: &Path) -> bool {
    let entries = fs::read_dir(attempt).into_iter().flatten().flatten();
    let logs = entries.filter(|entry| entry.file_name().to_str().is_some_and(is_of_rank));
    logs.filter(|entry| fs::remove_file(entry.path()).is_ok()).count() > 0
}

/// Whether the file is gone.
fn remove_file(path: &Path) -> bool {
    fs::remove_file(path).map_or_else(|err| err.kind() == ErrorKind::NotFound, |()| true)
}
