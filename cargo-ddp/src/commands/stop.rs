//! `cargo ddp stop`: asks a job to stop, waits for its end, and kills it with `--now`.

use std::time::{Duration, Instant};

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
    let job = &scope::only(args.run.as_deref(), args.all)?;
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
