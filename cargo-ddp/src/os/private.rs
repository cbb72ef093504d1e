//! Files and folders that other users of the machine can't read, and that a symlink can't redirect.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

/// Of files: what is in them is the user's alone.
pub(crate) const FILE: u32 = 0o600;
const FOLDER: u32 = 0o700;

/// Creates a file, or empties it.
pub(crate) fn create(path: &Path) -> io::Result<File> {
    options().truncate(true).open(path)
}

/// Opens a file to lock it, or creates it. What is in it stays.
pub(crate) fn open_lock(path: &Path) -> io::Result<File> {
    options().open(path)
}

fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.write(true).create(true).mode(FILE).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
    options
}

/// Creates a folder.
pub(crate) fn create_dir(path: &Path) -> io::Result<()> {
    DirBuilder::new().mode(FOLDER).create(path)
}

/// Creates a folder and those above it that do not exist.
pub(crate) fn create_dir_all(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(FOLDER).create(path)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn private_file_follows_no_link_and_is_not_readable_by_others() {
        let dir = tempfile::tempdir().unwrap();
        let victim = dir.path().join("victim");
        fs::write(&victim, "important").unwrap();
        let link = dir.path().join("lock");
        symlink(&victim, &link).unwrap();
        assert!(create(&link).is_err() && open_lock(&link).is_err());
        assert_eq!(fs::read_to_string(&victim).unwrap(), "important");
        let folder = dir.path().join("a/b");
        create_dir_all(&folder).unwrap();
        create(&folder.join("file")).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!([mode(&folder), mode(&folder.join("file"))], [0o700, 0o600]);
    }
}
