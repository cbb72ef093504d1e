//! Which run executed a step, and where that step can be executed again.
//!
//! Runs that share a directory of snapshots continue each other: a run begins at a snapshot of an earlier one, perhaps with
//! another number of workers. The run that executed a step, with its number of workers and its arguments, can do it again from
//! any snapshot since its start, and from older ones if all runs in between did the same.

use std::path::{Path, PathBuf};

use ddp_contract::job::{Job, Start};
use ddp_contract::snapshot::{list, step_of};

use super::history::Run;

/// How a step of an earlier run can be executed again.
#[derive(Clone, Debug)]
pub struct Replay {
    /// The run that executed it.
    pub run: Run,
    /// The step, which is the last one to execute.
    pub step: u64,
    /// The snapshots that lead there, newest first. Whether they are valid is not known.
    pub snapshots: Vec<PathBuf>,
    /// Whether a start from scratch leads there, too.
    pub from_scratch: bool,
}

/// Why a step can't be executed again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unreachable {
    /// The run ended before it, after this step.
    NotExecuted { last: Option<u64> },
    /// No snapshot leads there. These steps can be reached.
    NoSnapshot { reachable: Option<(u64, u64)> },
}

impl Replay {
    /// Of `step` in the history of `last`, which is one of `runs` (oldest first), and ran `program`.
    ///
    /// # Errors
    /// [`Unreachable`].
    pub fn find(runs: &[Run], last: &Run, program: &str, step: u64) -> Result<Self, Unreachable> {
        if step == 0 || last.last_step() < Some(step) {
            return Err(Unreachable::NotExecuted { last: last.last_step() });
        }
        let lineage = Lineage::new(runs, last);
        let no_snapshot = || Unreachable::NoSnapshot { reachable: lineage.reachable(program) };
        let at = lineage.runs.iter().position(|run| start_step(run) < step).ok_or_else(no_snapshot)?;
        let (snapshots, from_scratch) = lineage.starts(at, program, step);
        if snapshots.is_empty() && !from_scratch {
            return Err(no_snapshot());
        }
        Ok(Self { run: lineage.runs[at].clone(), step, snapshots, from_scratch })
    }
}

/// A run, and those that it continues.
struct Lineage<'a> {
    /// Newest first: each begins at a snapshot of the next one.
    runs: Vec<&'a Run>,
    /// All that wrote to the same snapshots, oldest first.
    writers: Vec<&'a Run>,
    /// The snapshots there, newest first.
    saved: Vec<(u64, PathBuf)>,
}

impl<'a> Lineage<'a> {
    fn new(runs: &'a [Run], last: &'a Run) -> Self {
        let dir = snapshots_of(last);
        let writers: Vec<&Run> = match dir {
            Some(_) => runs.iter().filter(|run| snapshots_of(run) == dir).collect(),
            None => vec![last],
        };
        let saved = dir.and_then(|dir| list(dir).ok()).unwrap_or_default();
        let saved = saved.into_iter().filter_map(|folder| Some((step_of(&folder)?, folder))).collect();
        let mut lineage = vec![last];
        let mut older = writers.iter().position(|run| run.folder == last.folder).unwrap_or(writers.len());
        let mut start = start_step(last);
        // A snapshot is of the newest run that has made its step.
        while let Some(index) = writers[..older].iter().rposition(|run| has_made(run, start)) {
            lineage.push(writers[index]);
            (older, start) = (index, start_step(writers[index]));
        }
        Self { runs: lineage, writers, saved }
    }

    /// Where `self.runs[at]` can start in order to make `step`: snapshots, newest first, and from scratch.
    fn starts(&self, at: usize, program: &str, step: u64) -> (Vec<PathBuf>, bool) {
        let run = self.runs[at];
        let does_the_same = |other: &Run| {
            workers(other) == workers(run) && arguments(&other.job, program) == arguments(&run.job, program)
        };
        let earlier = &self.runs[at + 1..];
        let same = earlier.iter().take_while(|other| does_the_same(other)).last().copied().unwrap_or(run);
        let first = start_step(same);
        let usable = |(saved, _): &&(u64, PathBuf)| (first..step).contains(saved) && self.is_of_lineage(*saved);
        let snapshots = self.saved.iter().filter(usable).map(|(_, folder)| folder.clone()).collect();
        (snapshots, same.job.start == Some(Start { snapshot: None, step: 0 }))
    }

    /// Whether the snapshot of `step` was not replaced by a run that is not one of these.
    fn is_of_lineage(&self, step: u64) -> bool {
        let writer = self.writers.iter().rev().find(|run| has_made(run, step));
        let own = self.runs.iter().find(|run| has_made(run, step));
        writer.map(|run| &run.folder) == own.map(|run| &run.folder)
    }

    /// The first and last step of the newest run that can be executed again.
    fn reachable(&self, program: &str) -> Option<(u64, u64)> {
        let last = self.runs[0].last_step()?;
        let (snapshots, from_scratch) = self.starts(0, program, last);
        let oldest = snapshots.last().and_then(|folder| step_of(folder));
        let first = if from_scratch { Some(1) } else { oldest.map(|step| step + 1) };
        Some((first?.max(start_step(self.runs[0]) + 1), last))
    }
}

/// The steps that were done when the run began.
fn start_step(run: &Run) -> u64 {
    run.job.start.as_ref().map_or(0, |start| start.step)
}

/// Whether the run has executed the step.
fn has_made(run: &Run, step: u64) -> bool {
    start_step(run) < step && run.last_step() >= Some(step)
}

/// The number of workers on all nodes. Earlier versions recorded those of one node.
pub fn workers(run: &Run) -> usize {
    run.job.world_size.max(run.job.nproc)
}

/// The directory of the run's snapshots, if it saved or loaded one.
fn snapshots_of(run: &Run) -> Option<&Path> {
    let saved = run.job.snapshot.as_ref().map(|saved| saved.snapshot.as_path());
    saved.or_else(|| run.job.start.as_ref()?.snapshot.as_deref())?.parent()
}

/// The arguments that a job gave to `program`; `None` if it did not run that program. A runner of cargo's may come first.
pub fn arguments<'a>(job: &'a Job, program: &str) -> Option<&'a [String]> {
    let is_it = |word: &String| Path::new(word).file_name().is_some_and(|name| name == program);
    let at = job.command.iter().position(is_it)?;
    Some(&job.command[at + 1..])
}

#[cfg(test)]
mod tests {
    use ddp_contract::job::Saved;
    use ddp_contract::snapshot::folder_name;

    use super::*;

    struct Project {
        dir: tempfile::TempDir,
        runs: Vec<Run>,
    }

    impl Project {
        /// With snapshots of these steps.
        fn new(saved: &[u64]) -> Self {
            let dir = tempfile::tempdir().unwrap();
            saved.iter().for_each(|&step| std::fs::create_dir(dir.path().join(folder_name(step))).unwrap());
            Self { dir, runs: vec![] }
        }

        /// A run after the others, of the steps after `start` up to `last`.
        fn run(mut self, workers: usize, start: u64, last: u64, args: &[&str]) -> Self {
            let snapshot = |step| self.dir.path().join(folder_name(step));
            let words = std::iter::once("/w/target/debug/train").chain(args.iter().copied());
            let number = self.runs.len() as u64 + 1;
            let job = Job {
                command: words.map(str::to_owned).collect(),
                nproc: workers,
                world_size: workers,
                start: Some(Start { snapshot: (start > 0).then(|| snapshot(start)), step: start }),
                last_step: Some(last),
                snapshot: Some(Saved { snapshot: snapshot(last), step: last, metric: None }),
                ..Job::default()
            };
            let folder = PathBuf::from(format!("/w/runs/{number}"));
            self.runs.push(Run { number, folder, state: job.outcome, because: None, job });
            self
        }

        /// Of a step of the run with this number: the run that executes it, its workers, the steps of the snapshots, and
        /// whether a start from scratch does.
        fn find(&self, run: u64, step: u64) -> Result<(u64, usize, Vec<u64>, bool), Unreachable> {
            let last = self.runs.iter().find(|one| one.number == run).unwrap();
            let Replay { run, snapshots, from_scratch, .. } = Replay::find(&self.runs, last, "train", step)?;
            let steps = snapshots.iter().map(|folder| step_of(folder).unwrap()).collect();
            Ok((run.number, workers(&run), steps, from_scratch))
        }
    }

    #[test]
    fn replay_starts_from_the_newest_snapshots_before_the_step() {
        let project = Project::new(&[10, 20, 30, 40]).run(2, 0, 45, &[]);
        assert_eq!(project.find(1, 35), Ok((1, 2, vec![30, 20, 10], true)));
        assert_eq!(project.find(1, 40), Ok((1, 2, vec![30, 20, 10], true)), "step 40 itself is executed");
        assert_eq!(project.find(1, 10), Ok((1, 2, vec![], true)));
        for step in [0, 46] {
            assert_eq!(project.find(1, step), Err(Unreachable::NotExecuted { last: Some(45) }), "{step}");
        }
    }

    #[test]
    fn replay_has_the_workers_of_the_run_that_executed_the_step() {
        // 41 was saved when the first run was stopped.
        let project = Project::new(&[20, 40, 41, 60, 80]).run(2, 0, 41, &[]).run(3, 41, 70, &[]).run(2, 60, 90, &[]);
        assert_eq!(project.find(3, 85), Ok((3, 2, vec![80, 60], false)));
        assert_eq!(project.find(3, 61), Ok((3, 2, vec![60], false)));
        assert_eq!(project.find(3, 60), Ok((2, 3, vec![41], false)));
        assert_eq!(project.find(3, 42), Ok((2, 3, vec![41], false)), "40 is from before the change");
        assert_eq!(project.find(3, 41), Ok((1, 2, vec![40, 20], true)));
        // The steps that the third run made again are the second run's own.
        assert_eq!(project.find(2, 65), Ok((2, 3, vec![60, 41], false)));
    }

    #[test]
    fn replay_goes_back_beyond_runs_that_did_the_same() {
        let project = Project::new(&[20]).run(2, 0, 33, &["-x"]).run(2, 33, 50, &["-x"]).run(2, 50, 70, &["-y"]);
        assert_eq!(project.find(2, 45), Ok((2, 2, vec![20], true)));
        let none = Unreachable::NoSnapshot { reachable: None };
        assert_eq!(project.find(3, 60), Err(none), "the arguments changed at 50");
        let project = Project::new(&[55]).run(2, 0, 50, &[]).run(3, 50, 70, &[]);
        assert_eq!(project.find(2, 52), Err(Unreachable::NoSnapshot { reachable: Some((56, 70)) }));
    }

    #[test]
    fn replay_does_not_use_snapshots_that_another_run_replaced() {
        // The second run went back to 20, and replaced the snapshots after it.
        let project = Project::new(&[10, 20, 30, 40]).run(2, 0, 50, &[]).run(2, 20, 45, &["-y"]);
        assert_eq!(project.find(2, 35), Ok((2, 2, vec![30, 20], false)));
        assert_eq!(project.find(1, 35), Ok((1, 2, vec![20, 10], true)));
        // Runs whose snapshots are elsewhere do not count.
        let mut elsewhere = project;
        elsewhere.runs[1].job.snapshot = None;
        elsewhere.runs[1].job.start = None;
        assert_eq!(elsewhere.find(1, 35), Ok((1, 2, vec![30, 20, 10], true)));
        assert_eq!(elsewhere.find(2, 3), Err(Unreachable::NoSnapshot { reachable: None }), "where it began is unknown");
    }

    #[test]
    fn arguments_are_those_after_the_program() {
        let job =
            |words: &[&str]| Job { command: words.iter().map(|&word| word.to_owned()).collect(), ..Job::default() };
        let plain = job(&["/w/target/debug/train", "--lr", "train"]);
        assert_eq!(arguments(&plain, "train"), Some(&["--lr".to_owned(), "train".into()][..]));
        assert_eq!(arguments(&job(&["/usr/bin/qemu", "-L", "/x", "target/debug/train"]), "train"), Some(&[][..]));
        assert_eq!(arguments(&plain, "eval"), None);
    }
}
