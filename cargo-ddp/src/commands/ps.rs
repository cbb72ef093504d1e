//! `cargo ddp ps`: the table of running jobs.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ddp_contract::job::Job;

use super::table::{print_json, table};
use crate::cli::Ps;
use crate::{Result, Ui, exit, shell};

/// `cargo ddp ps`
pub(super) fn ps(args: &Ps, ui: &Ui) -> Result<u8> {
    let registry = super::scope::registry();
    let jobs = registry.running();
    if args.json {
        print_json(&jobs)?;
        return Ok(exit::SUCCESS);
    }
    // Not on stdout: these jobs can't be controlled from here.
    for job in registry.remote_jobs() {
        ui.status("Elsewhere", job.to_string());
    }
    if jobs.is_empty() {
        println!("no running jobs");
        return Ok(exit::SUCCESS);
    }
    let rows: Vec<[String; 6]> =
        std::iter::once(["RUN", "PID", "WORKERS", "GPUS", "TIME", "COMMAND"].map(str::to_owned))
            .chain(jobs.iter().map(row))
            .collect();
    for line in table(&rows, &[1, 2, 4]) {
        println!("{line}");
    }
    Ok(exit::SUCCESS)
}

fn row(job: &Job) -> [String; 6] {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs();
    let seconds = now.saturating_sub(job.started as u64);
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    [
        job.run.clone(),
        job.pid.to_string(),
        job.nproc.to_string(),
        job.gpus.as_ref().filter(|gpus| !gpus.is_empty()).map_or("none".into(), |gpus| gpus.join(",")),
        format!("{hours}:{minutes:02}:{seconds:02}"),
        shell::join(&job.command),
    ]
}
