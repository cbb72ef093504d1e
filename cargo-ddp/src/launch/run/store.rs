//! Where the runs of a project are: new ones in `runs/` (or where its settings point), and those of earlier versions in
//! `target/ddp/runs`, which `cargo clean` removes and projects may share.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use super::dir::{self, RunDir};
use super::files;
use super::history::{Run, history};
use super::latest::LATEST;
use crate::Result;
use crate::launch::event::Reporter;

/// The directory of runs in a project.
const RUNS: &str = "runs";
/// Where they were before, in the folder for what is built.
const OLD: &str = "ddp/runs";

/// Directories of runs. New ones go to the first.
#[derive(Clone, Debug)]
pub struct Store {
    places: Vec<Place>,
}

#[derive(Clone, Debug)]
struct Place {
    dir: PathBuf,
    /// Of a place that projects share: the one whose runs count.
    below: Option<PathBuf>,
    /// Whether an earlier version kept runs there, whose numbers are not given again.
    old: bool,
}

impl Store {
    /// One directory that the user has chosen.
    pub fn only(dir: PathBuf) -> Self {
        Self { places: vec![Place { dir, below: None, old: false }] }
    }

    /// The current directory, without a project.
    pub fn here() -> Self {
        Self::only(RUNS.into()).and_old(Path::new("target"), None)
    }

    /// The project in `root`, which builds in `target`. `chosen` are directories from its settings.
    pub fn of_project(root: &Path, target: &Path, chosen: Vec<PathBuf>) -> Self {
        let mut store = Self { places: vec![] };
        for dir in chosen.into_iter().chain([root.join(RUNS)]) {
            store.places.push(Place { dir, below: None, old: false });
        }
        // CARGO_TARGET_DIR may be one for all projects.
        store.and_old(target, (!target.starts_with(root)).then_some(root))
    }

    fn and_old(mut self, target: &Path, below: Option<&Path>) -> Self {
        self.places.push(Place { dir: target.join(OLD), below: below.map(Path::to_owned), old: true });
        self
    }

    /// And those of another.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.places.extend(other.places);
        self
    }

    /// Where new runs go.
    pub fn dir(&self) -> &Path {
        self.places.first().map_or(Path::new(RUNS), |place| &place.dir)
    }

    /// All places that there are, and the first in any case.
    pub fn dirs(&self) -> Vec<&Path> {
        let dirs = self.distinct().into_iter().map(|place| &*place.dir);
        dirs.enumerate().filter(|(index, dir)| *index == 0 || dir.is_dir()).map(|(_, dir)| dir).collect()
    }

    /// Makes the directory of a new run.
    ///
    /// # Errors
    /// [`Error::RunDir`](crate::Error::RunDir).
    pub(crate) fn create(&self, reporter: &mut dyn Reporter) -> Result<RunDir> {
        let old = self.places.iter().filter(|place| place.old);
        let above = old.flat_map(Place::numbers).max().unwrap_or(0);
        RunDir::create(self.dir(), above, reporter)
    }

    /// All runs, oldest first.
    pub fn history(&self) -> Vec<Run> {
        let runs = self.distinct().into_iter().flat_map(|place| history(&place.dir, place.below.as_deref()));
        let mut runs: Vec<_> = runs.collect();
        runs.sort_by(|a, b| a.job.started.total_cmp(&b.job.started));
        runs
    }

    /// The directory of a run by its number, or of the newest.
    pub fn find(&self, run: &str) -> Option<PathBuf> {
        let found = self.distinct().into_iter().filter_map(|place| place.find(run));
        match run {
            // Of several places, the one where the newest run is.
            LATEST => found.map(|path| (started(&path), path)).max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, path)| path),
            _ => found.into_iter().next(),
        }
    }

    /// Without those that are there twice.
    fn distinct(&self) -> Vec<&Place> {
        let mut seen = Vec::new();
        let mut is_new = |place: &&Place| {
            let dir = place.dir.canonicalize().or_else(|_| std::path::absolute(&place.dir)).unwrap_or_default();
            let new = !seen.contains(&dir);
            seen.push(dir);
            new
        };
        self.places.iter().filter(|place| is_new(place)).collect()
    }
}

impl Place {
    fn numbers(&self) -> Vec<u64> {
        match &self.below {
            None => dir::numbers(&self.dir),
            Some(_) => history(&self.dir, self.below.as_deref()).iter().map(|run| run.number).collect(),
        }
    }

    fn find(&self, run: &str) -> Option<PathBuf> {
        let path = self.dir.join(run);
        if run != LATEST {
            let other = || self.below.is_some() && !self.numbers().iter().any(|number| number.to_string() == run);
            return (path.is_dir() && !other()).then_some(path);
        }
        if self.below.is_none() && path.is_symlink() && path.is_dir() {
            return Some(path);
        }
        // Where `latest` is not what it was made as: a copy, somebody else's, or missing.
        self.numbers().last().map(|number| self.dir.join(number.to_string()))
    }
}

/// When a run began, or its directory was made.
fn started(path: &Path) -> f64 {
    let real = fs::canonicalize(path).unwrap_or_default();
    if let Some(job) = files::load(&real) {
        return job.started;
    }
    let made = fs::metadata(&real).and_then(|found| found.modified()).ok();
    made.and_then(|made| made.duration_since(UNIX_EPOCH).ok()).map_or(0.0, |time| time.as_secs_f64())
}
