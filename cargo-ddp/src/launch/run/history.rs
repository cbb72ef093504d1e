//! The runs of a folder, over or not, from what their launchers left there.

use std::path::{Path, PathBuf};

use ddp_contract::file;
use serde::{Deserialize, Serialize};

use super::record::{Outcome, RECORD_FILE, Record, Saved};
use super::registry::{Job, RUN_FILE};
use super::rundir::{self, Presence};
use crate::launch::words::signal_name;

/// A run, as its folder tells.
#[derive(Clone, Debug, Serialize)]
pub struct Run {
    /// The folder's number.
    pub number: u64,
    /// How it ended.
    pub state: Outcome,
    /// Why, in words, where there is more to say.
    pub because: Option<String>,
    /// The launcher's exit code, if it has ended.
    pub exit_code: Option<u8>,
    /// Name of the run (`TORCHELASTIC_RUN_ID`).
    pub run: String,
    /// Seconds since 1970.
    pub started: f64,
    /// Likewise, if it is known.
    pub ended: Option<f64>,
    /// Number of workers.
    pub nproc: usize,
    /// Their GPUs.
    pub gpus: Option<Vec<String>>,
    /// The workers' program and its arguments.
    pub command: Vec<String>,
    /// The last step that rank 0 told of. Of one that runs or is lost: the step of its newest snapshot, or more.
    pub last_step: Option<u64>,
    /// The newest snapshot.
    pub snapshot: Option<Saved>,
    /// The snapshot with the best metric.
    pub best: Option<Saved>,
    /// How often all workers were started again.
    pub restarts: usize,
    /// Its folder.
    #[serde(serialize_with = "ddp_contract::text::lossy")]
    pub folder: PathBuf,
}

/// The runs of the folder `runs`, oldest first; only those that were started in `below` or deeper, where it is given. What is
/// not a run's folder is skipped; a folder that is not there has none.
pub fn history(runs: &Path, below: Option<&Path>) -> Vec<Run> {
    let numbers = rundir::numbers(runs).into_iter();
    numbers.filter_map(|number| read(runs.join(number.to_string()), number, below)).collect()
}

fn read(folder: PathBuf, number: u64, below: Option<&Path>) -> Option<Run> {
    // Before the record: a run that ends in between has ended.
    let presence = rundir::presence(&folder);
    let record: Option<Record> = parse(&folder.join(RECORD_FILE));
    let job: Option<Job> = parse(&folder.join(RUN_FILE));
    if let Some(below) = below
        && job.as_ref().is_none_or(|job| !job.folder.starts_with(below))
    {
        return None;
    }
    // A launcher of an earlier version leaves no record.
    let record = match (record, &job) {
        (Some(record), _) => record,
        (None, Some(job)) => Record {
            run: job.run.clone(),
            nproc: job.nproc,
            gpus: job.gpus.clone(),
            command: job.command.clone(),
            started: job.started as f64,
            ..Record::default()
        },
        (None, None) => return None,
    };
    let state = match record.outcome {
        Outcome::Running if presence == Presence::Ended => Outcome::Lost,
        // A signal ends a launcher that waits, and nothing is lost with it.
        Outcome::Waiting if presence == Presence::Ended => Outcome::Stopped,
        outcome => outcome,
    };
    let over = !matches!(record.outcome, Outcome::Running | Outcome::Waiting);
    let because = match state {
        Outcome::Failed | Outcome::NodeLost => {
            record.error.clone().or_else(|| record.cause.as_ref().map(|cause| cause.words()))
        }
        Outcome::Stopped if !over => Some("while it waited for its nodes".into()),
        Outcome::Stopped => Some(signal_name(i32::from(record.exit_code) - 128)),
        Outcome::Running | Outcome::Waiting => match presence {
            Presence::Unknown(machine) => Some(format!("on {machine}, or lost there")),
            _ => None,
        },
        _ => None,
    };
    let told = record.last_step.max(record.snapshot.as_ref().map(|saved| saved.step));
    Some(Run {
        number,
        state,
        because,
        exit_code: over.then_some(record.exit_code),
        run: record.run,
        started: record.started,
        ended: over.then_some(record.ended),
        nproc: record.nproc,
        gpus: record.gpus,
        command: record.command,
        last_step: told,
        snapshot: record.snapshot,
        best: record.best,
        // An attempt that is in progress is in the job's own file.
        restarts: record.restarts.len().max(job.map_or(0, |job| job.attempt as usize)),
        folder,
    })
}

/// What is in a file of JSON, if it is a file, and holds that.
pub(crate) fn parse<T: for<'de> Deserialize<'de>>(path: &Path) -> Option<T> {
    serde_json::from_slice(&file::read(path, file::SMALL).ok()?).ok()
}
