//! Which snapshots stay when old ones are removed: by the run that writes them, and by `cargo ddp snapshot prune`.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::hold;
use crate::snapshot::{FileInfo, MANIFEST, Manifest, PARTIAL, read_manifest};

/// Which metrics are better.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Goal {
    /// Small ones, such as a loss.
    Minimize,
    /// Large ones, such as an accuracy.
    Maximize,
}

/// How many snapshots stay.
#[derive(Clone, Copy, Debug, Default)]
pub struct Retention {
    /// The newest valid ones; 0 counts as 1.
    pub last: usize,
    /// And the valid ones with the best metric.
    pub best: Option<(usize, Goal)>,
    /// And one for every this many steps, so that any step can be executed again; `None` and 0: none of them.
    pub every: Option<u64>,
}

/// A snapshot that may be removed.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// Its directory: a real one, not a link.
    pub folder: PathBuf,
    /// Optimizer steps that it holds.
    pub step: u64,
    /// Number of ranks that trained it.
    pub world_size: usize,
    /// What the run was judged by.
    pub metric: Option<f64>,
    /// Whether the run's loss and weights were finite numbers.
    pub finite: bool,
}

impl Candidate {
    /// The snapshot in `folder`, of this manifest; `None` for a link to a directory.
    pub fn new(folder: PathBuf, manifest: &Manifest) -> Option<Self> {
        let is_directory = fs::symlink_metadata(&folder).is_ok_and(|metadata| metadata.is_dir());
        let finite = manifest.non_finite_since.is_none();
        let Manifest { step, world_size, metric, .. } = *manifest;
        is_directory.then_some(Self { folder, step, world_size, metric, finite })
    }
}

impl Retention {
    /// Of `snapshots`, newest first, whether each stays:
    /// - the newest `last` valid ones, and the newest valid one from before the loss was no finite number,
    /// - the `best` valid ones by metric, of equals the newest,
    /// - for every `every` steps, the first valid one at or after a multiple of them; and the last one before the number of
    ///   ranks changes: the steps after it can't be executed again from an older one,
    /// - those that `needed` names, and those that a link in `dir` or in a snapshot that stays points to,
    /// - damaged ones that are newer than these: they may be all that is left of something.
    ///
    /// `is_valid` is asked about as few snapshots as possible, and about each at most once.
    pub fn stays(
        &self,
        dir: &Path,
        snapshots: &[Candidate],
        needed: &[PathBuf],
        mut is_valid: impl FnMut(&Path) -> bool,
    ) -> Vec<bool> {
        let mut known: Vec<Option<bool>> = vec![None; snapshots.len()];
        let mut valid = |index: usize| *known[index].get_or_insert_with(|| is_valid(&snapshots[index].folder));
        let mut stays: Vec<bool> = snapshots.iter().map(|snapshot| needed.contains(&snapshot.folder)).collect();

        let newest: Vec<usize> = (0..snapshots.len()).filter(|&index| valid(index)).take(self.last.max(1)).collect();
        newest.iter().for_each(|&index| stays[index] = true);
        if !newest.iter().any(|&index| snapshots[index].finite) {
            let before = (0..snapshots.len()).find(|&index| snapshots[index].finite && valid(index));
            before.into_iter().for_each(|index| stays[index] = true);
        }
        if let Some((count, best)) = self.best {
            let metric = |index: usize| snapshots[index].metric.filter(|metric| !metric.is_nan());
            let mut judged: Vec<(usize, f64)> =
                (0..snapshots.len()).filter_map(|index| Some((index, metric(index)?))).collect();
            // Stable: of equals, the newest comes first.
            judged.sort_by(|(_, a), (_, b)| if best == Goal::Minimize { a.total_cmp(b) } else { b.total_cmp(a) });
            let judged = judged.into_iter().map(|(index, _)| index).filter(|&index| valid(index));
            judged.take(count).for_each(|index| stays[index] = true);
        }
        if let Some(every) = self.every.filter(|every| *every > 0) {
            let mut left: Vec<usize> = (0..snapshots.len()).collect();
            while let Some(&newest) = left.first() {
                let number = |index: usize| snapshots[index].step / every;
                let end = left.iter().position(|&index| number(index) != number(newest)).unwrap_or(left.len());
                let group: Vec<usize> = left.drain(..end).collect();
                let mut oldest =
                    group.iter().rev().copied().filter(|&index| number(index) > 0 || snapshots[index].step == 0);
                // Only of several it matters which are valid.
                let first = if group.len() == 1 { oldest.next() } else { oldest.find(|&index| valid(index)) };
                first.into_iter().for_each(|index| stays[index] = true);
            }
            for (newer, pair) in snapshots.windows(2).enumerate() {
                stays[newer + 1] |= pair[0].world_size != pair[1].world_size;
            }
        }
        for (index, known) in known.iter().enumerate() {
            stays[index] |= *known == Some(false);
        }
        keep_targets(dir, snapshots, &mut stays);
        stays
    }
}

/// Keeps what links point to: those in `dir`, and those in each snapshot that stays.
fn keep_targets(dir: &Path, snapshots: &[Candidate], stays: &mut [bool]) {
    let places: Vec<Option<PathBuf>> =
        snapshots.iter().map(|snapshot| fs::canonicalize(&snapshot.folder).ok()).collect();
    let mut targets = links(dir);
    let mut looked = vec![false; snapshots.len()];
    loop {
        for (index, place) in places.iter().enumerate() {
            stays[index] |= place.as_ref().is_some_and(|place| targets.iter().any(|target| target.starts_with(place)));
        }
        let Some(next) = (0..snapshots.len()).find(|&index| stays[index] && !looked[index]) else { return };
        looked[next] = true;
        targets.extend(links(&snapshots[next].folder));
    }
}

/// Where the links in `folder` point to.
fn links(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let links = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_symlink()));
    links.filter_map(|entry| fs::canonicalize(entry.path()).ok()).collect()
}

/// Removes a snapshot such that no part of it is ever left under its name. A snapshot that no longer exists is not an error.
///
/// # Errors
/// [`ResourceBusy`](io::ErrorKind::ResourceBusy) while a program [holds](crate::snapshot::Hold) it. Those of moving and
/// removing it. If nothing of it was removed, it has its old name; else what is left has a name that
/// the next run's cleanup looks for, or no manifest.
pub fn remove(folder: &Path) -> io::Result<()> {
    let _claimed = hold::claim(folder)?;
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    let mut moved = Ok(());
    // What an earlier removal could not finish may have the first name.
    for number in 0..8 {
        let aside = folder.with_file_name(format!(".{name}.removed{number}{PARTIAL}"));
        moved = match fs::rename(folder, &aside) {
            Ok(()) => {
                let removed = ignore_missing(fs::remove_dir_all(&aside));
                if removed.is_err() && is_complete(&aside) {
                    let _ = fs::rename(&aside, folder); // nothing is lost, so nothing is hidden
                }
                return removed;
            }
            Err(err) => Err(err),
        };
        if !matches!(&moved, Err(err) if is_taken(err)) {
            break;
        }
    }
    match moved {
        // overlayfs does not rename a directory of a lower layer. Without its manifest, a snapshot is none.
        Err(err) if err.kind() == io::ErrorKind::CrossesDevices => {
            ignore_missing(fs::remove_file(folder.join(MANIFEST)))?;
            ignore_missing(fs::remove_dir_all(folder))
        }
        moved => ignore_missing(moved),
    }
}

/// Whether every file of a snapshot exists and has its size.
fn is_complete(folder: &Path) -> bool {
    let has = |(name, info): (&String, &FileInfo)| fs::metadata(folder.join(name)).is_ok_and(|m| m.len() == info.bytes);
    read_manifest(folder).is_ok_and(|manifest| manifest.files.iter().all(has))
}

/// Whether a rename failed because there is something under the new name.
pub fn is_taken(err: &io::Error) -> bool {
    use io::ErrorKind::{AlreadyExists, DirectoryNotEmpty, NotADirectory};
    matches!(err.kind(), AlreadyExists | DirectoryNotEmpty | NotADirectory)
}

fn ignore_missing(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

/// What interrupted saves, removals and imports have left in `dir`.
pub fn leftovers(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let is_directory = fs::symlink_metadata(&path).is_ok_and(|metadata| metadata.is_dir());
        if name.starts_with(".step-") && name.ends_with(PARTIAL) && is_directory {
            found.push(path);
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidates(metrics: &[Option<f64>]) -> Vec<Candidate> {
        let candidate = |(i, metric): (usize, &Option<f64>)| Candidate {
            folder: i.to_string().into(),
            step: 100 - i as u64,
            world_size: 2,
            metric: *metric,
            finite: true,
        };
        metrics.iter().enumerate().map(candidate).collect()
    }

    /// Which of them stay if `damaged` are, by their index.
    fn kept(retention: Retention, candidates: &[Candidate], damaged: &[usize]) -> Vec<usize> {
        let is_valid = |folder: &Path| !damaged.iter().any(|index| folder == Path::new(&index.to_string()));
        let stays = retention.stays(Path::new("/nowhere"), candidates, &[], is_valid);
        (0..stays.len()).filter(|&index| stays[index]).collect()
    }

    #[test]
    fn retention_keeps_the_last_and_the_best_valid_ones() {
        // Newest first.
        let all = candidates(&[Some(0.5), None, Some(f64::NAN), Some(0.9), Some(0.1), Some(0.9), None]);
        let kept = |last, best, damaged: &[usize]| kept(Retention { last, best, every: None }, &all, damaged);
        assert_eq!(kept(2, None, &[]), [0, 1]);
        assert_eq!(kept(2, Some((1, Goal::Minimize)), &[]), [0, 1, 4]);
        assert_eq!(kept(1, Some((2, Goal::Minimize)), &[]), [0, 4]);
        assert_eq!(kept(1, Some((1, Goal::Maximize)), &[]), [0, 3], "of equals, the newest");
        assert_eq!(kept(0, None, &[]), [0], "the newest stays in any case");
        assert_eq!(kept(9, None, &[]), [0, 1, 2, 3, 4, 5, 6]);
        assert_eq!(kept(1, None, &[0, 1]), [0, 1, 2], "damaged ones do not count, and are left alone");
        assert_eq!(kept(1, Some((1, Goal::Minimize)), &[4]), [0, 4], "0 is the best of the valid ones");
        assert_eq!(kept(1, None, &[0, 1, 2, 3, 4, 5, 6]), [0, 1, 2, 3, 4, 5, 6]);
    }

    #[test]
    fn retention_keeps_the_last_finite_one() {
        let mut all = candidates(&[None; 5]);
        all[0].finite = false;
        all[1].finite = false;
        let last = |last| Retention { last, ..Retention::default() };
        assert_eq!(kept(last(1), &all, &[]), [0, 2]);
        assert_eq!(kept(last(3), &all, &[]), [0, 1, 2]);
        assert_eq!(kept(last(1), &all, &[2]), [0, 2, 3], "the newest valid one of them");
    }

    /// Candidates of these steps and numbers of ranks, newest first.
    fn at_steps(steps: &[(u64, usize)]) -> Vec<Candidate> {
        let mut all = candidates(&vec![None; steps.len()]);
        for (candidate, &(step, world_size)) in all.iter_mut().zip(steps) {
            (candidate.step, candidate.world_size) = (step, world_size);
        }
        all
    }

    #[test]
    fn retention_keeps_one_for_every_so_many_steps() {
        let steps = |every, steps: &[u64], damaged: &[usize]| {
            let all = at_steps(&steps.iter().map(|&step| (step, 2)).collect::<Vec<_>>());
            let kept = kept(Retention { last: 1, every: Some(every), ..Retention::default() }, &all, damaged);
            kept.into_iter().map(|index| all[index].step).collect::<Vec<_>>()
        };
        assert_eq!(steps(10, &[45, 40, 35, 30, 25, 20, 15, 10, 5], &[]), [45, 40, 30, 20, 10]);
        assert_eq!(steps(50, &[291, 194, 97], &[]), [291, 194, 97], "the first at or after a multiple");
        assert_eq!(steps(100, &[291, 260, 194, 150, 97], &[]), [291, 260, 150]);
        assert_eq!(steps(100, &[291, 260, 194, 150, 97], &[3]), [291, 260, 194, 150], "a damaged one does not count");
        assert_eq!(steps(10, &[7, 5, 0], &[]), [7, 0], "where a run with imported weights begins");
        assert_eq!(steps(0, &[30, 20, 10], &[]), [30], "0 is none");
        assert_eq!(steps(7, &[10], &[]), [10]);
    }

    #[test]
    fn retention_keeps_what_another_number_of_ranks_resumed_from() {
        let all = at_steps(&[(60, 2), (55, 3), (50, 3), (45, 3), (41, 2), (40, 2), (35, 2)]);
        let every = |every| kept(Retention { last: 1, every, ..Retention::default() }, &all, &[]);
        assert_eq!(every(Some(20)), [0, 1, 4, 5, 6], "60; 55 and 41; and by their steps 40 and 35");
        assert_eq!(every(None), [0]);
    }
}
