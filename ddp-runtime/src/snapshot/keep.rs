//! Which snapshots are removed when a new one is there.

use std::fs;
use std::path::{Path, PathBuf};

use ddp_contract::snapshot as format;

use super::write::PARTIAL;
use crate::{Error, Result};

/// Which metrics are better; see [`Snapshots::keep_best`](super::Snapshots::keep_best).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Best {
    /// Small ones, such as a loss.
    Min,
    /// Large ones, such as an accuracy.
    Max,
}

/// What stays; all, unless something is said.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Keep {
    pub(super) last: Option<usize>,
    pub(super) best: Option<(usize, Best)>,
}

impl Keep {
    /// Removes what need not stay. Folders that can't be read are left alone, and count for nothing.
    pub(super) fn prune(self, dir: &Path) -> Result<()> {
        let Some(last) = self.last else { return Ok(()) };
        let folders = format::list(dir).map_err(Error::io("can't read", dir))?;
        let found: Vec<(PathBuf, Option<f64>)> = folders
            .into_iter()
            .filter_map(|folder| format::read_manifest(&folder).ok().map(|manifest| (folder, manifest.metric)))
            .collect();
        for index in self.superfluous(last, &found.iter().map(|(_, metric)| *metric).collect::<Vec<_>>()) {
            remove(&found[index].0)?;
        }
        Ok(())
    }

    /// Of snapshots with these metrics, newest first, the ones that go. The newest always stays.
    fn superfluous(self, last: usize, metrics: &[Option<f64>]) -> Vec<usize> {
        let mut stays: Vec<bool> = (0..metrics.len()).map(|index| index < last.max(1)).collect();
        if let Some((count, best)) = self.best {
            let mut judged: Vec<(usize, f64)> =
                metrics.iter().enumerate().filter_map(|(i, metric)| metric.map(|metric| (i, metric))).collect();
            judged.sort_by(|(_, a), (_, b)| if best == Best::Min { a.total_cmp(b) } else { b.total_cmp(a) });
            judged.iter().take(count).for_each(|&(index, _)| stays[index] = true);
        }
        (0..metrics.len()).filter(|&index| !stays[index]).collect()
    }
}

/// Removes a folder such that it is never half there under its name.
fn remove(folder: &Path) -> Result<()> {
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    let aside = folder.with_file_name(format!(".{name}.removed{PARTIAL}"));
    fs::rename(folder, &aside).map_err(Error::io("can't remove", folder))?;
    fs::remove_dir_all(&aside).map_err(Error::io("can't remove", &aside))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_and_the_best_stay() {
        let metrics = [Some(0.5), None, Some(0.2), Some(0.9), Some(0.1), None];
        let goes = |last, best| Keep { last: Some(last), best }.superfluous(last, &metrics);
        assert_eq!(goes(2, None), [2, 3, 4, 5]);
        assert_eq!(goes(2, Some((1, Best::Min))), [2, 3, 5]);
        assert_eq!(goes(1, Some((2, Best::Min))), [1, 3, 5]);
        assert_eq!(goes(1, Some((1, Best::Max))), [1, 2, 4, 5]);
        assert_eq!(goes(0, None), [1, 2, 3, 4, 5], "the newest stays in any case");
        assert_eq!(goes(9, None), [0; 0]);
    }
}
