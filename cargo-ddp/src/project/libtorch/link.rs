//! A project's link to its libtorch, `.ddp/libtorch`.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use super::config;
use super::home::Home;
use crate::os::aside::move_aside;
use crate::project::cargo;
use crate::{Error, Result};

/// Where a project links to its libtorch.
pub const LINK: &str = ".ddp/libtorch";

/// Links `project` to `home`, and writes its path for cargo (`.ddp/cargo.toml`). Says whether the link is new.
///
/// If the link pointed to another libtorch, everything built against that one is cleaned: neither cargo nor torch-sys
/// resolves the link.
pub fn link(project: &Path, home: &Home) -> Result<bool> {
    let is_new = relink(project, home)?;
    config::write(project, home)?;
    Ok(is_new)
}

fn relink(project: &Path, home: &Home) -> Result<bool> {
    let link = project.join(LINK);
    let before = fs::read_link(&link).ok();
    if before.as_deref() == Some(home.path()) {
        return Ok(false);
    }
    // `scp -r` copies the libtorch in place of the link.
    let is_copy = fs::symlink_metadata(&link).is_ok_and(|found| found.is_dir());
    if is_copy && link.canonicalize().is_ok_and(|copy| copy == home.path()) {
        return Ok(false);
    }
    let folder = project.join(".ddp");
    fs::create_dir_all(&folder).map_err(Error::system(format!("can't create {}", folder.display())))?;
    // A new link under another name, renamed over the old one, so that a link always exists.
    let fresh = folder.join(format!("libtorch.{}", std::process::id()));
    let linked = remove_if_there(&fresh)
        .and_then(|()| symlink(home.path(), &fresh))
        .and_then(|()| if is_copy { move_aside(&link).map(drop) } else { Ok(()) })
        .and_then(|()| fs::rename(&fresh, &link));
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

/// Best effort: cargo fails in a project that was never built, which has nothing to clean.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::project::libtorch::home::tests::fake;

    #[test]
    fn copied_libtorch_is_used_or_moved_aside() {
        let (project, fit) = (tempfile::tempdir().unwrap(), fake([2, 13, 0]));
        let path = project.path().join(LINK);
        fs::create_dir(project.path().join(".ddp")).unwrap();
        // As `scp -r` leaves it.
        let copied = Command::new("cp").arg("-r").arg(fit.path()).arg(&path).status().unwrap();
        assert!(copied.success());
        assert!(!link(project.path(), &Home::inspect(&path).unwrap()).unwrap(), "it is a libtorch");
        fs::remove_file(path.join("lib/libc10.so")).unwrap();
        let home = Home::inspect(fit.path()).unwrap();
        assert!(link(project.path(), &home).unwrap());
        assert_eq!(fs::read_link(&path).unwrap(), home.path());
        assert!(project.path().join(".ddp/libtorch.copy/lib/libtorch.so").exists());
        assert!(!link(project.path(), &home).unwrap());
    }
}
