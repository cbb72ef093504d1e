//! Questions to file systems that POSIX has no calls for.

use std::fs;
use std::io;
use std::path::Path;

use rustix::fs::{CWD, RenameFlags, renameat_with, statfs};

/// Whether the file system belongs to this machine alone, so that all locks on it are seen here.
pub(crate) fn is_local(path: &Path) -> bool {
    /// ext2 to 4, XFS, Btrfs, tmpfs, overlayfs, ZFS, F2FS, bcachefs: the numbers are those of statfs(2).
    const LOCAL: [u32; 8] =
        [0xef53, 0x5846_5342, 0x9123_683e, 0x0102_1994, 0x794c_7630, 0x2fc1_2fc1, 0xf2f5_2010, 0xca45_1a4e];
    statfs(path).is_ok_and(|found| LOCAL.contains(&(found.f_type as u32)))
}

/// Renames, unless `to` exists: then the error is [`io::ErrorKind::AlreadyExists`]. A file system that can't promise that may
/// replace an empty folder.
pub(crate) fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        Ok(()) => Ok(()),
        Err(rustix::io::Errno::EXIST) => Err(rustix::io::Errno::EXIST.into()),
        Err(_) => fs::rename(from, to),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rename_new_replaces_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let [from, to] = ["from", "to"].map(|name| folder.path().join(name));
        fs::create_dir(&from).unwrap();
        fs::create_dir(&to).unwrap();
        assert_eq!(rename_new(&from, &to).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        fs::remove_dir(&to).unwrap();
        rename_new(&from, &to).unwrap();
        assert!(to.is_dir() && !from.exists());
    }
}
