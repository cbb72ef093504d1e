//! What the loop waits for, and what it reads there.

use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use ddp_contract::{ErrorFile, Event};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::crew::LAST_LINES;
use super::dispatch::{Input, comparable};
use super::reports::Reports;
use super::watch::{Source, Watch};
use crate::launch::outcome::Verdict;
use crate::launch::process::guard::Guard;
use crate::launch::process::worker::Worker;
use crate::os::signals::is_user_signal;
use crate::os::stdio::{TARGETS, Target};
use crate::{Error, Result};

/// Bytes read from one stream before the others have their turn.
const FAIR_SHARE: usize = 256 << 10;

/// How long a job that was asked to stop waits for whoever reads its output.
const PATIENCE: Duration = Duration::from_secs(1);

impl Watch<'_> {
    /// Waits until something can be read. Deaths come last, so that a worker's last output is read first.
    pub(super) fn wait(&self) -> Result<Vec<Source>> {
        let mut watched: Vec<(Source, BorrowedFd<'_>)> = Vec::new();
        let guard = self.guard.iter().flat_map(Guard::fds);
        watched.extend(guard.map(|fd| (Source::Guard, fd)));
        watched.extend(self.crew.orphan_fds().map(|fd| (Source::Orphans, fd)));
        watched.extend(self.decider.links().map(|(index, link)| (Source::Link(index), link.fd())));
        let reporter = &*self.reports.reporter;
        for (i, worker) in self.crew.workers.iter().enumerate() {
            let [stdout, stderr] = TARGETS.map(|target| !self.is_held_up(i, target));
            let events = !reporter.holds_up_events();
            watched.extend(worker.stdout.pipe.fd().filter(|_| stdout).map(|fd| (Source::Stdout(i), fd)));
            watched.extend(worker.stderr.pipe.fd().filter(|_| stderr).map(|fd| (Source::Stderr(i), fd)));
            watched.extend(worker.events.pipe.fd().filter(|_| events).map(|fd| (Source::Events(i), fd)));
        }
        watched.extend(reporter.waiting().into_iter().map(|(target, fd)| (Source::Reporter(target), fd)));
        watched.extend(self.stall.fds().map(|fd| (Source::Tracer, fd)));
        watched.push((Source::Deaths, self.crew.deaths_fd()));
        let has_more = |index| self.decider.links().any(|(i, link)| i == index && link.has_more_to_send());
        let flags = |source| match source {
            Source::Link(index) if has_more(index) => PollFlags::IN | PollFlags::OUT,
            Source::Reporter(_) => PollFlags::OUT,
            _ => PollFlags::IN,
        };
        let mut fds: Vec<PollFd<'_>> =
            watched.iter().map(|(source, fd)| PollFd::from_borrowed_fd(*fd, flags(*source))).collect();
        let deadlines = [self.decider.deadline(), self.stall.deadline()];
        let timeout = deadlines.into_iter().flatten().min().map(|deadline| {
            // A little late rather than a little early, which would mean another round.
            let left = deadline.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
            Timespec { tv_sec: left.as_secs().try_into().unwrap_or(i64::MAX), tv_nsec: i64::from(left.subsec_nanos()) }
        });
        // Messages that arrived together with the last one that was handled are no longer in the kernel.
        let unread = |source: Source| match source {
            Source::Link(index) => self.decider.links().any(|(i, link)| i == index && link.has_message()),
            _ => false,
        };
        let unread: Vec<bool> = watched.iter().map(|(source, _)| unread(*source)).collect();
        let timeout = if unread.contains(&true) { Some(Timespec::default()) } else { timeout };
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(err) => return Err(Error::system("can't wait for the workers")(err.into())),
        }
        let ready = fds.iter().zip(&unread).map(|(fd, unread)| *unread || !fd.revents().is_empty());
        Ok(ready.zip(&watched).filter(|(ready, _)| *ready).map(|(_, (source, _))| *source).collect())
    }

    /// Reads a source, and returns what happened.
    pub(super) fn inputs(&mut self, source: Source) -> Result<Vec<Input>> {
        match source {
            Source::Guard => {
                let Some(guard) = &mut self.guard else { return Ok(vec![]) };
                let Some(signals) = guard.take() else {
                    self.guard = None;
                    self.decider.give_up("the launcher was killed".into());
                    // The other nodes end by themselves, and are not waited for.
                    let others =
                        self.plan.nodes.members.iter().enumerate().filter(|(node, _)| *node != self.plan.nodes.own);
                    let others =
                        others.map(|(_, member)| Input::NodeLost { ranks: member.ranks(), why: String::new() });
                    return Ok(std::iter::once(Input::Orphaned).chain(others).collect());
                };
                Ok(signals.into_iter().map(Input::Signal).collect())
            }
            Source::Orphans => {
                self.crew.reap_orphans(self.stall.pids());
                Ok(vec![])
            }
            Source::Stdout(i) => Ok(self.output(i, Target::Stdout)),
            Source::Stderr(i) => Ok(self.output(i, Target::Stderr)),
            Source::Reporter(target) => {
                self.reports.reporter.flush(target);
                Ok(vec![])
            }
            Source::Events(i) => Ok(self.events(i)),
            // Looked at after every round.
            Source::Tracer | Source::Link(_) => Ok(vec![]),
            Source::Deaths => self.deaths(),
        }
    }

    /// Whether a worker's stream is not read, because what was read before still waits for our own reader.
    fn is_held_up(&self, i: usize, target: Target) -> bool {
        self.plan.show.has(self.crew.workers[i].rank) && self.reports.reporter.is_held_up(target)
    }

    fn output(&mut self, i: usize, target: Target) -> Vec<Input> {
        if self.is_held_up(i, target) {
            return vec![];
        }
        let worker = &mut self.crew.workers[i];
        let rank = worker.rank;
        let stream = worker.stream(target);
        let mut out = vec![];
        stream.read(&mut self.buffer, FAIR_SHARE, &mut out);
        self.reports.output(rank, target, &out, stream);
        if out.is_empty() { vec![] } else { vec![Input::Output { rank }] }
    }

    fn events(&mut self, i: usize) -> Vec<Input> {
        let worker = &mut self.crew.workers[i];
        let events = worker.events.read(&mut self.buffer);
        inputs_of(worker.rank, events, &mut self.reports)
    }

    /// The workers that have ended, in the order in which they did.
    fn deaths(&mut self) -> Result<Vec<Input>> {
        let mut inputs = Vec::new();
        for i in self.crew.ended()? {
            self.crew.forget_death(i);
            inputs.extend(self.death(i)?);
        }
        Ok(inputs)
    }

    fn death(&mut self, i: usize) -> Result<Vec<Input>> {
        let Self { crew, reports, buffer, plan, .. } = self;
        let attempt = crew.attempt;
        let worker: &mut Worker = &mut crew.workers[i];
        let (rank, pid, exit) = (worker.rank, worker.pid(), worker.reap()?);
        let mut inputs = inputs_of(rank, worker.events.close(buffer), reports);
        for target in TARGETS {
            let stream = worker.stream(target);
            let mut out = vec![];
            stream.close(buffer, &mut out);
            reports.output(rank, target, &out, stream);
        }
        let file = ErrorFile::read(&plan.error_file(rank, attempt));
        let message = file.map(|file| file.message().to_owned());
        let stderr = comparable(&worker.stderr.tail.last_lines(LAST_LINES).join("\n"));
        inputs.push(Input::Exited { rank, pid, exit, message, stderr });
        Ok(inputs)
    }
}

fn inputs_of(rank: usize, events: Vec<Event>, reports: &mut Reports<'_>) -> Vec<Input> {
    reports.worker_events(rank, &events);
    events.into_iter().map(|event| Input::Event { rank, event }).collect()
}

impl Watch<'_> {
    /// Waits for whoever reads our output: as long as it takes for a job that ended by itself, not for one that was asked to
    /// stop.
    pub(super) fn finish_output(&mut self, verdict: &Verdict) {
        let stopped = matches!(verdict, Verdict::Stopped(_) | Verdict::Preempted { .. });
        let end = stopped.then(|| Instant::now() + PATIENCE);
        let reporter = &mut *self.reports.reporter;
        loop {
            TARGETS.into_iter().for_each(|target| reporter.flush(target));
            let waiting = reporter.waiting();
            if waiting.is_empty() {
                break;
            }
            let signals = self.guard.as_mut().map_or(Some(vec![]), Guard::take);
            let asked = signals.is_none_or(|signals| signals.into_iter().any(|signal| !is_user_signal(signal)));
            if asked || end.is_some_and(|end| Instant::now() >= end) {
                reporter.give_up();
                break;
            }
            let screens = waiting.iter().map(|(_, fd)| PollFd::from_borrowed_fd(*fd, PollFlags::OUT));
            let guard = self.guard.iter().flat_map(Guard::fds);
            let mut fds: Vec<_> = screens.chain(guard.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN))).collect();
            let time = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
            let _ = poll(&mut fds, end.is_some().then_some(&time));
        }
        if stopped {
            reporter.give_up();
        }
    }
}
