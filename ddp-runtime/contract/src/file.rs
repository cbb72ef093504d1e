//! Regular files. Whoever may write to a folder may leave a FIFO, a device or a directory under the name of a file: a
//! plain `open` of a FIFO waits for its other end, and `/dev/zero` has no end. These functions refuse both immediately.

use std::fs::{File, FileType, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

use crate::os::{NOCTTY, NONBLOCK};

/// More than any error file, report or list of jobs has, in bytes.
pub const SMALL: u64 = 16 << 20;

/// Opens a regular file for reading.
///
/// # Errors
/// The system's; `InvalidInput` for anything but a regular file.
pub fn open(path: &Path) -> io::Result<File> {
    regular(OpenOptions::new().read(true), path)
}

/// Creates a regular file, or empties it.
///
/// # Errors
/// As [`open`].
pub fn create(path: &Path) -> io::Result<File> {
    regular(OpenOptions::new().write(true).create(true).truncate(true), path)
}

/// Reads a regular file of at most `limit` bytes.
///
/// # Errors
/// As [`open`]; `FileTooLarge` for a longer one.
pub fn read(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    open(path)?.take(limit.saturating_add(1)).read_to_end(&mut content)?;
    if content.len() as u64 > limit {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("the file has more than {limit} bytes")));
    }
    Ok(content)
}

pub(crate) fn regular(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    let refused = |kind| io::Error::new(io::ErrorKind::InvalidInput, format!("{}, not a regular file", name(kind)));
    // The flags keep a FIFO from blocking, and a terminal from becoming this process's.
    match options.custom_flags(NONBLOCK | NOCTTY).open(path) {
        Ok(file) => {
            let kind = file.metadata()?.file_type();
            if kind.is_file() { Ok(file) } else { Err(refused(kind)) }
        }
        // A FIFO that nobody reads, a socket, a directory.
        Err(err) => match std::fs::metadata(path) {
            Ok(metadata) if !metadata.is_file() => Err(refused(metadata.file_type())),
            _ => Err(err),
        },
    }
}

fn name(kind: FileType) -> &'static str {
    match () {
        () if kind.is_dir() => "it is a directory",
        () if kind.is_fifo() => "it is a FIFO",
        () if kind.is_socket() => "it is a socket",
        () => "it is a device",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_that_is_not_regular_is_refused_without_waiting() {
        let dir = std::env::temp_dir().join(format!("ddp-contract-file-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a folder for the test");
        let fifo = dir.join("fifo");
        let made = std::process::Command::new("mkfifo").arg(&fifo).status().expect("mkfifo runs");
        assert!(made.success());
        for (path, kind) in [(fifo.as_path(), "a FIFO"), (&dir, "a directory"), (Path::new("/dev/zero"), "a device")] {
            for refused in [open(path).expect_err("it is refused"), create(path).expect_err("it is refused")] {
                assert_eq!(refused.to_string(), format!("it is {kind}, not a regular file"));
            }
        }
        let path = dir.join("file");
        io::Write::write_all(&mut create(&path).expect("a new file"), b"12345").expect("it is written");
        assert_eq!(read(&path, 5).expect("it is read"), b"12345");
        assert_eq!(read(&path, 4).expect_err("it is too long").kind(), io::ErrorKind::FileTooLarge);
        assert_eq!(open(&dir.join("none")).expect_err("none").kind(), io::ErrorKind::NotFound);
        std::fs::remove_dir_all(dir).expect("the test's folder");
    }
}
