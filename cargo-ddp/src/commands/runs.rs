//! `cargo ddp runs`: the table of a project's runs, with their outcome and duration.

use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use ddp_contract::job::{Outcome, Saved};
use serde::Serialize;

use super::at_step;
use super::store::store;
use super::table::{number, path, print_json, table};
use crate::cli::Runs;
use crate::launch::Run;
use crate::ui::messages;
use crate::{Result, Ui, exit};

/// `cargo ddp runs`
pub(super) fn runs(args: &Runs, ui: &Ui) -> Result<u8> {
    let store = store(args.log_dir.clone())?;
    let runs = store.history();
    if args.json {
        print_json(&runs.iter().map(JsonRun::new).collect::<Vec<_>>())?;
        return Ok(exit::SUCCESS);
    }
    if runs.is_empty() {
        let places: Vec<_> = store.dirs().into_iter().map(path).collect();
        println!("no runs in {}", places.join(" or "));
        return Ok(exit::SUCCESS);
    }
    let head = ["RUN", "STARTED", "TIME", "WORKERS", "STATE", "LAST STEP", "BEST", "RESTARTS", "COMMAND"];
    let rows: Vec<_> = std::iter::once(head.map(str::to_owned)).chain(runs.iter().map(row)).collect();
    for line in table(&rows, &[0, 2, 3, 5, 7]) {
        println!("{line}");
    }
    if let Some(newest) = runs.iter().rev().find(|run| run.job.at_step.is_none() && run.last_step().is_some()) {
        at_step::hint(newest, &newest.number.to_string(), newest.last_step(), ui);
    }
    Ok(exit::SUCCESS)
}

/// A run as `--json` prints it.
#[derive(Serialize)]
struct JsonRun<'a> {
    number: u64,
    state: Outcome,
    because: Option<String>,
    exit_code: Option<u8>,
    run: &'a str,
    started: f64,
    ended: Option<f64>,
    nproc: usize,
    gpus: Option<&'a [String]>,
    command: &'a [String],
    last_step: Option<u64>,
    snapshot: Option<&'a Saved>,
    best: Option<&'a Saved>,
    restarts: usize,
    #[serde(serialize_with = "ddp_contract::text::lossy")]
    folder: &'a Path,
    version: u32,
    #[serde(serialize_with = "ddp_contract::text::lossy")]
    project: &'a Path,
}

impl<'a> JsonRun<'a> {
    fn new(run: &'a Run) -> Self {
        let job = &run.job;
        Self {
            number: run.number,
            state: run.state,
            because: run.because.as_ref().map(messages::because),
            exit_code: run.has_ended().then_some(job.exit_code),
            run: &job.run,
            started: job.started,
            ended: run.has_ended().then_some(job.ended),
            nproc: job.nproc,
            gpus: job.gpus.as_deref(),
            command: &job.command,
            last_step: run.last_step(),
            snapshot: job.snapshot.as_ref(),
            best: job.best.as_ref(),
            restarts: run.restarts(),
            folder: &run.folder,
            version: job.version,
            project: &job.project,
        }
    }
}

fn row(run: &Run) -> [String; 9] {
    let none = || "-".to_owned();
    let job = &run.job;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64());
    let end = match run.state {
        Outcome::Running | Outcome::Waiting => Some(now),
        _ => run.has_ended().then_some(job.ended),
    };
    let because = run.because.as_ref().map(messages::because);
    let because = because.map(|because| format!(": {}", because.lines().next().unwrap_or_default()));
    let best = job.best.as_ref().and_then(|best| Some(format!("{} at {}", number(best.metric?), best.step)));
    let program = job.command.first().map(PathBuf::from).unwrap_or_default();
    let name = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let words = std::iter::once(name).chain(job.command.iter().skip(1).cloned());
    [
        run.number.to_string(),
        local_time(job.started),
        end.map_or_else(none, |end| duration(end - job.started)),
        job.nproc.to_string(),
        format!("{}{}", messages::outcome(run.state), because.unwrap_or_default()),
        run.last_step().map_or_else(none, |step| step.to_string()),
        best.unwrap_or_else(none),
        run.restarts().to_string(),
        words.collect::<Vec<_>>().join(" "),
    ]
}

fn duration(seconds: f64) -> String {
    // Of a clock that was set back, nothing.
    let seconds = seconds.max(0.0) as u64;
    format!("{}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

/// `2026-11-24 15:04:05`, by the machine's own clock and zone.
fn local_time(seconds: f64) -> String {
    // Beyond this, years have more digits than `tm_year`.
    let since = seconds.clamp(-1e15, 1e15) as libc::time_t;
    let mut parts = std::mem::MaybeUninit::<libc::tm>::uninit();
    // SAFETY: both point to our memory for the length of the call.
    let filled = unsafe { libc::localtime_r(&since, parts.as_mut_ptr()) };
    if filled.is_null() {
        return format!("{since}");
    }
    // SAFETY: the call has filled it, as it says.
    let t = unsafe { parts.assume_init() };
    let (year, month) = (i64::from(t.tm_year) + 1900, t.tm_mon + 1);
    format!("{year}-{month:02}-{:02} {:02}:{:02}:{:02}", t.tm_mday, t.tm_hour, t.tm_min, t.tm_sec)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_dates_of_any_size_are_printed() {
        assert_eq!([duration(3725.9), duration(-1.0)], ["1:02:05", "0:00:00"]);
        assert_eq!(local_time(1.7e9).len(), "2023-11-14 22:13:20".len());
        for seconds in [1e15, -1e15, 1e19, f64::MAX, f64::NAN, f64::INFINITY, 6.7e16] {
            assert!(!local_time(seconds).is_empty() && !duration(seconds).is_empty());
        }
    }
}
