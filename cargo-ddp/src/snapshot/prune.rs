use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use ddp_contract::snapshot::Damage;

use super::find::{Listed, list};
use crate::{Error, Result};

/// Which metrics are better.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Best {
    /// Small ones, such as a loss.
    Min,
    /// Large ones, such as an accuracy.
    Max,
}

/// What stays.
#[derive(Clone, Copy, Debug)]
pub struct Keep {
    /// So many of the newest whole ones; at least 1.
    pub last: usize,
    /// And so many of the best.
    pub best: Option<(usize, Best)>,
}

/// What was done, or would be.
#[derive(Debug, Default)]
pub struct Pruned {
    /// Snapshots that went, and their bytes.
    pub removed: Vec<(PathBuf, u64)>,
    /// Whole snapshots that stay.
    pub kept: Vec<PathBuf>,
    /// Damaged ones, which are left alone: they may be all that is left of something.
    pub damaged: Vec<(PathBuf, Damage)>,
}

/// Removes the snapshots below `dir` that need not stay; with `dry_run`, only says which.
///
/// # Errors
/// [`Error::NoSnapshot`], [`Error::System`].
pub fn prune(dir: &Path, keep: Keep, dry_run: bool) -> Result<Pruned> {
    let mut pruned = Pruned::default();
    let mut whole = Vec::new();
    for Listed { folder, bytes, manifest, .. } in list(dir)? {
        match manifest {
            Ok(manifest) => whole.push((folder, bytes, manifest.metric)),
            Err(damage) => pruned.damaged.push((folder, damage)),
        }
    }
    let metrics: Vec<_> = whole.iter().map(|(_, _, metric)| *metric).collect();
    let stays = stays(keep, &metrics);
    for ((folder, bytes, _), stays) in whole.into_iter().zip(stays) {
        if stays {
            pruned.kept.push(folder);
        } else {
            if !dry_run {
                remove(&folder)?;
            }
            pruned.removed.push((folder, bytes));
        }
    }
    Ok(pruned)
}

/// Of whole snapshots with these metrics, oldest first, whether each stays. The newest always does.
fn stays(keep: Keep, metrics: &[Option<f64>]) -> Vec<bool> {
    let first_kept = metrics.len().saturating_sub(keep.last.max(1));
    let mut stays: Vec<bool> = (0..metrics.len()).map(|index| index >= first_kept).collect();
    if let Some((count, best)) = keep.best {
        // NaN is never among the best.
        let judged: Vec<_> = metrics.iter().enumerate().filter_map(|(i, metric)| Some((i, (*metric)?))).collect();
        // Newest first: of equals, the newest stays.
        let mut judged: Vec<_> = judged.into_iter().rev().filter(|(_, metric)| !metric.is_nan()).collect();
        judged.sort_by(|(_, a), (_, b)| if best == Best::Min { a.total_cmp(b) } else { b.total_cmp(a) });
        judged.iter().take(count).for_each(|&(index, _)| stays[index] = true);
    }
    stays
}

/// Removes a folder such that it is never half there under its name. What a kill leaves (`.step-….partial`) is cleared by
/// the next run that saves there.
fn remove(folder: &Path) -> Result<()> {
    let cant = || Error::system(format!("can't remove {}", folder.display()));
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    let aside = folder.with_file_name(format!(".{name}.removed.partial"));
    match fs::rename(folder, &aside) {
        // A run that trains meanwhile has its own rules, and was quicker.
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(()),
        renamed => renamed.map_err(cant())?,
    }
    fs::remove_dir_all(&aside).map_err(cant())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept_of_equals() -> Vec<bool> {
        stays(Keep { last: 1, best: Some((1, Best::Min)) }, &[Some(4.0), Some(4.0), Some(9.0)])
    }

    #[test]
    fn the_last_and_the_best_stay() {
        // Oldest first.
        let metrics = [None, Some(0.1), Some(0.9), Some(f64::NAN), None, Some(0.5)];
        let kept = |last, best| {
            let stays = stays(Keep { last, best }, &metrics);
            (0..metrics.len()).filter(|index| stays[*index]).collect::<Vec<_>>()
        };
        assert_eq!(kept(2, None), [4, 5]);
        assert_eq!(kept(1, Some((1, Best::Min))), [1, 5]);
        assert_eq!(kept(1, Some((2, Best::Max))), [2, 5]);
        assert_eq!(kept_of_equals(), [false, true, true]);
        assert_eq!(kept(0, None), [5], "the newest stays in any case");
        assert_eq!(kept(9, None), [0, 1, 2, 3, 4, 5]);
    }
}
