//! A snapshot that a program is reading is not removed by another one.
//!
//! The reader holds a shared `flock` on the manifest; removing the snapshot needs an exclusive one. On a file system without
//! `flock`, nothing is held.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::Path;
use std::sync::Arc;

use crate::file;
use crate::file_names::MANIFEST;
use crate::lock::is_at;
use crate::os::{Flock, flock_exclusive, flock_shared};

/// Keeps a snapshot from being removed, until all clones are dropped.
#[derive(Clone, Debug)]
pub struct Hold(#[expect(dead_code, reason = "it is locked while it is open")] Option<Arc<File>>);

impl Hold {
    /// Holds the snapshot in `folder`; `None` if it was removed or is being removed. A snapshot without a readable manifest
    /// can't be held, which is not an error here.
    pub fn acquire(folder: &Path) -> Option<Self> {
        let manifest = folder.join(MANIFEST);
        let Ok(file) = file::open(&manifest) else { return folder.exists().then_some(Self(None)) };
        match flock_shared(&file) {
            Ok(Flock::Taken) => is_at(&file, &manifest).then(|| Self(Some(Arc::new(file)))),
            Ok(Flock::Busy) => None,
            Ok(Flock::Unsupported) | Err(_) => Some(Self(None)),
        }
    }
}

/// The right to remove a snapshot, until it is dropped.
///
/// # Errors
/// [`ResourceBusy`](io::ErrorKind::ResourceBusy) if it is being read.
pub(crate) fn claim(folder: &Path) -> io::Result<Option<File>> {
    let manifest = folder.join(MANIFEST);
    // NFS wants a file that can be written to for an exclusive lock.
    let opened = file::regular(OpenOptions::new().read(true).write(true), &manifest).or_else(|_| file::open(&manifest));
    let Ok(file) = opened else { return Ok(None) };
    match flock_exclusive(&file) {
        Ok(Flock::Busy) => Err(io::Error::new(io::ErrorKind::ResourceBusy, "another program is reading it")),
        _ => Ok(Some(file)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::retention;
    use std::fs;

    /// Tries again while a process that another test is starting has copies of this one's descriptors, until its exec.
    fn when_free<T>(act: impl Fn() -> io::Result<T>) -> T {
        for _ in 0..200 {
            match act() {
                Err(err) if err.kind() == io::ErrorKind::ResourceBusy => {
                    std::thread::sleep(std::time::Duration::from_millis(10));
                }
                done => return done.expect("nobody reads it"),
            }
        }
        panic!("it is still being read");
    }

    #[test]
    fn snapshot_is_removed_when_nobody_reads_it() {
        let dir = std::env::temp_dir().join(format!("ddp-contract-hold-{}", std::process::id()));
        let folder = dir.join("step-00000001");
        fs::create_dir_all(&folder).expect("a temporary folder");
        assert!(Hold::acquire(&folder).is_some(), "without a manifest it is not held");
        fs::write(folder.join(MANIFEST), "{}").expect("a temporary file");
        let first = Hold::acquire(&folder).expect("nobody removes it");
        let second = Hold::acquire(&folder).expect("several may read");
        for reader in [first, second] {
            let err = retention::remove(&folder).expect_err("it is being read");
            assert_eq!(err.kind(), io::ErrorKind::ResourceBusy);
            assert!(folder.join(MANIFEST).exists());
            drop(reader);
        }
        let claimed = when_free(|| claim(&folder));
        assert!(Hold::acquire(&folder).is_none(), "it is being removed");
        drop(claimed);
        when_free(|| retention::remove(&folder));
        assert!(!folder.exists() && Hold::acquire(&folder).is_none());
        fs::remove_dir(&dir).expect("nothing is left in it");
    }
}
