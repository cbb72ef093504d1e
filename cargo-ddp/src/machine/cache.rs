//! The user's cache directory.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::{Error, Result};

/// The user's cache directory for everything of cargo-ddp.
///
/// # Errors
/// [`Error::NoCache`], [`Error::UnsafeCache`].
pub(crate) fn dir() -> Result<PathBuf> {
    let set = |name| std::env::var_os(name).filter(|value: &std::ffi::OsString| !value.is_empty()).map(PathBuf::from);
    let base = set("XDG_CACHE_HOME").filter(|path| path.is_absolute());
    let base = base.or_else(|| set("HOME").map(|home| home.join(".cache"))).ok_or(Error::NoCache)?;
    let cache = base.join("cargo-ddp");
    // One that does not exist is created when it is needed.
    if let Ok(metadata) = std::fs::metadata(&cache) {
        refuse_foreign(&cache, &metadata)?;
    }
    Ok(cache)
}

/// Programs link to files in the cache, so only its user may write to it.
fn refuse_foreign(cache: &Path, metadata: &std::fs::Metadata) -> Result<()> {
    let own = rustix::process::geteuid().as_raw();
    let problem = if metadata.uid() != own {
        format!("it belongs to another user (uid {}, expected {own})", metadata.uid())
    } else if metadata.mode() & 0o002 != 0 {
        "every user of this machine can write to it".into()
    } else {
        return Ok(());
    };
    Err(Error::UnsafeCache { path: cache.to_owned(), problem })
}
