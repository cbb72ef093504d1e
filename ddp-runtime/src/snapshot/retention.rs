//! Which snapshots are removed when a new one is saved, and what this process knows of those that stay.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

pub use ddp_contract::retention::Goal;
use ddp_contract::retention::{self, Candidate, Retention};
use ddp_contract::snapshot::{self as format, MANIFEST};

use crate::worker::say::say;

/// Which snapshots stay; all, by default.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Policy {
    pub(super) last: Option<usize>,
    pub(super) best: Option<(usize, Goal)>,
    pub(super) every: Option<u64>,
}

/// What this process knows of the snapshots in its directory. Clones share it.
///
/// To verify a snapshot, all of it is read. Each is verified once: afterwards it is valid for as long as none of its files
/// was touched, which a look at their sizes and times shows.
#[derive(Clone, Debug, Default)]
pub(super) struct Known(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    /// What was written or verified by this process, and whether it was valid.
    verified: HashMap<PathBuf, (Vec<Stamp>, bool)>,
    /// The snapshot that the run resumed from.
    resumed: Option<PathBuf>,
    /// What could not be removed: the warning is printed once.
    stuck: HashSet<PathBuf>,
    cleaned: bool,
}

/// What changes when a file is written to.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Stamp {
    name: String,
    place: (u64, u64),
    bytes: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Known {
    /// The snapshot in `folder` is valid: this process wrote or verified it just now.
    pub(super) fn is_valid(&self, folder: &Path) {
        if let Some(stamps) = stamps(folder) {
            self.lock().verified.insert(folder.to_owned(), (stamps, true));
        }
    }

    /// The run resumes from the snapshot in `folder`, which is valid.
    pub(super) fn resumed(&self, folder: &Path) {
        self.is_valid(folder);
        self.lock().resumed = Some(folder.to_owned());
    }

    /// Removes what interrupted saves have left in `dir`, once. What can't be removed stays, with a warning.
    pub(super) fn clean(&self, dir: &Path) {
        if std::mem::replace(&mut self.lock().cleaned, true) {
            return;
        }
        for leftover in retention::leftovers(dir).unwrap_or_default() {
            self.discard(&leftover);
        }
    }

    /// Removes a directory or a link that is not (or no longer) a snapshot.
    pub(super) fn discard(&self, path: &Path) {
        match fs::remove_dir_all(path) {
            Err(err) if err.kind() != ErrorKind::NotFound => self.lock().warn(path, &err),
            _ => {}
        }
    }

    /// Removes what need not stay, now that the snapshot in `written` exists. What can't be removed stays.
    pub(super) fn prune(&self, policy: Policy, dir: &Path, written: &Path) {
        let Some(last) = policy.last else { return };
        let folders = match format::list(dir) {
            Ok(folders) => folders,
            Err(err) => {
                return say(format_args!("warning: can't read {}: {err}; no snapshots are removed", dir.display()));
            }
        };
        let candidate = |folder: PathBuf| {
            let manifest = format::read_manifest(&folder).ok()?;
            Candidate::new(folder, &manifest)
        };
        let snapshots: Vec<Candidate> = folders.into_iter().filter_map(candidate).collect();
        let mut inner = self.lock();
        inner.verified.retain(|folder, _| snapshots.iter().any(|snapshot| snapshot.folder == *folder));
        // One from before a later one, which this run did not resume from, is not the newest by its number.
        let mut needed = vec![written.to_owned()];
        needed.extend(inner.resumed.clone().filter(|resumed| format::step_of(resumed) > format::step_of(written)));
        let retention = Retention { last, best: policy.best, every: policy.every };
        let stays = retention.stays(dir, &snapshots, &needed, |folder| inner.verify(folder));
        for (snapshot, _) in snapshots.iter().zip(stays).filter(|(_, stays)| !stays) {
            if inner.stuck.contains(&snapshot.folder) {
                continue;
            }
            match retention::remove(&snapshot.folder) {
                Err(err) if err.kind() == ErrorKind::ResourceBusy => {} // the next time
                Err(err) => inner.warn(&snapshot.folder, &err),
                Ok(()) => {}
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// Whether the snapshot in `folder` is valid.
    fn verify(&mut self, folder: &Path) -> bool {
        let Some(now) = stamps(folder) else { return false };
        if let Some((then, valid)) = self.verified.get(folder)
            && *then == now
        {
            return *valid;
        }
        let damage = format::verify(folder).err();
        if let Some(damage) = &damage {
            let folder = folder.display();
            say(format_args!("warning: ignoring snapshot {folder}: {damage}"));
        }
        self.verified.insert(folder.to_owned(), (now, damage.is_none()));
        damage.is_none()
    }

    fn warn(&mut self, path: &Path, err: &std::io::Error) {
        if self.stuck.insert(path.to_owned()) {
            say(format_args!("warning: can't remove {}: {err}; training continues", path.display()));
        }
    }
}

/// The stamps of a snapshot's files; `None` if one can't be looked at.
fn stamps(folder: &Path) -> Option<Vec<Stamp>> {
    let manifest = format::read_manifest(folder).ok()?;
    let names = manifest.files.into_keys().chain([MANIFEST.to_owned()]);
    let stamp = |name: String| {
        let found = fs::metadata(folder.join(&name)).ok()?;
        Some(Stamp {
            name,
            place: (found.dev(), found.ino()),
            bytes: found.len(),
            modified: (found.mtime(), found.mtime_nsec()),
            changed: (found.ctime(), found.ctime_nsec()),
        })
    };
    names.map(stamp).collect()
}
