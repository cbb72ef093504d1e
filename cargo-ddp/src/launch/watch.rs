//! The launcher's one loop: waits for what happens (kernel's notices only, no polling), asks the dispatcher, and does it.

use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::dispatch::{Action, Dispatcher, Failure, Input, Verdict};
use super::plan::LaunchPlan;
use super::report;
use super::signals::Signals;
use super::workers::{Worker, start_all};
use crate::{Error, Result, Ui};

/// Pieces read from one stream before the others have their turn.
const FAIR_SHARE: usize = 16;

pub(super) struct Watch<'a> {
    plan: &'a LaunchPlan,
    ui: &'a Ui,
    dispatcher: Dispatcher,
    signals: Signals,
    workers: Vec<Worker>,
    buffer: Vec<u8>,
}

/// What a descriptor in the poll set belongs to.
#[derive(Clone, Copy)]
enum Source {
    Signal(usize),
    Stdout(usize),
    Stderr(usize),
    Events(usize),
    Exit(usize),
}

impl<'a> Watch<'a> {
    pub(super) fn new(plan: &'a LaunchPlan, ui: &'a Ui) -> Result<Self> {
        // Before the first worker is there, so that no signal finds one without us.
        let signals = Signals::catch()?;
        let dispatcher = Dispatcher::new(plan.nproc, plan.max_restarts, plan.grace);
        let mut watch = Self { plan, ui, dispatcher, signals, workers: Vec::new(), buffer: vec![0; 1 << 16] };
        watch.start(0)?;
        Ok(watch)
    }

    pub(super) fn run(mut self) -> Result<Verdict> {
        loop {
            for source in self.wait()? {
                for input in self.inputs(source)? {
                    if let Some(verdict) = self.dispatch(input)? {
                        return Ok(verdict);
                    }
                }
            }
            if let Some(verdict) = self.dispatch(Input::Tick)? {
                return Ok(verdict);
            }
        }
    }

    fn start(&mut self, attempt: u32) -> Result<()> {
        self.workers = start_all(self.plan, attempt)?;
        let ranks: Vec<_> =
            self.workers.iter().map(|worker| format!("rank {} pid {}", worker.rank, worker.pid())).collect();
        let place = match &self.plan.gpus {
            Some(gpus) => format!("on GPU {}", gpus.join(", ")),
            None => "on the CPU".into(),
        };
        let workers = if self.plan.nproc == 1 { "1 worker".into() } else { format!("{} workers", self.plan.nproc) };
        self.ui.status("Running", format!("{workers} {place}: {}", ranks.join(", ")));
        Ok(())
    }

    /// Waits until something can be read. Deaths come last, so that a worker's last words are heard first.
    fn wait(&self) -> Result<Vec<Source>> {
        let mut watched: Vec<(Source, BorrowedFd<'_>)> = Vec::new();
        watched.extend(self.signals.pipes.iter().enumerate().map(|(i, (_, pipe))| (Source::Signal(i), pipe.as_fd())));
        for (i, worker) in self.workers.iter().enumerate() {
            watched.extend(worker.stdout.pipe.fd().map(|fd| (Source::Stdout(i), fd)));
            watched.extend(worker.stderr.pipe.fd().map(|fd| (Source::Stderr(i), fd)));
            watched.extend(worker.events.pipe.fd().map(|fd| (Source::Events(i), fd)));
        }
        for (i, worker) in self.workers.iter().enumerate().filter(|(_, worker)| worker.alive) {
            watched.push((Source::Exit(i), worker.pidfd.as_fd()));
        }
        let mut fds: Vec<PollFd<'_>> =
            watched.iter().map(|(_, fd)| PollFd::from_borrowed_fd(*fd, PollFlags::IN)).collect();
        let timeout = self.dispatcher.deadline().map(|deadline| {
            let left = deadline.saturating_duration_since(Instant::now());
            // A little late rather than a little early, which would mean another round.
            let left = left + std::time::Duration::from_millis(1);
            Timespec { tv_sec: left.as_secs().try_into().unwrap_or(i64::MAX), tv_nsec: i64::from(left.subsec_nanos()) }
        });
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(err) => return Err(Error::system("can't wait for the workers")(err.into())),
        }
        let ready = fds.iter().zip(&watched).filter(|(fd, _)| !fd.revents().is_empty());
        Ok(ready.map(|(_, (source, _))| *source).collect())
    }

    /// Reads a source, and says what happened.
    fn inputs(&mut self, source: Source) -> Result<Vec<Input>> {
        let Self { workers, buffer, signals, .. } = self;
        let mut out = Vec::new();
        match source {
            Source::Signal(i) => {
                let signal = signals.pipes[i].0;
                return Ok((0..signals.take(i)).map(|_| Input::Signal(signal)).collect());
            }
            Source::Stdout(i) => {
                workers[i].stdout.read(buffer, FAIR_SHARE, &mut out);
                to_stdout(&out);
            }
            Source::Stderr(i) => {
                workers[i].stderr.read(buffer, FAIR_SHARE, &mut out);
                to_stderr(&out);
            }
            Source::Events(i) => return Ok(events(&mut workers[i], buffer)),
            Source::Exit(i) => {
                let worker = &mut workers[i];
                let exit = worker.reap()?;
                let mut inputs = events(worker, buffer);
                worker.stdout.close(buffer, &mut out);
                to_stdout(&out);
                out.clear();
                worker.stderr.close(buffer, &mut out);
                to_stderr(&out);
                inputs.push(Input::Exited { rank: worker.rank, pid: worker.pid(), exit });
                return Ok(inputs);
            }
        }
        Ok(Vec::new())
    }

    fn dispatch(&mut self, input: Input) -> Result<Option<Verdict>> {
        for action in self.dispatcher.handle(input, Instant::now()) {
            match action {
                Action::Signal(signal) => {
                    for worker in self.workers.iter().filter(|worker| worker.alive) {
                        worker.signal(signal);
                    }
                }
                Action::Restart { after, attempt } => {
                    self.ui.warn(report::headline(&after, self.plan));
                    self.details(&after);
                    let newest = self.dispatcher.newest_snapshot();
                    self.ui.status("Restarting", report::restart(attempt, self.plan.max_restarts, newest, after.step));
                    self.start(self.dispatcher.attempt())?;
                    // What else was ready belongs to workers that are gone.
                    return Ok(None);
                }
                Action::Finish(verdict) => {
                    if let Verdict::Failed(failure) = &verdict {
                        self.ui.error(report::headline(failure, self.plan));
                        self.details(failure);
                        if let Some(hint) = report::hint(failure) {
                            self.ui.hint(hint);
                        }
                    }
                    return Ok(Some(verdict));
                }
            }
        }
        Ok(None)
    }

    fn details(&self, failure: &Failure) {
        let worker = self.workers.iter().find(|worker| worker.rank == failure.rank);
        let last_lines: Vec<_> = worker.into_iter().flat_map(|worker| worker.stderr.prefixer.last_lines()).collect();
        for line in report::details(failure, self.plan, &last_lines) {
            self.ui.line(&line);
        }
    }
}

impl Drop for Watch<'_> {
    /// However the loop was left: no worker stays.
    fn drop(&mut self) {
        for worker in self.workers.iter_mut().filter(|worker| worker.alive) {
            let _ = worker.reap();
        }
    }
}

fn events(worker: &mut Worker, buffer: &mut [u8]) -> Vec<Input> {
    let rank = worker.rank;
    worker.events.read(buffer).into_iter().map(|event| Input::Event { rank, event }).collect()
}

/// A reader that is gone (`| head`) is no reason to stop the training.
fn to_stdout(bytes: &[u8]) {
    let mut stdout = std::io::stdout().lock();
    let _ = stdout.write_all(bytes).and_then(|()| stdout.flush());
}

fn to_stderr(bytes: &[u8]) {
    let _ = std::io::stderr().lock().write_all(bytes);
}
