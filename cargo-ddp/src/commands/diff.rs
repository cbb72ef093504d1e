//! `cargo ddp diff`: asks a running job where its ranks differ, and waits for its next step.

use std::io::{ErrorKind, Read};
use std::time::{Duration, Instant};

use ddp_contract::job::Job;
use ddp_contract::rank_diff::{RankDiff, socket_name};

use super::scope;
use super::table::print_json;
use crate::cli::Diff;
use crate::os::abstract_socket;
use crate::ui::rank_diff::{JsonDiff, lines};
use crate::{Error, Result, Ui, exit};

/// How often to try again: workers that are just being started do not listen yet.
const PERIOD: Duration = Duration::from_millis(100);
/// No answer is longer, in bytes: it has a few names and a value of each rank.
const LONGEST: u64 = 64 << 20;

/// `cargo ddp diff [RUN]`
pub(super) fn diff(args: &Diff, ui: &Ui) -> Result<u8> {
    let mut job = scope::only(args.run.as_deref(), args.all)?;
    // (Of one that waits for its other nodes, the number may not be known yet.)
    if job.world_size == 1 && job.nnodes <= 1 {
        return Err(Error::OneRank(job.run));
    }
    ui.status("Waiting", format!("for the next step of {} (pid {})", job.run, job.pid));
    let timeout = args.timeout.0;
    let end = Instant::now() + timeout;
    let mut listens = false;
    let diff = loop {
        match ask(&job, end)? {
            Answer::Diff(diff) => break diff,
            Answer::NotListening => {}
            Answer::Ended => listens = true,
        }
        let Some(now) = scope::registry().running().into_iter().find(|now| now.pid == job.pid && now.run == job.run)
        else {
            return Err(Error::JobEnded(job.run));
        };
        job = now;
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Error::NoAnswer { run: job.run, seconds: timeout.as_secs_f64(), listens });
        }
        std::thread::sleep(PERIOD.min(left));
    };
    if let Some(problem) = diff.error {
        return Err(Error::CantCompare { run: job.run, problem });
    }
    if args.json {
        print_json(&JsonDiff::new(&job.run, &diff))?;
    } else {
        lines(&diff).iter().for_each(|line| println!("{line}"));
    }
    Ok(if diff.agrees() { exit::SUCCESS } else { exit::FOUND })
}

enum Answer {
    Diff(Box<RankDiff>),
    /// No worker listens: it is still starting, or its program has no `Run`.
    NotListening,
    /// The worker ended, or did not answer in time.
    Ended,
}

/// Asks the first worker of this node, and waits for its answer.
fn ask(job: &Job, end: Instant) -> Result<Answer> {
    let failed = || Error::system(format!("can't ask {}", job.run));
    let namespace = job.origin.as_ref().map_or(0, |origin| origin.pid_namespace);
    let mut connection = match abstract_socket::connect(&socket_name(namespace, &job.run, job.first_rank)) {
        Ok(connection) => connection,
        Err(err) if err.kind() == ErrorKind::ConnectionRefused => return Ok(Answer::NotListening),
        Err(err) => return Err(failed()(err)),
    };
    let left = end.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
    connection.set_read_timeout(Some(left)).map_err(failed())?;
    let mut text = Vec::new();
    match connection.by_ref().take(LONGEST).read_to_end(&mut text) {
        Ok(0) => return Ok(Answer::Ended),
        Ok(_) => {}
        Err(err) if matches!(err.kind(), ErrorKind::WouldBlock | ErrorKind::ConnectionReset) => {
            return Ok(Answer::Ended);
        }
        Err(err) => return Err(failed()(err)),
    }
    let unreadable =
        |err: serde_json::Error| Error::system(format!("can't read the answer of {}", job.run))(err.into());
    serde_json::from_slice(&text).map(|diff| Answer::Diff(Box::new(diff))).map_err(unreadable)
}
