//! Files to be written: compared first, and replaced completely.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::os::output::behind_links;
use crate::{Error, Result};

/// A file: its current and its wanted text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// Its path.
    pub path: PathBuf,
    /// The current text; `None` if the file does not exist.
    pub before: Option<String>,
    /// The wanted text; `None` if the file should not exist.
    pub after: Option<String>,
}

impl File {
    /// Whether the two differ.
    pub fn is_stale(&self) -> bool {
        self.after.is_some() && self.before != self.after
    }

    /// Writes a stale file: to a temporary file next to it, which is then renamed. A link stays a link.
    ///
    /// # Errors
    /// [`Error::System`], with the file as it was.
    pub fn write(&self) -> Result<()> {
        let Some(text) = self.after.as_ref().filter(|_| self.is_stale()) else { return Ok(()) };
        let place = behind_links(&self.path);
        replace(&place, text).map_err(Error::system(format!("can't write {}", self.path.display())))
    }
}

fn replace(place: &Path, text: &str) -> std::io::Result<()> {
    let folder = place.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    let mut fresh = tempfile::Builder::new().prefix(".cargo-ddp-").tempfile_in(folder)?;
    fresh.write_all(text.as_bytes())?;
    // A temporary file is for its owner alone; this one is as it was, or as any file that this process makes.
    let permissions = match fs::metadata(place) {
        Ok(old) => old.permissions(),
        Err(_) => usual_permissions(folder)?,
    };
    fresh.as_file().set_permissions(permissions)?;
    fresh.persist(place)?;
    Ok(())
}

/// Those that the umask leaves to a new file, which only a new file can tell.
fn usual_permissions(folder: &Path) -> std::io::Result<fs::Permissions> {
    let probe = folder.join(format!(".cargo-ddp-{}", std::process::id()));
    let permissions = fs::OpenOptions::new().write(true).create_new(true).open(&probe)?.metadata()?.permissions();
    fs::remove_file(&probe)?;
    Ok(permissions)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn file(path: PathBuf, before: Option<&str>, after: &str) -> File {
        File { path, before: before.map(str::to_owned), after: Some(after.to_owned()) }
    }

    #[test]
    fn file_write_keeps_links_and_modes() {
        let dir = tempfile::tempdir().unwrap();
        let (real, link, dangling) = (dir.path().join("real"), dir.path().join("link"), dir.path().join("dangling"));
        fs::write(&real, "old").unwrap();
        fs::set_permissions(&real, fs::Permissions::from_mode(0o640)).unwrap();
        symlink("real", &link).unwrap();
        symlink("new", &dangling).unwrap();
        file(link.clone(), Some("old"), "text").write().unwrap();
        file(dangling.clone(), None, "more").write().unwrap();
        assert!(link.is_symlink() && dangling.is_symlink());
        assert_eq!(fs::read_to_string(&real).unwrap(), "text");
        assert_eq!(fs::metadata(&real).unwrap().permissions().mode() & 0o777, 0o640);
        assert_eq!(fs::read_to_string(dir.path().join("new")).unwrap(), "more");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 4);
    }

    #[test]
    fn file_that_is_up_to_date_is_not_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b");
        file(path.clone(), Some("same"), "same").write().unwrap();
        assert!(!path.exists());
        file(path.clone(), None, "new").write().unwrap();
        assert_eq!(fs::read_to_string(path).unwrap(), "new");
    }
}
