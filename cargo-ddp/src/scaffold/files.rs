//! Files that are written whole or not at all.

use std::fs;
use std::io::Write;
use std::path::Path;

use ddp_contract::file;

use crate::{Error, Result};

/// Writes `content` to `path`, making its folder. What was there is replaced at once, and keeps its permissions.
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
