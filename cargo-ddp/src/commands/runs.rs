use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use super::store::store;
use super::table::{number, path, print_json, table};
use crate::cli::Runs;
use crate::launch::{Outcome, Run};
use crate::{Result, exit};

/// `cargo ddp runs`
pub(super) fn runs(args: &Runs) -> Result<u8> {
    let store = store(args.log_dir.clone())?;
    let runs = store.history();
    if args.json {
        print_json(&runs)?;
        return Ok(exit::SUCCESS);
    }
    if runs.is_empty() {
        let places: Vec<_> = store.dirs().into_iter().map(path).collect();
        println!("no run is kept in {}", places.join(" or "));
        return Ok(exit::SUCCESS);
    }
    let head = ["RUN", "STARTED", "TIME", "WORKERS", "STATE", "LAST STEP", "BEST", "RESTARTS", "COMMAND"];
    let rows: Vec<_> = std::iter::once(head.map(str::to_owned)).chain(runs.iter().map(row)).collect();
    for line in table(&rows, &[0, 2, 3, 5, 7]) {
        println!("{line}");
    }
    Ok(exit::SUCCESS)
}

fn row(run: &Run) -> [String; 9] {
    let none = || "-".to_owned();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64());
    let end = match run.state {
        Outcome::Running | Outcome::Waiting => Some(now),
        _ => run.ended,
    };
    let because = run.because.as_ref().map(|because| format!(": {}", because.lines().next().unwrap_or_default()));
    let best = run.best.as_ref().and_then(|best| Some(format!("{} at {}", number(best.metric?), best.step)));
    let program = run.command.first().map(PathBuf::from).unwrap_or_default();
    let name = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let words = std::iter::once(name).chain(run.command.iter().skip(1).cloned());
    [
        run.number.to_string(),
        local_time(run.started),
        end.map_or_else(none, |end| duration(end - run.started)),
        run.nproc.to_string(),
        format!("{}{}", run.state.name(), because.unwrap_or_default()),
        run.last_step.map_or_else(none, |step| step.to_string()),
        best.unwrap_or_else(none),
        run.restarts.to_string(),
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
    // SAFETY: both point to memory of ours for the length of the call.
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
    fn times_are_short() {
        assert_eq!([duration(3725.9), duration(-1.0)], ["1:02:05", "0:00:00"]);
        assert_eq!(local_time(1.7e9).len(), "2023-11-14 22:13:20".len());
        for seconds in [1e15, -1e15, 1e19, f64::MAX, f64::NAN, f64::INFINITY, 6.7e16] {
            assert!(!local_time(seconds).is_empty() && !duration(seconds).is_empty());
        }
    }
}
