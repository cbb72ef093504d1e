//! Files that users name for results (`--report`, `--output`, `--to`). A regular file is replaced, complete or not at all,
//! also through a link. Everything else is written through: devices, FIFOs, `/dev/stdout`, `/dev/fd/N`,
//! `/proc/PID/fd/N`.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Write};
use std::os::fd::{AsFd, BorrowedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Access, OFlags, access, fcntl_getfl};
use rustix::io::{Errno, fcntl_dupfd_cloexec};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};

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
    /// A descriptor of this process or another.
    Descriptor(File),
}

impl Output {
    /// Resolves `path`. Nothing is written; but `/dev/fd/N` is what it is now, whatever is opened later.
    ///
    /// # Errors
    /// The system's, if nothing can be written there.
    pub fn open(path: &Path) -> io::Result<Self> {
        match descriptor(path) {
            Some(Descriptor { process: None, fd, .. }) => return Ok(Self(Kind::Descriptor(duplicate(fd)?))),
            // The file must not be replaced under the descriptor, and may have no name.
            Some(Descriptor { process: Some(pid), fd, link }) if !is_special(&link) => {
                return Ok(Self(Kind::Descriptor(of_other_process(pid, fd, &link)?)));
            }
            _ => {}
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
                if names_directory(&place) {
                    let problem = "expected the name of a file, got a directory that does not exist";
                    return Err(io::Error::new(ErrorKind::IsADirectory, problem));
                }
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

    /// Writes the result, and gives up when a FIFO has no reader, or its reader does not read, for `patience`.
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
            Ok(0) => return Err(io::Error::new(ErrorKind::TimedOut, "no process reads it")),
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

/// The descriptor that a path like `/dev/stdout` names. Opening the path again would write from the start of the file, over
/// what is already there, and it would fail for a socket.
struct Descriptor {
    /// The process that has it, unless it is this one.
    process: Option<i32>,
    fd: RawFd,
    /// Its name in /proc.
    link: PathBuf,
}

fn descriptor(path: &Path) -> Option<Descriptor> {
    let own: Vec<_> =
        ["/proc/self/fd", "/proc/thread-self/fd"].iter().filter_map(|own| fs::canonicalize(own).ok()).collect();
    let mut path = std::path::absolute(path).ok()?;
    // As many links as the kernel follows.
    for _ in 0..40 {
        let folder = path.parent().and_then(|folder| fs::canonicalize(folder).ok())?;
        if let Some(process) = process_of(&folder) {
            let name = path.file_name()?;
            let process = (!own.contains(&folder)).then_some(process);
            return Some(Descriptor { process, fd: name.to_str()?.parse().ok()?, link: folder.join(name) });
        }
        path = folder.join(fs::read_link(&path).ok()?);
    }
    None
}

/// The process with the descriptors in `/proc/PID/fd` or `/proc/PID/task/TID/fd`.
fn process_of(folder: &Path) -> Option<i32> {
    let parts: Vec<_> = folder.strip_prefix("/proc").ok()?.iter().map(|part| part.to_str()).collect::<Option<_>>()?;
    match parts[..] {
        [pid, "fd"] | [pid, "task", _, "fd"] => pid.parse().ok(),
        _ => None,
    }
}

/// Whether it is there and is not a regular file.
fn is_special(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|found| !found.is_file())
}

/// The file of another process's descriptor. Where the system permits it, its position is shared, so that neither process
/// writes over the other; else what is written is appended.
fn of_other_process(pid: i32, fd: RawFd, link: &Path) -> io::Result<File> {
    let shared = || -> io::Result<File> {
        let process = pidfd_open(Pid::from_raw(pid).ok_or(Errno::SRCH)?, PidfdFlags::empty())?;
        let file = File::from(pidfd_getfd(process, fd, PidfdGetfdFlags::empty())?);
        writable(file)
    };
    shared().or_else(|_| OpenOptions::new().append(true).custom_flags(libc::O_NOCTTY).open(link))
}

fn duplicate(fd: RawFd) -> io::Result<File> {
    // SAFETY: a number of a descriptor, which the call checks; nothing here closes it meanwhile.
    let borrowed = unsafe { BorrowedFd::borrow_raw(fd) };
    writable(File::from(fcntl_dupfd_cloexec(borrowed, 3)?))
}

fn writable(file: File) -> io::Result<File> {
    if fcntl_getfl(&file)? & OFlags::ACCMODE == OFlags::RDONLY {
        return Err(io::Error::new(ErrorKind::PermissionDenied, "open for reading only"));
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

/// Whether no file can have this name: `Path` ignores what makes it a directory's, and the system does not.
fn names_directory(path: &Path) -> bool {
    let name = path.as_os_str().as_bytes();
    name.ends_with(b"/") || name.ends_with(b"/.")
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// The file that a path points to, which may not exist yet.
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
    use std::process::{Command, Stdio};

    use rustix::fs::{CWD, FileType, Mode, mknodat};

    fn fifo(path: &Path) {
        mknodat(CWD, path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    }

    #[test]
    fn regular_files_are_replaced_even_behind_links() {
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
    fn output_to_a_directory_that_does_not_exist_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        symlink("new/", dir.path().join("link")).unwrap();
        for name in ["new/", "new//", "new/.", "new/./", "link", "link/"] {
            let err = Output::open(&dir.path().join(name)).unwrap_err();
            assert!(err.to_string().contains("got a directory that does not exist"), "{name}: {err}");
        }
        assert!(Output::open(&dir.path().join("new..")).is_ok());
    }

    #[test]
    fn fifos_are_written_with_a_limit_on_waiting() {
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
    fn descriptors_are_written_at_their_position() {
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

    #[test]
    fn descriptors_of_other_processes_are_written_through() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let file = OpenOptions::new().append(true).create(true).open(&path).unwrap();
        let other = Command::new("cat").stdin(Stdio::piped()).stdout(file).spawn().unwrap();
        let pid = other.id();
        fs::write(&path, "before ").unwrap();
        for number in [format!("/proc/{pid}/fd/1"), format!("/proc/{pid}/task/{pid}/fd/1")] {
            let output = Output::open(Path::new(&number)).unwrap();
            assert_eq!(output.file(), None);
            output.write(b"one ").unwrap();
        }
        assert_eq!(fs::read_to_string(&path).unwrap(), "before one one ");
        fs::remove_file(&path).unwrap();
        Output::open(Path::new(&format!("/proc/{pid}/fd/1"))).unwrap().write(b"two").unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "a deleted file gets no name");
        assert!(Output::open(Path::new(&format!("/proc/{pid}/fd/77"))).is_err());
        // A pipe, as before.
        Output::open(Path::new(&format!("/proc/{pid}/fd/0"))).unwrap();
        assert!(other.wait_with_output().unwrap().status.success());
    }
}
