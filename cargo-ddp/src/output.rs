//! Files that users name for results (`--report`, `--output`, `--to`). A regular file is replaced, complete or not at all,
//! where a link leads to it too. Everything else is written through: devices, FIFOs, `/dev/stdout`, `/dev/fd/N`.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Write};
use std::os::fd::{AsFd, BorrowedFd, RawFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Access, OFlags, access, fcntl_getfl};
use rustix::io::{Errno, fcntl_dupfd_cloexec};

/// How often to look for the reader of a FIFO.
const PERIOD: Duration = Duration::from_millis(20);
/// What a pipe that poll(2) calls writable takes without waiting (PIPE_BUF).
const PIECE: usize = 4096;

/// Where a result goes.
#[derive(Debug)]
pub struct Output(Kind);

#[derive(Debug)]
enum Kind {
    /// A regular file, which need not be there.
    File(PathBuf),
    /// What is there, and is not one.
    Special(PathBuf),
    /// One of this process's descriptors.
    Descriptor(File),
}

impl Output {
    /// Finds out what `path` leads to. Nothing is written; but `/dev/fd/N` is what it is now, whatever is opened later.
    ///
    /// # Errors
    /// The system's, if nothing can be written there.
    pub fn open(path: &Path) -> io::Result<Self> {
        if let Some(fd) = descriptor(path) {
            return Ok(Self(Kind::Descriptor(duplicate(fd)?)));
        }
        match fs::metadata(path) {
            Ok(found) if found.is_dir() => Err(ErrorKind::IsADirectory.into()),
            Ok(found) if !found.is_file() => Ok(Self(Kind::Special(path.into()))),
            Ok(_) => {
                let place = behind_links(path);
                // Replaced, or overwritten.
                access(folder_of(&place), Access::WRITE_OK).or_else(|_| access(&place, Access::WRITE_OK))?;
                Ok(Self(Kind::File(place)))
            }
            Err(err) if err.kind() == ErrorKind::NotFound => {
                let place = behind_links(path);
                let folder = folder_of(&place);
                if !folder.is_dir() {
                    let problem = format!("{} is not a directory", folder.display());
                    return Err(io::Error::new(ErrorKind::NotFound, problem));
                }
                access(folder, Access::WRITE_OK)?;
                Ok(Self(Kind::File(place)))
            }
            Err(err) => Err(err),
        }
    }

    /// The regular file that is replaced or made.
    pub fn file(&self) -> Option<&Path> {
        match &self.0 {
            Kind::File(path) => Some(path),
            Kind::Special(_) | Kind::Descriptor(_) => None,
        }
    }

    /// Writes the result, however long its reader takes.
    ///
    /// # Errors
    /// The system's.
    pub fn write(&self, content: &[u8]) -> io::Result<()> {
        self.copy_from(&mut &*content)
    }

    /// As [`write`](Self::write), for much.
    ///
    /// # Errors
    /// The system's.
    pub fn copy_from(&self, content: &mut dyn io::Read) -> io::Result<()> {
        match &self.0 {
            Kind::File(place) => replace(place, content),
            Kind::Special(path) => {
                let mut file = OpenOptions::new().write(true).custom_flags(libc::O_NOCTTY).open(path)?;
                io::copy(content, &mut file).map(drop)
            }
            Kind::Descriptor(file) => {
                let mut piece = [0; PIECE];
                loop {
                    match content.read(&mut piece)? {
                        0 => return Ok(()),
                        n => write_until(file.as_fd(), &piece[..n], None)?,
                    }
                }
            }
        }
    }

    /// Writes the result, and gives up when the reader of a FIFO does not come or does not read for `patience`.
    ///
    /// # Errors
    /// The system's, [`ErrorKind::TimedOut`].
    pub fn write_within(&self, content: &[u8], patience: Duration) -> io::Result<()> {
        let end = Instant::now() + patience;
        match &self.0 {
            Kind::File(place) => replace(place, &mut &*content),
            Kind::Special(path) => write_until(open_until(path, end)?.as_fd(), content, Some(end)),
            Kind::Descriptor(file) => write_until(file.as_fd(), content, Some(end)),
        }
    }
}

/// Opens a device or a FIFO. One that nobody reads is waited for.
fn open_until(path: &Path, end: Instant) -> io::Result<File> {
    loop {
        let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
        match OpenOptions::new().write(true).custom_flags(flags).open(path) {
            Err(err) if err.raw_os_error() == Some(Errno::NXIO.raw_os_error()) && Instant::now() < end => sleep(PERIOD),
            opened => return opened,
        }
    }
}

/// Writes everything, to a descriptor that may or may not block.
fn write_until(fd: BorrowedFd<'_>, content: &[u8], end: Option<Instant>) -> io::Result<()> {
    let mut left = content;
    while !left.is_empty() {
        let time = end.map(|end| end.saturating_duration_since(Instant::now()));
        let timeout = time.map(|time| Timespec {
            tv_sec: time.as_secs().try_into().unwrap_or(i64::MAX),
            tv_nsec: time.subsec_nanos().into(),
        });
        match poll(&mut [PollFd::from_borrowed_fd(fd, PollFlags::OUT)], timeout.as_ref()) {
            Ok(0) => return Err(io::Error::new(ErrorKind::TimedOut, "nobody reads it")),
            Ok(_) => {}
            Err(Errno::INTR) => continue,
            Err(err) => return Err(err.into()),
        }
        match rustix::io::write(fd, &left[..left.len().min(PIECE)]) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(n) => left = &left[n..],
            Err(Errno::INTR | Errno::AGAIN) => {}
            Err(err) => return Err(err.into()),
        }
    }
    Ok(())
}

/// The number of the descriptor that a path like `/dev/stdout` stands for: opening it anew would begin at the start of a
/// file that is written already, and fail for a socket.
fn descriptor(path: &Path) -> Option<RawFd> {
    let own: Vec<_> =
        ["/proc/self/fd", "/proc/thread-self/fd"].iter().filter_map(|own| fs::canonicalize(own).ok()).collect();
    let mut path = std::path::absolute(path).ok()?;
    // As many links as the kernel follows.
    for _ in 0..40 {
        let folder = path.parent().and_then(|folder| fs::canonicalize(folder).ok())?;
        if own.contains(&folder) {
            return path.file_name()?.to_str()?.parse().ok();
        }
        path = folder.join(fs::read_link(&path).ok()?);
    }
    None
}

fn duplicate(fd: RawFd) -> io::Result<File> {
    // SAFETY: a number of a descriptor, which the call checks; nothing here closes it meanwhile.
    let borrowed = unsafe { BorrowedFd::borrow_raw(fd) };
    let file = File::from(fcntl_dupfd_cloexec(borrowed, 3)?);
    if fcntl_getfl(&file)? & OFlags::ACCMODE == OFlags::RDONLY {
        return Err(io::Error::new(ErrorKind::PermissionDenied, "it is open for reading only"));
    }
    Ok(file)
}

/// Replaces the regular file at `place`, which keeps its permissions and owner. Where it can't be replaced (a directory
/// that is not writable, a file that is a mount), it is overwritten.
fn replace(place: &Path, content: &mut dyn io::Read) -> io::Result<()> {
    let old = fs::metadata(place).ok();
    // As the umask has it.
    let usual = Permissions::from_mode(0o666);
    let fresh = tempfile::Builder::new().prefix(".cargo-ddp-").permissions(usual).tempfile_in(folder_of(place));
    let mut fresh = match fresh {
        Ok(fresh) => fresh,
        Err(err) if old.is_some() && is_irreplaceable(&err) => return overwrite(place, content),
        Err(err) => return Err(err),
    };
    io::copy(content, &mut fresh)?;
    if let Some(old) = old.as_ref() {
        // For root alone, or a group of its user.
        let _ = fchown(fresh.as_file(), Some(old.uid()), Some(old.gid()));
        fresh.as_file().set_permissions(old.permissions())?;
    }
    match fresh.persist(place) {
        Err(err) if old.is_some() && is_irreplaceable(&err.error) => overwrite(place, &mut err.file.reopen()?),
        Err(err) => Err(err.error),
        Ok(_) => Ok(()),
    }
}

fn is_irreplaceable(err: &io::Error) -> bool {
    use ErrorKind::{CrossesDevices, PermissionDenied, ReadOnlyFilesystem, ResourceBusy};
    matches!(err.kind(), CrossesDevices | PermissionDenied | ReadOnlyFilesystem | ResourceBusy)
}

fn overwrite(place: &Path, content: &mut dyn io::Read) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).truncate(true).open(place)?;
    io::copy(content, &mut file)?;
    file.flush()
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// The file that a path leads to, which may not be there yet.
pub(crate) fn behind_links(path: &Path) -> PathBuf {
    let mut path = path.to_owned();
    // As many as the kernel follows.
    for _ in 0..40 {
        let Ok(to) = fs::read_link(&path) else { break };
        path = path.parent().map_or(to.clone(), |folder| folder.join(&to));
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::{FileTypeExt, symlink};

    use rustix::fs::{CWD, FileType, Mode, mknodat};

    fn fifo(path: &Path) {
        mknodat(CWD, path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    }

    #[test]
    fn regular_files_are_replaced_also_behind_links() {
        let dir = tempfile::tempdir().unwrap();
        let (real, link, dangling) = (dir.path().join("real"), dir.path().join("link"), dir.path().join("dangling"));
        fs::write(&real, "old and longer").unwrap();
        fs::set_permissions(&real, Permissions::from_mode(0o640)).unwrap();
        symlink("real", &link).unwrap();
        symlink("new", &dangling).unwrap();
        for path in [&link, &dangling] {
            let output = Output::open(path).unwrap();
            output.write(b"new").unwrap();
            output.write_within(b"newer", Duration::ZERO).unwrap();
            assert!(path.is_symlink());
            assert_eq!(fs::read_to_string(path).unwrap(), "newer");
        }
        assert_eq!(fs::metadata(&real).unwrap().permissions().mode() & 0o777, 0o640);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 4, "nothing is left over");
        assert!(Output::open(dir.path()).is_err());
        assert!(Output::open(&dir.path().join("nowhere/file")).unwrap_err().to_string().contains("not a directory"));
    }

    #[test]
    fn fifos_are_written_to_and_not_waited_for_for_ever() {
        let dir = tempfile::tempdir().unwrap();
        let (path, link) = (dir.path().join("fifo"), dir.path().join("link"));
        fifo(&path);
        symlink("fifo", &link).unwrap();
        let output = Output::open(&link).unwrap();
        assert_eq!(output.file(), None);
        output.write_within(b"text", Duration::from_millis(50)).unwrap_err();
        let reader = std::thread::spawn(move || fs::read(path).unwrap());
        let text = vec![b'x'; 1 << 20];
        output.write_within(&text, Duration::from_secs(60)).unwrap();
        assert_eq!(reader.join().unwrap(), text);
        assert!(link.is_symlink() && fs::metadata(&link).unwrap().file_type().is_fifo());
    }

    #[test]
    fn descriptors_are_written_where_they_are() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let mut file = File::create(&path).unwrap();
        file.write_all(b"before ").unwrap();
        let by_number = PathBuf::from(format!("/dev/fd/{}", file.as_raw_fd()));
        let link = dir.path().join("link");
        symlink(&by_number, &link).unwrap();
        Output::open(&by_number).unwrap().write(b"one ").unwrap();
        Output::open(&link).unwrap().write_within(b"two ", Duration::from_secs(60)).unwrap();
        file.write_all(b"after").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "before one two after");
        assert!(Output::open(Path::new("/dev/fd/1000000")).is_err());
        let mut read_only = File::open(&path).unwrap();
        assert!(Output::open(Path::new(&format!("/proc/self/fd/{}", read_only.as_raw_fd()))).is_err());
        let mut text = String::new();
        read_only.read_to_string(&mut text).unwrap();
        assert!(Output::open(Path::new("/dev/null")).unwrap().write(text.as_bytes()).is_ok());
    }
}
