use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Signal, pidfd_send_signal};

use crate::cli::Stop;
use crate::launch::{self, Job};
use crate::{Error, Result, Ui, exit};

/// `cargo ddp stop [RUN]`: asks, and waits for the end.
pub(super) fn stop(args: &Stop, ui: &Ui) -> Result<u8> {
    let mut jobs = launch::running();
    let names = |jobs: &[Job]| -> Vec<String> { jobs.iter().map(|job| job.run.clone()).collect() };
    let running = names(&jobs);
    if let Some(run) = &args.run {
        jobs.retain(|job| job.run == *run || job.pid.to_string() == *run);
    }
    let job = match jobs.as_slice() {
        [job] => job,
        [] => return Err(not_here(args.run.as_deref(), running)),
        many => return Err(Error::ManyRuns(names(many).join(", "))),
    };
    let failed = |err: rustix::io::Errno| Error::system(format!("can't stop {}", job.run))(err.into());
    let process = job.process().map_err(Error::system(format!("can't stop {}", job.run)))?;
    // It has ended by itself.
    let Some(pidfd) = process else { return Ok(exit::SUCCESS) };
    ui.status("Stopping", format!("{} (pid {})", job.run, job.pid));
    // The second signal kills; two of one kind could arrive as one. A process that is stopped hears neither until it is
    // continued.
    let signals: &[_] =
        if args.now { &[Signal::TERM, Signal::INT, Signal::CONT] } else { &[Signal::TERM, Signal::CONT] };
    for &signal in signals {
        match pidfd_send_signal(&pidfd, signal) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => {}
            Err(err) => return Err(failed(err)),
        }
    }
    let mut ended = [PollFd::new(&pidfd, PollFlags::IN)];
    while let Err(err) = poll(&mut ended, None) {
        if err != rustix::io::Errno::INTR {
            return Err(failed(err));
        }
    }
    ui.status("Stopped", &job.run);
    Ok(exit::SUCCESS)
}

/// No such job runs here: perhaps it runs elsewhere.
pub(super) fn not_here(run: Option<&str>, running: Vec<String>) -> Error {
    let elsewhere = launch::elsewhere();
    let found: Vec<_> = match run {
        Some(run) => elsewhere.iter().filter(|job| job.run.as_deref() == Some(run)).collect(),
        None if running.is_empty() => elsewhere.iter().collect(),
        None => vec![],
    };
    if found.is_empty() {
        return Error::NoRun { run: run.unwrap_or_default().to_owned(), running };
    }
    let places: Vec<_> = found.iter().map(ToString::to_string).collect();
    Error::RunsElsewhere(format!("no such job runs here: {}", places.join(", ")))
}
