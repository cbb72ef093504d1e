//! The directory of a run: made, marked, locked while its launcher lives, and pruned.
//!
//! The directory of runs may be the user's own (`--log-dir data`), with directories whose names are numbers. So each run's
//! directory has a marker, and nothing without one is removed or replaced. Pruning removes what the launcher wrote, by name;
//! metrics, plots, and whatever else a program or its user put there stay.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use ddp_contract::job::{FILE, Job, Origin};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::previous;
use crate::launch::event::{Blocker, LaunchEvent, Reporter};
use crate::os::aside::move_aside;
use crate::os::{json, origin, private};
use crate::{Error, Result};

/// A directory with this number or a larger one was not made by a launcher.
const LARGEST_NUMBER: u64 = 1 << 53;
/// The newest runs that keep their logs.
const KEPT_RUNS: usize = 50;
/// In each run's directory: marks it as one, and names the process and the machine that made it.
pub(crate) const MARKER: &str = ".cargo-ddp-run";
/// In each run's directory: locked as long as the launcher lives.
const LOCK: &str = ".lock";
/// The link to the newest run.
pub const LATEST: &str = "latest";
/// The extension of a launcher's file that is being written.
const PARTIAL: &str = "partial";
/// `ls` and its like look at a lock for a moment only.
const LOCK_TRIES: u32 = 200;
const LOCK_PAUSE: Duration = Duration::from_millis(5);

/// The content of the marker. A marker without a version has version 0.
#[derive(Serialize, Deserialize)]
struct Marker {
    #[serde(default)]
    version: u32,
    #[serde(flatten)]
    origin: Origin,
}

/// The version of markers that are written.
const MARKER_VERSION: u32 = 1;

/// The directory of a run that this process launches. It is known to run until this is dropped, or the process ends.
#[derive(Debug)]
pub struct RunDir {
    /// Its number among the runs.
    pub number: u64,
    /// Where it is.
    pub path: PathBuf,
    _lock: Option<File>,
}

impl RunDir {
    /// Makes one in `runs` with a number above `above` and above those that are there. The link `latest` points to it. Of
    /// runs beyond the newest 50, logs are removed.
    ///
    /// # Errors
    /// [`Error::RunDir`].
    pub(crate) fn create(runs: &Path, above: u64, reporter: &mut dyn Reporter) -> Result<Self> {
        let cant = |source| Error::RunDir { dir: runs.to_owned(), source };
        // A worker may go to another directory.
        let runs = std::path::absolute(runs).map_err(cant)?;
        create_runs(&runs).map_err(cant)?;
        let numbers = numbers(&runs);
        let mut number = numbers.last().copied().unwrap_or(0).max(above);
        let path = loop {
            number += 1;
            let path = runs.join(number.to_string());
            match private::create_dir(&path) {
                Ok(()) => break path,
                Err(err) if err.kind() == ErrorKind::AlreadyExists => {}
                Err(err) => return Err(cant(err)),
            }
        };
        // The lock comes first: another launcher that sees the marker sees the lock.
        let lock = lock(&path).map_err(cant)?;
        let marker = Marker { version: MARKER_VERSION, origin: origin::own() };
        let marker = serde_json::to_vec(&marker).map_err(|err| cant(err.into()))?;
        write_run_file(&path.join(MARKER), &marker).map_err(cant)?;
        let run = Self { number, path, _lock: lock };
        let old: Vec<_> = numbers.iter().rev().skip(KEPT_RUNS - 1).rev().copied().collect();
        let pruned: Vec<_> = old.into_iter().filter(|old| prune(&runs.join(old.to_string()))).collect();
        if let (Some(&first), Some(&last)) = (pruned.first(), pruned.last()) {
            reporter.report(LaunchEvent::RunsPruned { first, last, kept: KEPT_RUNS });
        }
        if let Err(by) = link_latest(&runs, number) {
            reporter.report(LaunchEvent::LatestBlocked { latest: runs.join(LATEST), by });
        }
        Ok(run)
    }
}

/// Makes the directory of runs. A new one is ignored by git.
fn create_runs(runs: &Path) -> io::Result<()> {
    if runs.is_dir() {
        return Ok(());
    }
    fs::create_dir_all(runs)?;
    let ignore = OpenOptions::new().write(true).create_new(true).open(runs.join(".gitignore"));
    // Nothing depends on it.
    let _ = ignore.and_then(|mut file| file.write_all(b"# Made by cargo ddp.\n*\n"));
    Ok(())
}

fn lock(path: &Path) -> io::Result<Option<File>> {
    let lock = private::open_lock(&path.join(LOCK))?;
    for _ in 0..LOCK_TRIES {
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(Some(lock)),
            Err(Errno::WOULDBLOCK | Errno::INTR) => sleep(LOCK_PAUSE),
            // A file system without locks.
            Err(_) => break,
        }
    }
    Ok(None)
}

/// Replaces a file of the launcher in a run's directory: complete or not at all, and for its owner alone, as it may hold
/// the arguments of a program.
pub(crate) fn write_run_file(path: &Path, content: &[u8]) -> io::Result<()> {
    let partial = path.with_extension(PARTIAL);
    let _ = fs::remove_file(&partial);
    let mut file = private::create(&partial)?;
    file.write_all(content)?;
    fs::rename(partial, path)
}

/// The numbers of the runs in a directory, in order. What is not a run's directory is skipped.
pub(crate) fn numbers(runs: &Path) -> Vec<u64> {
    let entries = fs::read_dir(runs).into_iter().flatten().flatten();
    let number = |entry: fs::DirEntry| {
        let name = entry.file_name();
        let number: u64 = name.to_str()?.parse().ok()?;
        // `007` and `+7` are not our names. After 2^64 - 1 there is no number left for the next run.
        let is_number = name.to_str()? == number.to_string() && number < LARGEST_NUMBER;
        (is_number && is_run(&entry.path())).then_some(number)
    };
    let mut numbers: Vec<_> = entries.filter_map(number).collect();
    numbers.sort_unstable();
    numbers
}

/// Whether this is the directory of a run. Earlier versions left no marker, but a `run.json`.
pub(crate) fn is_run(path: &Path) -> bool {
    path.join(MARKER).is_file() || json::read::<previous::RunFile>(&path.join(previous::RUN_FILE)).is_some()
}

/// The job of the run in this directory, in the present format or the one before.
pub(crate) fn load(path: &Path) -> Option<Job> {
    json::read(&path.join(FILE)).or_else(|| previous::load(path))
}

/// What is known of the launcher of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Presence {
    /// It runs, here or elsewhere.
    Running,
    /// It has ended, with or without a word.
    Ended,
    /// It ran on this machine, whose state can't be seen from here.
    Unknown(String),
}

/// Whether the launcher of the run in this directory lives.
pub(crate) fn presence(path: &Path) -> Presence {
    let marker = || json::read::<Marker>(&path.join(MARKER)).map(|marker| marker.origin);
    let origin = || load(path).and_then(|job| job.origin).or_else(marker);
    match probe(path) {
        Lock::Held => Presence::Running,
        Lock::Free => match origin() {
            // Not all network file systems show one machine the locks of another.
            Some(origin) if origin::is_of_other_machine(&origin) && !is_local(path) => {
                Presence::Unknown(origin::machine(&origin))
            }
            _ => Presence::Ended,
        },
        Lock::Missing => match origin() {
            Some(origin) if origin::is_of_other_machine(&origin) => Presence::Unknown(origin::machine(&origin)),
            _ => Presence::Ended,
        },
        // Without locks there are processes.
        Lock::Unsupported => match origin() {
            Some(origin) if !origin::is_here(&origin) => Presence::Unknown(origin::machine(&origin)),
            Some(origin) if origin::is_alive(&origin) => Presence::Running,
            _ => Presence::Ended,
        },
    }
}

/// The state of the lock of a run's directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lock {
    Held,
    Free,
    Missing,
    Unsupported,
}

/// Looks at the lock of a run's directory.
pub(crate) fn probe(path: &Path) -> Lock {
    // Not to wait for a FIFO of that name.
    let lock = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path.join(LOCK));
    let Ok(lock) = lock else { return Lock::Missing };
    match flock(&lock, FlockOperation::NonBlockingLockShared) {
        Ok(()) => Lock::Free,
        Err(Errno::WOULDBLOCK) => Lock::Held,
        Err(_) => Lock::Unsupported,
    }
}

/// Whether the file system belongs to this machine alone, so that all locks on it are seen here.
pub(crate) fn is_local(path: &Path) -> bool {
    /// ext2 to 4, XFS, Btrfs, tmpfs, overlayfs, ZFS, F2FS, bcachefs: the numbers are those of statfs(2).
    const LOCAL: [u32; 8] =
        [0xef53, 0x5846_5342, 0x9123_683e, 0x0102_1994, 0x794c_7630, 0x2fc1_2fc1, 0xf2f5_2010, 0xca45_1a4e];
    rustix::fs::statfs(path).is_ok_and(|found| LOCAL.contains(&(found.f_type as u32)))
}

/// Removes what the launcher of a run that has ended wrote to its attempts, and the directory, if nothing but the launcher's
/// own files is left. Says whether anything was removed.
fn prune(path: &Path) -> bool {
    let is_directory = fs::symlink_metadata(path).is_ok_and(|found| found.is_dir());
    if !is_directory || presence(path) != Presence::Ended {
        return false;
    }
    let mut removed = false;
    let mut others = false;
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if is_attempt(&name) && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            removed |= remove_logs(&entry.path());
            others |= fs::remove_dir(entry.path()).is_err();
        } else {
            others |= !OF_LAUNCHER.contains(&name.as_str());
        }
    }
    if !others {
        // The marker last: what a kill leaves is still known as a run.
        removed |= OF_LAUNCHER.iter().all(|name| remove_file(&path.join(name))) && fs::remove_dir(path).is_ok();
    }
    removed
}

/// The launcher's own files in a run's directory.
const OF_LAUNCHER: [&str; 8] =
    ["job.partial", "run.partial", "report.partial", previous::REPORT_FILE, previous::RUN_FILE, FILE, LOCK, MARKER];

fn is_attempt(name: &str) -> bool {
    name.strip_prefix("attempt-").is_some_and(|number| number.parse::<u32>().is_ok())
}

/// `rank-3.stderr.log.1` and the like.
fn is_of_rank(name: &str) -> bool {
    const KINDS: [&str; 7] =
        ["stdout.log", "stdout.log.1", "stderr.log", "stderr.log.1", "error.json", "error.partial", "stacks.txt"];
    let parts = name.strip_prefix("rank-").and_then(|rest| rest.split_once('.'));
    parts.is_some_and(|(rank, kind)| rank.parse::<usize>().is_ok() && KINDS.contains(&kind))
}

fn remove_logs(attempt: &Path) -> bool {
    let entries = fs::read_dir(attempt).into_iter().flatten().flatten();
    let logs = entries.filter(|entry| entry.file_name().to_str().is_some_and(is_of_rank));
    logs.filter(|entry| fs::remove_file(entry.path()).is_ok()).count() > 0
}

/// Whether the file is gone.
fn remove_file(path: &Path) -> bool {
    fs::remove_file(path).map_or_else(|err| err.kind() == ErrorKind::NotFound, |()| true)
}

/// Points `latest` to the run. An older link of this kind is replaced in one step, so that it always points somewhere; a
/// copy of a run (`scp -r` makes one of a link) is moved aside; anything else is the user's, and is returned.
fn link_latest(runs: &Path, number: u64) -> Result<(), Blocker> {
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
    use super::*;
    use crate::launch::event::Silent;

    fn create(runs: &Path) -> RunDir {
        RunDir::create(runs, 0, &mut Silent).unwrap()
    }

    fn touch(path: PathBuf) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "x").unwrap();
    }

    #[test]
    fn run_directories_are_numbered_linked_and_pruned() {
        let dir = tempfile::tempdir().unwrap();
        let runs = dir.path().join("runs");
        assert_eq!(create(&runs).number, 1);
        let second = create(&runs);
        assert_eq!((second.number, second.path.is_dir()), (2, true));
        assert_eq!(fs::canonicalize(runs.join(LATEST)).unwrap(), fs::canonicalize(&second.path).unwrap());
        touch(runs.join("1/attempt-0/rank-0.stdout.log"));
        for _ in 0..KEPT_RUNS {
            create(&runs);
        }
        // The second one runs.
        assert!(!runs.join("1").exists() && runs.join("2").exists() && runs.join("3").exists());
        drop(second);
        create(&runs);
        assert!(!runs.join("2").exists() && !runs.join("3").exists() && runs.join("4").exists());
        assert_eq!(numbers(&runs).len(), KEPT_RUNS);
        assert_eq!(RunDir::create(&runs, 1000, &mut Silent).unwrap().number, 1001);
    }

    // No run could be started any more: "no storage space".
    #[test]
    fn run_directory_with_the_largest_number_is_skipped() {
        let dir = tempfile::tempdir().unwrap();
        for number in [u64::MAX, u64::MAX - 1, LARGEST_NUMBER] {
            touch(dir.path().join(number.to_string()).join(MARKER));
        }
        assert_eq!((create(dir.path()).number, create(dir.path()).number), (1, 2));
        assert_eq!(numbers(dir.path()), [1, 2]);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 6, "nothing is removed");
    }

    #[test]
    fn pruned_runs_keep_what_the_launcher_did_not_write() {
        let dir = tempfile::tempdir().unwrap();
        let runs = dir.path();
        for _ in 1..=3 {
            drop(create(runs));
        }
        for file in [
            "1/metrics.jsonl",
            "1/job.json",
            "1/report.json",
            "1/attempt-0/rank-0.stdout.log",
            "1/attempt-0/rank-1.error.json",
        ] {
            touch(runs.join(file));
        }
        touch(runs.join("2/attempt-0/notes.txt"));
        touch(runs.join("2/attempt-0/rank-0.stderr.log.1"));
        for number in 1..=3 {
            assert!(prune(&runs.join(number.to_string())), "{number}");
        }
        assert!(runs.join("1/metrics.jsonl").exists() && runs.join("1/report.json").exists());
        assert!(!runs.join("1/attempt-0").exists());
        assert!(runs.join("2/attempt-0/notes.txt").exists() && !runs.join("2/attempt-0/rank-0.stderr.log.1").exists());
        assert!(!runs.join("3").exists());
        assert_eq!(numbers(runs), [1, 2], "what is left is still a run");
        assert!(!prune(&runs.join("1")), "nothing is left to remove");
    }

    #[test]
    fn runs_of_other_machines_are_not_pruned_where_their_locks_may_be_invisible() {
        let dir = tempfile::tempdir().unwrap();
        let run = create(dir.path()).path;
        assert_eq!(presence(&run), Presence::Ended);
        let other = Origin { host: "other".into(), boot_id: "another-boot".into(), ..origin::own() };
        write_run_file(&run.join(MARKER), &serde_json::to_vec(&other).unwrap()).unwrap();
        fs::remove_file(run.join(LOCK)).unwrap();
        // (A marker of the version before: without a version.)
        assert_eq!(presence(&run), Presence::Unknown("other".into()));
        assert!(!prune(&run) && run.exists());
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
