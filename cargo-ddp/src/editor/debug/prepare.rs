//! What launch configurations refer to, so that they hold no path of this machine.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use ddp_contract::file;

use crate::{Error, Result};

/// The link to the launcher in use.
pub const LAUNCHER: &str = ".ddp/cargo-ddp";
/// The folder of what debuggers load, and of the sockets where workers join.
pub const FOLDER: &str = ".ddp/debug";
/// What lldb loads.
pub const SCRIPT: &str = ".ddp/debug/ddp_debug.py";

/// It, and the modules that it imports.
const SCRIPTS: [(&str, &str); 12] = [
    ("ddp_commands.py", include_str!("lldb/ddp_commands.py")),
    ("ddp_group.py", include_str!("lldb/ddp_group.py")),
    ("ddp_mail.py", include_str!("lldb/ddp_mail.py")),
    ("ddp_names.py", include_str!("lldb/ddp_names.py")),
    ("ddp_pieces.py", include_str!("lldb/ddp_pieces.py")),
    ("ddp_ranks.py", include_str!("lldb/ddp_ranks.py")),
    ("ddp_rustc.py", include_str!("lldb/ddp_rustc.py")),
    ("ddp_steps.py", include_str!("lldb/ddp_steps.py")),
    ("ddp_tensor.py", include_str!("lldb/ddp_tensor.py")),
    ("ddp_types.py", include_str!("lldb/ddp_types.py")),
    ("ddp_values.py", include_str!("lldb/ddp_values.py")),
    ("ddp_debug.py", include_str!("lldb/ddp_debug.py")),
];

/// Makes what launch configurations refer to in `root`, or brings it up to date. Gives the path of the script.
///
/// # Errors
/// [`Error::System`].
pub fn prepare(root: &Path) -> Result<PathBuf> {
    let cant = |path: &Path| Error::system(format!("can't create {}", path.display()));
    let folder = root.join(FOLDER);
    fs::create_dir_all(&folder).map_err(cant(&folder))?;
    for (name, text) in SCRIPTS {
        let script = folder.join(name);
        if file::read(&script, file::SMALL).ok().as_deref() != Some(text.as_bytes()) {
            replace(&script, |fresh| fs::write(fresh, text)).map_err(cant(&script))?;
        }
    }
    let launcher = root.join(LAUNCHER);
    let own = std::env::current_exe().map_err(Error::system("can't find this program"))?;
    if fs::read_link(&launcher).ok().as_deref() != Some(&own) {
        replace(&launcher, |fresh| symlink(&own, fresh)).map_err(cant(&launcher))?;
    }
    Ok(root.join(SCRIPT))
}

/// Makes a file under another name, and renames it: it is always complete.
pub(crate) fn replace(path: &Path, make: impl FnOnce(&Path) -> io::Result<()>) -> io::Result<()> {
    let mut fresh = path.as_os_str().to_owned();
    fresh.push(format!(".{}", std::process::id()));
    let fresh = PathBuf::from(fresh);
    let _ = fs::remove_file(&fresh);
    let made = make(&fresh).and_then(|()| fs::rename(&fresh, path));
    if made.is_err() {
        let _ = fs::remove_file(&fresh);
    }
    made
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prepare_replaces_old_files_and_keeps_current_ones() {
        let dir = tempfile::tempdir().unwrap();
        let script = prepare(dir.path()).unwrap();
        let text = include_str!("lldb/ddp_debug.py");
        assert_eq!(fs::read_to_string(&script).unwrap(), text);
        assert_eq!(fs::read_link(dir.path().join(LAUNCHER)).unwrap(), std::env::current_exe().unwrap());
        let made = fs::metadata(&script).unwrap().modified().unwrap();
        prepare(dir.path()).unwrap();
        assert_eq!(fs::metadata(&script).unwrap().modified().unwrap(), made);
        fs::write(&script, "# an older version").unwrap();
        prepare(dir.path()).unwrap();
        assert_eq!(fs::read_to_string(&script).unwrap(), text);
        assert_eq!(fs::read_dir(dir.path().join(FOLDER)).unwrap().count(), SCRIPTS.len());
    }
}
