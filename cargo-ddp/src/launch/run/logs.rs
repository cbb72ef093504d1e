//! A worker's output on disk: all of it, whatever the screen shows.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

/// A file that grows beyond this is set aside as `….log.1`, in place of an older one, and started again.
const LARGEST: u64 = 64 << 20;

/// One stream of one rank in one attempt.
pub(crate) struct Log {
    path: PathBuf,
    file: Option<File>,
    written: u64,
    largest: u64,
}

impl Log {
    /// `attempt-A/rank-R.stdout.log` (or `stderr`) in the run's folder, and why it could not be created: a job without
    /// logs is better than none.
    pub(crate) fn create(path: PathBuf) -> (Self, Option<io::Error>) {
        Self::with_limit(path, LARGEST)
    }

    fn with_limit(path: PathBuf, largest: u64) -> (Self, Option<io::Error>) {
        let (file, failed) = match create(&path) {
            Ok(file) => (Some(file), None),
            Err(err) => (None, Some(err)),
        };
        (Self { path, file, written: 0, largest }, failed)
    }

    /// Appends a piece.
    ///
    /// # Errors
    /// The first one (a full disk); after that the log is closed, and the job continues without it.
    pub(crate) fn write(&mut self, piece: &[u8]) -> io::Result<()> {
        if self.file.is_none() || piece.is_empty() {
            return Ok(());
        }
        let result = self.append(piece);
        if result.is_err() {
            self.file = None;
        }
        result
    }

    fn append(&mut self, piece: &[u8]) -> io::Result<()> {
        if self.written > 0 && self.written + piece.len() as u64 > self.largest {
            fs::rename(&self.path, set_aside(&self.path))?;
            self.file = Some(create(&self.path)?);
            self.written = 0;
        }
        if let Some(file) = &mut self.file {
            file.write_all(piece)?;
            self.written += piece.len() as u64;
        }
        Ok(())
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

/// Creates a file in an attempt's folder, which is made if it is not there. A worker of an earlier attempt may have put a
/// link there: none is followed, and a file in the place of this one is replaced, not emptied.
pub(crate) fn create(path: &Path) -> io::Result<File> {
    let attempt = path.parent().unwrap_or(Path::new("."));
    attempt.parent().map_or(Ok(()), fs::create_dir_all)?;
    match fs::create_dir(attempt) {
        Err(err) if err.kind() != ErrorKind::AlreadyExists => return Err(err),
        Err(_) if !fs::symlink_metadata(attempt)?.is_dir() => {
            return Err(io::Error::new(ErrorKind::NotADirectory, format!("{} is not a directory", attempt.display())));
        }
        _ => {}
    }
    let _ = fs::remove_file(path);
    File::create_new(path).map_err(|err| match path.is_dir() {
        true => io::Error::new(ErrorKind::IsADirectory, "is a directory"),
        false => err,
    })
}

fn set_aside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".1");
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_is_bounded_and_loses_the_oldest_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("attempt-0/rank-0.stdout.log");
        let (mut log, failed) = Log::with_limit(path.clone(), 10);
        assert!(failed.is_none());
        for piece in ["aaaa\n", "bbbb\n", "cccc\n", "dddd\n", "eeee\n"] {
            log.write(piece.as_bytes()).unwrap();
        }
        assert_eq!(fs::read_to_string(&path).unwrap(), "eeee\n");
        assert_eq!(fs::read_to_string(set_aside(&path)).unwrap(), "cccc\ndddd\n");
    }

    #[test]
    fn log_on_a_full_disk_fails_once() {
        let file = Some(File::options().write(true).open("/dev/full").unwrap());
        let mut log = Log { path: "/dev/full".into(), file, written: 0, largest: 10 };
        assert!(log.write(b"x").is_err());
        assert!(log.write(b"x").is_ok());
    }

    #[test]
    fn log_whose_path_is_a_directory_is_not_written() {
        let dir = tempfile::tempdir().unwrap();
        let (mut log, failed) = Log::with_limit(dir.path().to_owned(), 10);
        assert!(failed.unwrap().to_string().contains("a directory"));
        assert!(log.write(b"x").is_ok());
    }

    // The file behind the link was emptied, and got the worker's output.
    #[test]
    fn log_follows_no_link_and_empties_no_file() {
        let dir = tempfile::tempdir().unwrap();
        let victim = dir.path().join("victim");
        fs::create_dir(&victim).unwrap();
        let kept = victim.join("rank-0.stdout.log");
        fs::write(&kept, "keep").unwrap();
        let link = dir.path().join("attempt-1");
        std::os::unix::fs::symlink(&victim, &link).unwrap();
        let (mut log, failed) = Log::with_limit(link.join("rank-0.stdout.log"), 10);
        assert!(failed.unwrap().to_string().ends_with("attempt-1 is not a directory"));
        log.write(b"x").unwrap();
        let attempt = dir.path().join("attempt-2");
        fs::create_dir(&attempt).unwrap();
        fs::hard_link(&kept, attempt.join("hard.log")).unwrap();
        std::os::unix::fs::symlink(&kept, attempt.join("soft.log")).unwrap();
        for name in ["hard.log", "soft.log"] {
            let (mut log, failed) = Log::with_limit(attempt.join(name), 10);
            assert!(failed.is_none(), "{failed:?}");
            log.write(b"x").unwrap();
            assert_eq!(fs::read_to_string(attempt.join(name)).unwrap(), "x");
        }
        assert_eq!(fs::read_to_string(&kept).unwrap(), "keep");
    }
}
