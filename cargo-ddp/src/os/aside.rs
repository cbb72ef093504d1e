//! Moves a copy of our own files out of the way without losing it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Renames `path` to `NAME.copy`, or `NAME.copy-2` if that is there, and so on. Returns the new path.
///
/// # Errors
/// The system's.
pub(crate) fn move_aside(path: &Path) -> io::Result<PathBuf> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let names = std::iter::once(format!("{name}.copy")).chain((2..).map(|n: u32| format!("{name}.copy-{n}")));
    let free = names.map(|name| path.with_file_name(name)).find(|path| fs::symlink_metadata(path).is_err());
    let free = free.ok_or(io::ErrorKind::AlreadyExists)?;
    fs::rename(path, &free)?;
    Ok(free)
}
