//! The runs of a directory, ended or not, from what their launchers left there.

use std::path::{Path, PathBuf};

use ddp_contract::job::{Cause, Job, Outcome};

use super::presence::{Presence, presence};
use super::{dir, files};
use crate::launch::outcome::signal_name;

/// A run, as its directory tells.
#[derive(Clone, Debug)]
pub struct Run {
    /// The directory's number.
    pub number: u64,
    /// The directory.
    pub folder: PathBuf,
    /// How the run ended, if it did; unlike the job file, this knows whether the launcher lives.
    pub state: Outcome,
    /// Why, where there is more to report.
    pub because: Option<Because>,
    /// The job.
    pub job: Job,
}

/// Why a run is in its state.
#[derive(Clone, Debug, PartialEq)]
pub enum Because {
    /// It could not be started, for this reason.
    Error(String),
    /// This worker failed.
    Cause(Box<Cause>),
    /// It was stopped while it waited for its nodes.
    StoppedWaiting,
    /// This signal stopped it.
    Signal(String),
    /// It runs on this machine, or was lost there.
    OnMachine(String),
}

impl Run {
    /// Whether the launcher has written how the job ended.
    pub fn has_ended(&self) -> bool {
        !matches!(self.job.outcome, Outcome::Running | Outcome::Waiting)
    }

    /// How often all workers were started again.
    pub fn restarts(&self) -> usize {
        // The last attempt's restart may not be recorded.
        self.job.restarts.len().max(self.job.attempt as usize)
    }

    /// The last step that is known. Of a run that is in progress or lost: the step of its newest snapshot, or more.
    pub fn last_step(&self) -> Option<u64> {
        self.job.last_step.max(self.job.snapshot.as_ref().map(|saved| saved.step))
    }
}

/// The runs in the directory `runs`, oldest first; only those that were started in `below` or deeper, where it is given.
/// What is not a run's directory is skipped; a directory that does not exist has none.
pub(super) fn history(runs: &Path, below: Option<&Path>) -> Vec<Run> {
    let numbers = dir::numbers(runs).into_iter();
    numbers.filter_map(|number| read(runs.join(number.to_string()), number, below)).collect()
}

fn read(folder: PathBuf, number: u64, below: Option<&Path>) -> Option<Run> {
    // Before the job: a run that ends in between has ended.
    let presence = presence(&folder);
    let job = files::load(&folder)?;
    if below.is_some_and(|below| !job.folder.starts_with(below)) {
        return None;
    }
    let state = match job.outcome {
        Outcome::Running if presence == Presence::Ended => Outcome::Lost,
        // A signal ends a launcher that waits, and nothing is lost with it.
        Outcome::Waiting if presence == Presence::Ended => Outcome::Stopped,
        outcome => outcome,
    };
    let because = match state {
        Outcome::Failed | Outcome::NodeLost => {
            let cause = || job.cause.clone().map(|cause| Because::Cause(Box::new(cause)));
            job.error.clone().map(Because::Error).or_else(cause)
        }
        Outcome::Stopped if job.outcome == Outcome::Waiting => Some(Because::StoppedWaiting),
        Outcome::Stopped => Some(Because::Signal(signal_name(i32::from(job.exit_code) - 128))),
        Outcome::Running | Outcome::Waiting => match presence {
            Presence::Unknown(machine) => Some(Because::OnMachine(machine)),
            Presence::Running | Presence::Ended => None,
        },
        Outcome::Done | Outcome::Preempted | Outcome::Lost => None,
    };
    Some(Run { number, folder, state, because, job })
}
