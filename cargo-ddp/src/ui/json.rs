//! What happens to a job, as `--json` prints it: one object a line, with the field `event`.

use ddp_contract::Event;
use serde_json::{Value, json};

use super::failure::headline;
use crate::launch::event::{LaunchEvent, Launched, Restarting};

/// The JSON of an event; `None` if it has none.
pub(super) fn event(event: &LaunchEvent) -> Option<Value> {
    Some(match event {
        LaunchEvent::Launched(Launched { run, attempt, pids, .. }) => {
            json!({"event": "launched", "attempt": attempt, "run": run, "pids": pids})
        }
        LaunchEvent::Worker { rank, event } => worker_event(*rank, event)?,
        LaunchEvent::Restarting(restarting) => {
            let Restarting { report, attempt, delay, newest, .. } = &**restarting;
            json!({"event": "restart", "attempt": attempt, "because": headline(&report.cause),
                "snapshot": newest.as_ref().map(|known| &known.snapshot), "delay_seconds": delay.as_secs_f64()})
        }
        LaunchEvent::Stalled { idle, steps } => {
            json!({"event": "stalled", "seconds": idle.as_secs_f64(), "steps": steps})
        }
        LaunchEvent::Finished { job, .. } => {
            let mut job = serde_json::to_value(job).unwrap_or_default();
            job["event"] = "finished".into();
            job
        }
        _ => return None,
    })
}

fn worker_event(rank: usize, event: &Event) -> Option<Value> {
    let Ok(Value::Object(mut fields)) = serde_json::to_value(event) else { return None };
    fields.insert("rank".into(), rank.into());
    Some(Value::Object(fields))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use ddp_contract::job::Job;

    use super::*;
    use crate::launch::outcome::Verdict;

    #[test]
    fn finished_event_is_the_job_file() {
        use std::os::unix::ffi::OsStrExt;
        let run_dir = std::ffi::OsStr::from_bytes(b"n\xff/1").into();
        let job = Job { version: 1, run: "run-1-2".into(), run_dir, ..Job::default() };
        let (verdict, elapsed) = (Verdict::Done { restarts: 0 }, Duration::ZERO);
        let json = event(&LaunchEvent::Finished { verdict, job: Box::new(job), elapsed }).unwrap();
        assert_eq!(
            (&json["event"], &json["version"], &json["run"]),
            (&"finished".into(), &1.into(), &"run-1-2".into())
        );
        assert_eq!(json["run_dir"], "n\u{fffd}/1");
    }

    #[test]
    fn worker_event_has_its_rank() {
        let event = event(&LaunchEvent::Worker { rank: 3, event: Event::Unknown }).unwrap();
        assert_eq!(event["rank"], 3);
    }
}
