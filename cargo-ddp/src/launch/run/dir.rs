//! The directory of a run: made, marked, and locked while its launcher lives.
//!
//! The directory of runs may be the user's own (`--log-dir data`), with directories whose names are numbers. So each run's
//! directory has a marker, and nothing without one is removed or replaced.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use super::files::{self, LOCK, MARKER, MARKER_VERSION, Marker, is_run};
use super::latest::{LATEST, link_latest};
use super::prune::prune;
use crate::launch::event::{LaunchEvent, Reporter};
use crate::os::{origin, private};
use crate::{Error, Result};

/// A directory with this number or a larger one was not made by a launcher.
const LARGEST_NUMBER: u64 = 1 << 53;
/// The newest runs that keep their logs.
const KEPT_RUNS: usize = 50;
/// `ls` and its like look at a lock for a moment only.
const LOCK_TRIES: u32 = 200;
const LOCK_PAUSE: Duration = Duration::from_millis(5);

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
        files::write(&path.join(MARKER), &marker).map_err(cant)?;
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

#[cfg(test)]
mod tests {
    use ddp_contract::job::Origin;

    use super::super::presence::{Presence, presence};
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
        files::write(&run.join(MARKER), &serde_json::to_vec(&other).unwrap()).unwrap();
        fs::remove_file(run.join(LOCK)).unwrap();
        // (A marker of the version before: without a version.)
        assert_eq!(presence(&run), Presence::Unknown("other".into()));
        assert!(!prune(&run) && run.exists());
    }
}
