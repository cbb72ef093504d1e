use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

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
        [] => return Err(Error::NoRun { run: args.run.clone().unwrap_or_default(), running }),
        many => return Err(Error::ManyRuns(names(many).join(", "))),
    };
    let failed = |err: rustix::io::Errno| Error::system(format!("can't stop {}", job.run))(err.into());
    let pid = i32::try_from(job.pid).ok().and_then(Pid::from_raw).ok_or_else(|| failed(rustix::io::Errno::SRCH))?;
    let pidfd = match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(pidfd) => pidfd,
        // It has ended by itself.
        Err(rustix::io::Errno::SRCH) => return Ok(exit::SUCCESS),
        Err(err) => return Err(failed(err)),
    };
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
