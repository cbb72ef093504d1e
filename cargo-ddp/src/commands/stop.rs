//! `cargo ddp stop`: asks a job to stop, waits for its end, and kills it with `--now`.

use std::time::{Duration, Instant};

use ddp_contract::job::Job;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::Signal;

use super::scope;
use crate::cli::Stop;
use crate::launch::process_of;
use crate::os::pidfd;
use crate::{Error, Result, Ui, exit};

/// How often to continue a launcher that something may stop (SIGSTOP) again.
const PERIOD: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
/// How long a launcher may take that was asked to end immediately. It gives up on its own processes sooner.
const UNRESPONSIVE: Duration = Duration::from_secs(20);

/// `cargo ddp stop [RUN]`: asks the job to stop, and waits for its end.
pub(super) fn stop(args: &Stop, ui: &Ui) -> Result<u8> {
    let running = scope::registry().running();
    let found = scope::candidates(args.run.as_deref(), args.all, running.clone())?;
    let job = match found.jobs.as_slice() {
        [job] => job,
        [] => return Err(not_here(args.run.as_deref(), scope::names(&running), &found.others)),
        many => return Err(Error::ManyRuns(scope::names(many).join(", "))),
    };
    let failed = |err: Errno| Error::system(format!("can't stop {}", job.run))(err.into());
    let process = process_of(job).map_err(Error::system(format!("can't stop {}", job.run)))?;
    // It has ended by itself.
    let Some(pidfd) = process else { return Ok(exit::SUCCESS) };
    let send = |signals: &[Signal]| {
        signals.iter().try_for_each(|&signal| match pidfd::signal(&pidfd, signal) {
            Ok(()) | Err(Errno::SRCH) => Ok(()),
            Err(err) => Err(failed(err)),
        })
    };
    ui.status("Stopping", format!("{} (pid {})", job.run, job.pid));
    // The second signal kills; two of one kind could arrive as one, and a launcher in the background of a script ignores
    // SIGINT. A stopped process receives none until it is continued.
    send(&[Signal::TERM])?;
    let again: &[_] = if args.now { &[Signal::INT, Signal::TERM, Signal::CONT] } else { &[Signal::CONT] };
    let mut end = args.now.then(|| Instant::now() + UNRESPONSIVE);
    let mut ended = [PollFd::new(&pidfd, PollFlags::IN)];
    loop {
        // Something may have stopped it again.
        send(again)?;
        if end.take_if(|end| Instant::now() >= *end).is_some() {
            ui.warn(format!("{} does not respond: killing its launcher", job.run));
            send(&[Signal::KILL])?;
        }
        match poll(&mut ended, Some(&PERIOD)) {
            Ok(0) | Err(Errno::INTR) => {}
            Ok(_) => break,
            Err(err) => return Err(failed(err)),
        }
    }
    ui.status("Stopped", &job.run);
    Ok(exit::SUCCESS)
}

/// The error for a job that does not run here; it may run elsewhere.
pub(super) fn not_here(run: Option<&str>, running: Vec<String>, others: &[Job]) -> Error {
    if !others.is_empty() {
        return Error::NoRunInProject(scope::names(others));
    }
    let remote = scope::registry().remote_jobs();
    let found: Vec<_> = match run {
        Some(run) => remote.iter().filter(|job| job.run.as_deref() == Some(run)).collect(),
        None if running.is_empty() => remote.iter().collect(),
        None => vec![],
    };
    if found.is_empty() {
        return Error::NoRun { run: run.unwrap_or_default().to_owned(), running };
    }
    let places: Vec<_> = found.iter().map(ToString::to_string).collect();
    Error::RunsElsewhere(format!("not running on this machine: {}", places.join(", ")))
}
