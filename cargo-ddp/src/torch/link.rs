use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use super::Home;
use crate::{Error, Result, cargo};

/// Where a project links to its libtorch. Its `.cargo/config.toml` names this path, relative to itself.
pub const LINK: &str = ".ddp/libtorch";

/// Links `project` to `home`. Says whether the link is new.
///
/// When the link led to another libtorch, what was built against that is cleaned, because neither cargo nor torch-sys
/// looks behind the link.
pub fn link(project: &Path, home: &Home) -> Result<bool> {
    let link = project.join(LINK);
    let before = fs::read_link(&link).ok();
    if before.as_deref() == Some(home.path()) {
        return Ok(false);
    }
    let folder = project.join(".ddp");
    fs::create_dir_all(&folder).map_err(Error::system(format!("can't make {}", folder.display())))?;
    // A new link under another name, renamed over the old one: there is never none.
    let fresh = folder.join(format!("libtorch.{}", std::process::id()));
    let linked =
        remove_if_there(&fresh).and_then(|()| symlink(home.path(), &fresh)).and_then(|()| fs::rename(&fresh, &link));
    linked.map_err(Error::system(format!("can't link {}", link.display())))?;
    if before.is_some() {
        clean(project);
    }
    Ok(true)
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(err) if err.kind() != io::ErrorKind::NotFound => Err(err),
        _ => Ok(()),
    }
}

/// Best effort: a project that was never built has nothing to clean, and cargo says so by failing.
fn clean(project: &Path) {
    for profile in [&[][..], &["--release"][..]] {
        let mut clean = Command::new(cargo::program());
        clean
            .current_dir(project)
            .args(["clean", "-q", "-p", "torch-sys", "-p", "tch", "-p", "ddp-runtime"])
            .args(profile);
        let _ = clean.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).status();
    }
}
