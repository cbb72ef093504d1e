//! The folder where the debug sessions of a job's ranks meet, so that they stop and continue together (`lldb/ddp_group.py`).

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

use ddp_contract::env;
use rustix::io::Errno;

use super::FOLDER;
use crate::os::proc;
use crate::{Error, Result};

/// What its name begins with.
const PREFIX: &str = "group-";

/// Whether the ranks of a job stop and continue together: DDP_DEBUG_GROUP, which is on by default.
///
/// # Errors
/// [`Error::BadVariable`].
fn is_wanted() -> Result<bool> {
    let value = std::env::var_os(env::DEBUG_GROUP).unwrap_or_default();
    match value.to_str() {
        Some("" | "on") => Ok(true),
        Some("off") => Ok(false),
        _ => {
            let value = value.to_string_lossy().escape_debug().to_string();
            Err(Error::BadVariable { name: env::DEBUG_GROUP, value, problem: "expected on or off".into() })
        }
    }
}

/// A new folder in the project in `root`, if sessions are to be one group. The last session removes it.
///
/// # Errors
/// [`Error::BadVariable`], [`Error::System`].
pub(super) fn create(root: &Path) -> Result<Option<PathBuf>> {
    if !is_wanted()? {
        return Ok(None);
    }
    let parent = root.join(FOLDER);
    remove_abandoned(&parent);
    // Only its user may open it, and nobody can guess its name.
    let private = fs::Permissions::from_mode(0o700);
    let folder = tempfile::Builder::new().prefix(PREFIX).permissions(private).tempdir_in(&parent);
    let folder = folder.map_err(Error::system(format!("can't create a folder in {}", parent.display())))?;
    Ok(Some(folder.keep()))
}

/// Removes folders whose sessions have all ended without removing them: those of adapters that were killed.
fn remove_abandoned(parent: &Path) {
    for folder in entries(parent) {
        if !folder.file_name().is_some_and(|name| name.to_string_lossy().starts_with(PREFIX)) {
            continue;
        }
        for attempt in entries(&folder) {
            for socket in entries(&attempt) {
                if is_abandoned(&socket) {
                    let _ = fs::remove_file(&socket);
                }
            }
            // This fails while there are sockets.
            let _ = fs::remove_dir(&attempt);
        }
        let _ = fs::remove_dir(&folder);
    }
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

/// Whether nobody receives at this socket.
fn is_abandoned(socket: &Path) -> bool {
    let Ok(folder) = fs::File::open(socket.parent().unwrap_or(Path::new("/"))) else { return false };
    let address = proc::path_of(std::os::fd::AsFd::as_fd(&folder)).join(socket.file_name().unwrap_or_default());
    let connected = UnixDatagram::unbound().and_then(|own| own.connect(address));
    connected.is_err_and(|err| Errno::from_io_error(&err) == Some(Errno::CONNREFUSED))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn group_folder_is_private_and_abandoned_ones_are_removed() {
        let root = tempfile::tempdir().unwrap();
        let parent = root.path().join(FOLDER);
        fs::create_dir_all(&parent).unwrap();
        let first = create(root.path()).unwrap().unwrap();
        assert_eq!(fs::metadata(&first).unwrap().permissions().mode() & 0o777, 0o700);
        fs::create_dir(first.join("0")).unwrap();
        let rank_0 = UnixDatagram::bind(first.join("0/0")).unwrap();
        drop(UnixDatagram::bind(first.join("0/1")).unwrap()); // the socket's file stays, as after SIGKILL
        let second = create(root.path()).unwrap().unwrap();
        assert!(first.join("0/0").exists() && !first.join("0/1").exists());
        drop(rank_0);
        let third = create(root.path()).unwrap().unwrap();
        assert!(!first.exists() && !second.exists() && third.exists());
    }
}
