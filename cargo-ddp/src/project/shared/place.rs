//! Hard links and copies of built files.

use std::fs::{self, File, FileTimes};
use std::io;
use std::os::unix::fs::symlink;
use std::path::Path;

/// Puts the file or folder `from` at `to`. Files keep their times, by which cargo decides what to build.
///
/// Those that nobody writes to in place become hard links: rustc replaces libraries by renaming, and cargo deletes a build
/// script's program before it is linked. (Some linkers write into the old file, so a procedural macro is copied.)
pub(super) fn place(from: &Path, to: &Path, links: bool) -> io::Result<()> {
    let metadata = fs::symlink_metadata(from)?;
    if metadata.is_dir() {
        fs::create_dir_all(to)?;
        let names = fs::read_dir(from)?.map(|entry| Ok(entry?.file_name())).collect::<io::Result<Vec<_>>>()?;
        let has_archive = names.iter().any(|name| name.to_string_lossy().ends_with(".a"));
        for name in names {
            if !has_archive || !is_object(&name.to_string_lossy()) {
                place(&from.join(&name), &to.join(&name), links)?;
            }
        }
        return Ok(());
    }
    match fs::remove_file(to) {
        Err(err) if err.kind() != io::ErrorKind::NotFound => return Err(err),
        _ => {}
    }
    if metadata.is_symlink() {
        return symlink(fs::read_link(from)?, to);
    }
    if !metadata.is_file() {
        return Err(io::Error::other(format!("{} is not a regular file", from.display())));
    }
    // On another file system, or beyond the number of links that this one allows, it is a copy.
    if links && fs::hard_link(from, to).is_ok() {
        return Ok(());
    }
    copy(from, to, &metadata)
}

/// An object that the crate cc has compiled, and that is in its archive: half the size of torch-sys and ddp-runtime.
fn is_object(name: &str) -> bool {
    let hash = name.strip_suffix(".o").and_then(|stem| stem.split_once('-')).map(|(hash, _)| hash);
    hash.is_some_and(|hash| hash.len() == 16 && hash.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

fn copy(from: &Path, to: &Path, metadata: &fs::Metadata) -> io::Result<()> {
    fs::copy(from, to)?;
    let times = FileTimes::new().set_modified(metadata.modified()?);
    // Opened for reading: a copy may be read-only.
    File::open(to)?.set_times(times)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;
    use std::time::{Duration, SystemTime};

    use super::*;

    #[test]
    fn copied_units_keep_file_times_and_are_independent() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        fs::create_dir_all(from.join("out")).unwrap();
        let old = SystemTime::now() - Duration::from_secs(1000);
        for name in ["a", "out/b"] {
            fs::write(from.join(name), name).unwrap();
            File::options().write(true).open(from.join(name)).unwrap().set_modified(old).unwrap();
        }
        symlink("b", from.join("out/link")).unwrap();
        fs::set_permissions(from.join("a"), std::os::unix::fs::PermissionsExt::from_mode(0o444)).unwrap();
        place(&from, &to, false).unwrap();
        for name in ["a", "out/b"] {
            assert_eq!(fs::metadata(to.join(name)).unwrap().modified().unwrap(), old);
        }
        assert_eq!(fs::read_link(to.join("out/link")).unwrap(), Path::new("b"));
        fs::write(to.join("out/b"), "changed").unwrap();
        assert_eq!(fs::read_to_string(from.join("out/b")).unwrap(), "out/b");

        place(&from.join("out/b"), &to.join("out/b"), true).unwrap();
        let inode = |path: &Path| fs::metadata(path).unwrap().ino();
        assert_eq!(inode(&from.join("out/b")), inode(&to.join("out/b")));
    }

    #[test]
    fn objects_that_are_in_an_archive_are_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        fs::create_dir_all(&from).unwrap();
        let names = ["0123456789abcdef-group.o", "own.o", "generated.rs"];
        names.iter().for_each(|name| fs::write(from.join(name), "").unwrap());
        place(&from, &to, false).unwrap();
        assert!(names.iter().all(|name| to.join(name).exists()), "without an archive, the objects are all there is");
        fs::write(from.join("libddp_runtime.a"), "").unwrap();
        fs::remove_dir_all(&to).unwrap();
        place(&from, &to, false).unwrap();
        assert!(!to.join(names[0]).exists() && to.join(names[1]).exists() && to.join("libddp_runtime.a").exists());
    }
}
