//! Files that are written completely or not at all.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use ddp_contract::file;

use crate::os::output::behind_links;
use crate::{Error, Result};

/// Writes `content` to `path`, making its folder. An existing file is replaced in one step, and keeps its permissions.
pub(super) fn write(path: &Path, content: &[u8]) -> Result<()> {
    let cant = || Error::system(format!("can't write {}", path.display()));
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder).map_err(cant())?;
    let Ok(metadata) = fs::metadata(path) else {
        return fs::write(path, content).map_err(cant());
    };
    // Through a link, to where it leads.
    let place = fs::canonicalize(path).map_err(cant())?;
    let mut file = tempfile::NamedTempFile::new_in(place.parent().unwrap_or(folder)).map_err(cant())?;
    file.write_all(content).map_err(cant())?;
    fs::set_permissions(file.path(), metadata.permissions()).map_err(cant())?;
    file.persist(&place).map_err(|err| cant()(err.error))?;
    Ok(())
}

/// What is in the file at `path`, if it is there.
pub(super) fn read(path: &Path) -> Result<Option<Vec<u8>>> {
    match file::read(path, file::SMALL) {
        Ok(content) => Ok(Some(content)),
        Err(err) if err.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(err) => Err(Error::system(format!("can't read {}", path.display()))(err)),
    }
}

/// Files as they were, for when a later step fails.
#[derive(Debug, Default)]
pub(super) struct Backup {
    files: Vec<(PathBuf, Option<Vec<u8>>)>,
    /// Those that did not exist, the deepest first.
    folders: Vec<PathBuf>,
}

impl Backup {
    /// Keeps what is at `path`, which is to be written next.
    pub(super) fn add(&mut self, path: &Path) -> Result<()> {
        self.files.push((behind_links(path), read(path)?));
        let missing = path.ancestors().skip(1).take_while(|folder| !folder.exists());
        self.folders.extend(missing.map(Path::to_owned));
        Ok(())
    }

    /// Puts everything back, as far as the system allows it.
    pub(super) fn restore(&self) {
        for (path, content) in self.files.iter().rev() {
            match content {
                Some(content) => drop(write(path, content)),
                None => drop(fs::remove_file(path)),
            }
        }
        self.folders.iter().for_each(|folder| drop(fs::remove_dir(folder)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn backup_restores_everything() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        fs::write(path("old"), "old").unwrap();
        symlink("behind", path("link")).unwrap();
        let mut backup = Backup::default();
        for name in ["old", "link", "a/b/new", "a/c", "old"] {
            backup.add(&path(name)).unwrap();
            write(&path(name), b"new").unwrap();
        }
        assert_eq!(fs::read(path("behind")).unwrap(), b"new");
        backup.restore();
        assert_eq!(fs::read(path("old")).unwrap(), b"old");
        assert!(path("link").is_symlink());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
    }
}
