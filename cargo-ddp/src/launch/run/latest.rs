//! The link to the newest run.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use super::files::is_run;
use crate::launch::event::Blocker;
use crate::os::aside::move_aside;

/// The link to the newest run.
pub const LATEST: &str = "latest";
/// Points `latest` to the run. An older link of this kind is replaced in one step, so that it always points somewhere; a
/// copy of a run (`scp -r` makes one of a link) is moved aside; anything else is the user's, and is returned.
pub(super) fn link_latest(runs: &Path, number: u64) -> Result<(), Blocker> {
    let latest = runs.join(LATEST);
    match fs::symlink_metadata(&latest) {
        Ok(found) if found.is_symlink() => {
            let to = fs::read_link(&latest).unwrap_or_default();
            let number = to.file_name().and_then(|name| name.to_str()?.parse::<u64>().ok());
            let inside = to.parent().is_some_and(|parent| parent.as_os_str().is_empty() || parent == runs);
            // The user's own directories may be numbered, too.
            let of_run = !latest.exists() || is_run(&latest);
            if number.is_none() || !inside || !of_run {
                return Err(Blocker::Link(to));
            }
        }
        Ok(found) if found.is_dir() && is_run(&latest) => {
            if move_aside(&latest).is_err() {
                return Err(Blocker::CopyOfRun);
            }
        }
        Ok(found) if found.is_dir() => return Err(Blocker::Directory),
        Ok(_) => return Err(Blocker::File),
        Err(_) => {}
    }
    let new = runs.join(format!(".latest-{number}"));
    let linked = symlink(number.to_string(), &new).and_then(|()| fs::rename(&new, &latest));
    if let Err(err) = linked {
        // A file system without links: runs have their numbers.
        tracing::debug!(%err, "no link to the newest run");
        let _ = fs::remove_file(&new);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::super::files::MARKER;
    use super::*;

    fn touch(path: PathBuf) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "x").unwrap();
    }

    #[test]
    fn latest_is_replaced_only_if_it_is_a_link_to_a_run() {
        let dir = tempfile::tempdir().unwrap();
        let runs = dir.path();
        let latest = runs.join(LATEST);
        let points_to = |number: u64| fs::read_link(&latest).is_ok_and(|to| to == Path::new(&number.to_string()));
        symlink("77", &latest).unwrap();
        assert!(points_to(77) && link_latest(runs, 1).is_ok() && points_to(1), "a broken link to a run");
        for to in ["model-7", "../elsewhere/7", "nowhere"] {
            fs::remove_file(&latest).unwrap();
            symlink(to, &latest).unwrap();
            assert_eq!(link_latest(runs, 2), Err(Blocker::Link(to.into())));
            assert_eq!(fs::read_link(&latest).unwrap(), Path::new(to));
        }
        touch(runs.join("2024/image.png"));
        for to in [Path::new("2024"), &runs.join("2024")] {
            fs::remove_file(&latest).unwrap();
            symlink(to, &latest).unwrap();
            assert_eq!(link_latest(runs, 2), Err(Blocker::Link(to.into())), "a numbered directory that is not a run");
            assert_eq!(fs::read_link(&latest).unwrap(), to);
        }
        fs::remove_file(&latest).unwrap();
        fs::write(&latest, "mine").unwrap();
        assert_eq!(link_latest(runs, 2), Err(Blocker::File));
        fs::remove_file(&latest).unwrap();
        touch(latest.join("mine"));
        assert_eq!(link_latest(runs, 2), Err(Blocker::Directory));
        fs::remove_dir_all(&latest).unwrap();
        // As `scp -r` leaves it.
        fs::create_dir(&latest).unwrap();
        touch(latest.join(MARKER));
        touch(latest.join("metrics.jsonl"));
        assert!(link_latest(runs, 2).is_ok() && points_to(2));
        assert!(runs.join("latest.copy/metrics.jsonl").exists());
    }
}
