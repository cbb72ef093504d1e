//! The lock of a snapshot directory: one program at a time writes there.
//!
//! The writer holds `flock` on the file `.lock`, which the kernel releases when the process ends, however it ends, and
//! which NFS passes on to other hosts. The file names the holder. Some file systems keep `flock` to one host or do not
//! know it, so the holder also touches the file every few seconds: a lock that another host left behind counts as stale
//! when it is no longer touched. Readers need no lock.

mod holder;

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::os::{self, Flock, NOFOLLOW, NONBLOCK};

pub use holder::Holder;

/// The lock's file name.
pub const FILE: &str = ".lock";

/// How long a process that holds the lock is waited for: it may be about to end.
const PATIENCE: Duration = Duration::from_secs(5);
/// The same, for a process of the same run: a restart comes after the death of the process that it replaces.
const PATIENCE_WITH_OWN_RUN: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(50);
/// Time between two touches of the file.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// A file that was not touched for this long has no holder.
const SILENCE: Duration = Duration::from_secs(20);

/// Why a lock was not given.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LockError {
    /// Another program holds it.
    #[error(
        "another program is writing to it: {}",
        .0.as_ref().map_or_else(|| "its lock file names no process".into(), Holder::to_string)
    )]
    Held(Option<Holder>),
    /// The file could not be made, read or locked.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// The right to write to a snapshot directory, until it is dropped or the process ends.
#[derive(Debug)]
pub struct Lock {
    path: PathBuf,
    file: Arc<File>,
    heart: Option<(Sender<()>, JoinHandle<()>)>,
}

/// The locks that this process holds: whatever it does in one directory, it does under one lock.
static HELD: Mutex<Vec<(PathBuf, Weak<Lock>)>> = Mutex::new(Vec::new());

impl Lock {
    /// Takes the lock of `dir` for a process of `run`. Waits a little for a holder that may be about to end.
    ///
    /// # Errors
    /// [`LockError::Held`] when another program holds it.
    pub fn acquire(dir: &Path, run: Option<&str>) -> Result<Arc<Self>, LockError> {
        let dir = fs::canonicalize(dir)?;
        let (me, start) = (Holder::this_process(run), Instant::now());
        loop {
            let holder = match Self::shared_or_new(&dir, &me)? {
                Ok(lock) => return Ok(lock),
                Err(holder) => holder,
            };
            let same_run = me.run.is_some() && holder.as_ref().is_some_and(|holder| holder.run == me.run);
            if start.elapsed() >= if same_run { PATIENCE_WITH_OWN_RUN } else { PATIENCE } {
                return Err(LockError::Held(holder));
            }
            thread::sleep(POLL);
        }
    }

    /// This process's lock of `dir`, or who holds it.
    fn shared_or_new(dir: &Path, me: &Holder) -> Result<Result<Arc<Self>, Option<Holder>>, LockError> {
        let mut held = HELD.lock().unwrap_or_else(PoisonError::into_inner);
        held.retain(|(_, lock)| lock.strong_count() > 0);
        let mut ours = held.iter().filter(|(path, _)| path == dir).filter_map(|(_, lock)| lock.upgrade());
        if let Some(lock) = ours.find(|lock| lock.is_held()) {
            return Ok(Ok(lock));
        }
        let path = dir.join(FILE);
        Ok(Self::attempt(&path, me)?.map(|file| {
            let lock = Arc::new(Self::held(path, file));
            held.push((dir.to_owned(), Arc::downgrade(&lock)));
            lock
        }))
    }

    /// Who holds the lock of `dir`, if a process does that this one can know of.
    pub fn holder(dir: &Path) -> Option<Holder> {
        let mut file = OpenOptions::new().read(true).custom_flags(NONBLOCK).open(dir.join(FILE)).ok()?;
        let held = matches!(os::flock_shared(&file), Ok(Flock::Busy));
        let holder = read(&mut file)?;
        (held && holder.pid != std::process::id()).then_some(holder)
    }

    /// Whether the lock is still that of the directory: nobody has removed or replaced its file.
    pub fn is_held(&self) -> bool {
        is_at(&self.file, &self.path)
    }

    /// The locked file with this process's name in it, or whose name is there.
    fn attempt(path: &Path, me: &Holder) -> Result<Result<File, Option<Holder>>, LockError> {
        let mut options = OpenOptions::new();
        options.read(true).custom_flags(NONBLOCK | NOFOLLOW);
        let (mut file, is_ours) = match options.clone().write(true).create(true).truncate(false).open(path) {
            // Another user's, who may have left it.
            Err(err) if err.kind() == io::ErrorKind::PermissionDenied => (options.open(path).map_err(|_| err)?, false),
            opened => (opened?, true),
        };
        if !file.metadata()?.is_file() {
            return Err(io::Error::other(format!("{} is not a regular file", path.display())).into());
        }
        let proves = match os::flock_exclusive(&file)? {
            Flock::Taken => true,
            Flock::Busy => return Ok(Err(read(&mut file))),
            Flock::Unsupported => false, // what the file says must do
        };
        // Its holder may have removed it between the two calls.
        if !is_at(&file, path) {
            return Ok(Err(None));
        }
        if let Some(before) = read(&mut file) {
            let is_same_run = me.run.is_some() && before.run == me.run;
            let is_stale = before.has_ended(me) || before.is_on_the_host_of(me) && proves || is_same_run && proves;
            if !is_stale && (before.can_be_seen_from(me) || is_touched(path, SILENCE)?) {
                return Ok(Err(Some(before)));
            }
        } else if is_foreign(&mut file)? {
            return Err(
                io::Error::other(format!("{} is not a ddp-runtime lock file; move it away", path.display())).into()
            );
        }
        if !is_ours && fs::remove_file(path).is_ok() {
            return Ok(Err(None)); // a new one can be made
        }
        // The lock holds without a name in it, too: on a full disk, for example.
        let _ = write(&mut file, me);
        Ok(Ok(file))
    }

    fn held(path: PathBuf, file: File) -> Self {
        let file = Arc::new(file);
        let (stop, stopped) = mpsc::channel();
        let touched = file.clone();
        let beat = move || {
            while matches!(stopped.recv_timeout(HEARTBEAT), Err(RecvTimeoutError::Timeout)) {
                let _ = os::touch(&touched);
            }
        };
        let heart = thread::Builder::new().name("ddp-lock".into()).spawn(beat).ok();
        Self { path, file, heart: heart.map(|heart| (stop, heart)) }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // While it is still locked, so that nobody else's is removed.
        if self.is_held() {
            let _ = fs::remove_file(&self.path);
        }
        if let Some((stop, heart)) = self.heart.take() {
            drop(stop);
            let _ = heart.join();
        }
    }
}

/// Whether `file` is what `path` names.
pub(crate) fn is_at(file: &File, path: &Path) -> bool {
    let (Ok(open), Ok(named)) = (file.metadata(), fs::symlink_metadata(path)) else { return false };
    (open.dev(), open.ino()) == (named.dev(), named.ino())
}

/// Whether a process touches the file within this time.
fn is_touched(path: &Path, within: Duration) -> io::Result<bool> {
    // Opened each time: only then NFS asks its server.
    let modified = || File::open(path)?.metadata()?.modified();
    let (start, first) = (Instant::now(), modified()?);
    while start.elapsed() < within {
        thread::sleep(Duration::from_millis(500));
        if modified()? != first {
            return Ok(true);
        }
    }
    Ok(false)
}

/// At most this much of the file is read, in bytes.
const LONGEST: u64 = 64 << 10;

fn read(file: &mut File) -> Option<Holder> {
    let mut text = Vec::new();
    file.seek(SeekFrom::Start(0)).ok()?;
    file.take(LONGEST).read_to_end(&mut text).ok()?;
    serde_json::from_slice(&text).ok()
}

/// Whether the content is not a lock of ours, not even a half-written one.
fn is_foreign(file: &mut File) -> io::Result<bool> {
    let mut first = [0];
    file.seek(SeekFrom::Start(0))?;
    Ok(file.read(&mut first)? == 1 && first != *b"{")
}

fn write(file: &mut File, holder: &Holder) -> io::Result<()> {
    file.set_len(0)?;
    file.seek(SeekFrom::Start(0))?;
    let mut text = serde_json::to_vec(holder)?;
    text.push(b'\n');
    file.write_all(&text)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Dir(PathBuf);

    impl Dir {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("ddp-contract-lock-{name}-{}", std::process::id()));
            fs::create_dir_all(&path).expect("a temporary folder");
            Self(path)
        }

        fn left(&self) -> usize {
            fs::read_dir(&self.0).expect("it is there").count()
        }
    }

    impl Drop for Dir {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn leave(dir: &Dir, change: impl FnOnce(&mut Holder)) -> Holder {
        let mut holder = Holder::this_process(Some("before"));
        change(&mut holder);
        fs::write(dir.0.join(FILE), serde_json::to_vec(&holder).expect("plain data")).expect("a temporary file");
        holder
    }

    #[test]
    fn lock_is_shared_in_a_process_and_leaves_no_file() {
        let dir = Dir::new("shared");
        let first = Lock::acquire(&dir.0, Some("a")).expect("it is free");
        let second = Lock::acquire(&dir.0, Some("b")).expect("it is this process's");
        assert!(Arc::ptr_eq(&first, &second) && first.is_held());
        assert_eq!(Lock::holder(&dir.0), None, "a process does not wait for itself");
        drop(first);
        assert_eq!(dir.left(), 1);
        drop(second);
        assert_eq!(dir.left(), 0);
    }

    #[test]
    fn lock_held_by_another_is_refused_with_its_name() {
        let dir = Dir::new("held");
        let holder = leave(&dir, |holder| holder.pid = 1);
        let file = File::open(dir.0.join(FILE)).expect("it is there");
        assert_eq!(os::flock_exclusive(&file).expect("it is free"), Flock::Taken);
        assert_eq!(Lock::holder(&dir.0).as_ref(), Some(&holder));
        let err = Lock::acquire(&dir.0, Some("after")).expect_err("it is held");
        assert!(matches!(&err, LockError::Held(Some(by)) if *by == holder), "{err}");
        assert!(err.to_string().contains("process 1 on ") && err.to_string().ends_with("(run before)"), "{err}");
    }

    #[test]
    fn lock_of_a_dead_process_is_taken_over() {
        let dir = Dir::new("stale");
        for change in [|holder: &mut Holder| holder.pid = 4_190_000, |holder: &mut Holder| holder.started += 1] {
            leave(&dir, change);
            drop(Lock::acquire(&dir.0, Some("after")).expect("its holder has ended"));
        }
        // Another run's file that says nothing, and one of the same run on another host.
        fs::write(dir.0.join(FILE), "{").expect("a temporary file");
        drop(Lock::acquire(&dir.0, Some("after")).expect("nobody holds it"));
        leave(&dir, |holder| holder.boot_id = "another".into());
        drop(Lock::acquire(&dir.0, Some("before")).expect("it is this run's"));
    }

    #[test]
    fn lock_of_another_host_counts_while_it_is_touched() {
        let dir = Dir::new("foreign");
        let holder = leave(&dir, |holder| (holder.host, holder.boot_id) = ("elsewhere".into(), "another".into()));
        let path = dir.0.join(FILE);
        let (stop, stopped) = mpsc::channel::<()>();
        let touch = thread::spawn(move || {
            while matches!(stopped.recv_timeout(Duration::from_millis(200)), Err(RecvTimeoutError::Timeout)) {
                os::touch(&File::open(&path).expect("it is there")).expect("it is ours");
            }
        });
        let err = Lock::acquire(&dir.0, Some("after")).expect_err("it is touched");
        assert!(matches!(&err, LockError::Held(Some(by)) if *by == holder), "{err}");
        drop(stop);
        touch.join().expect("it does not panic");
        assert!(!is_touched(&dir.0.join(FILE), Duration::from_secs(1)).expect("it is there"));
    }

    #[test]
    fn lock_of_another_container_counts_while_it_is_touched() {
        let dir = Dir::new("container");
        let holder = leave(&dir, |holder| holder.pid_namespace += 1);
        // Where `flock` proves nothing.
        let me = Holder::this_process(Some("after"));
        assert!(!holder.has_ended(&me) && !holder.can_be_seen_from(&me));
        assert!(leave(&dir, |_| ()).can_be_seen_from(&me));
    }

    #[test]
    fn file_of_the_user_is_not_taken_for_a_lock() {
        let dir = Dir::new("foreign-file");
        fs::write(dir.0.join(FILE), "precious").expect("a temporary file");
        let err = Lock::acquire(&dir.0, None).expect_err("it is not ours");
        assert!(err.to_string().ends_with(".lock is not a ddp-runtime lock file; move it away"), "{err}");
        assert_eq!(fs::read(dir.0.join(FILE)).expect("it is there"), b"precious");
    }

    #[test]
    fn lock_that_is_removed_or_not_a_file_is_noticed() {
        let dir = Dir::new("odd");
        let lock = Lock::acquire(&dir.0, None).expect("it is free");
        fs::remove_file(dir.0.join(FILE)).expect("it is there");
        assert!(!lock.is_held());
        let again = Lock::acquire(&dir.0, None).expect("nobody holds it");
        assert!(again.is_held() && !Arc::ptr_eq(&lock, &again));
        drop(lock);
        assert!(again.is_held(), "only its own file is removed");
        drop(again);
        fs::create_dir(dir.0.join(FILE)).expect("a temporary folder");
        assert!(matches!(Lock::acquire(&dir.0, None), Err(LockError::Io(_))));
        fs::remove_dir(dir.0.join(FILE)).expect("it is there");
        std::os::unix::fs::symlink("/nowhere", dir.0.join(FILE)).expect("a link");
        assert!(matches!(Lock::acquire(&dir.0, None), Err(LockError::Io(_))));
    }
}
