use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::cli::Ps;
use crate::launch::{self, Job};
use crate::{Error, Result, exit, shell};

/// `cargo ddp ps`
pub(super) fn ps(args: &Ps) -> Result<u8> {
    let jobs = launch::running();
    if args.json {
        let text = serde_json::to_string_pretty(&jobs).map_err(|err| Error::system("can't write JSON")(err.into()))?;
        println!("{text}");
        return Ok(exit::SUCCESS);
    }
    if jobs.is_empty() {
        println!("no job of yours runs here");
        return Ok(exit::SUCCESS);
    }
    let rows: Vec<[String; 6]> =
        std::iter::once(["RUN", "PID", "WORKERS", "GPUS", "TIME", "COMMAND"].map(str::to_owned))
            .chain(jobs.iter().map(row))
            .collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<_> = (0..5).map(width).collect();
    for [run, pid, workers, gpus, time, command] in &rows {
        let [a, b, c, d, e] = widths[..] else { continue };
        println!("{run:<a$}  {pid:>b$}  {workers:>c$}  {gpus:<d$}  {time:>e$}  {command}");
    }
    Ok(exit::SUCCESS)
}

fn row(job: &Job) -> [String; 6] {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs();
    let seconds = now.saturating_sub(job.started);
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    [
        job.run.clone(),
        job.pid.to_string(),
        job.nproc.to_string(),
        job.gpus.as_ref().map_or("none".into(), |gpus| gpus.join(",")),
        format!("{hours}:{minutes:02}:{seconds:02}"),
        shell::join(&job.command),
    ]
}
