//! What the loop waits for, and what it reads there.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use ddp_contract::{ErrorFile, Event};
use rustix::event::{PollFd, PollFlags, Timespec, epoll, poll};

use super::{LAST_LINES, Watch};
use crate::launch::process::guard::Guard;
use crate::launch::process::workers::Stream;
use crate::launch::supervise::dispatch::{Input, Verdict, comparable, is_for_workers_alone};
use crate::launch::supervise::stall::Tracing;
use crate::os::adopted;
use crate::ui::Target;
use crate::ui::screen::{self, TARGETS};
use crate::{Error, Result, Ui};

/// Bytes read from one stream before the others have their turn.
const FAIR_SHARE: usize = 256 << 10;

/// How long a job that was told to stop waits for whoever reads its output.
const PATIENCE: Duration = Duration::from_secs(1);

/// What a descriptor in the poll set belongs to.
#[derive(Clone, Copy)]
pub(crate) enum Source {
    Guard,
    Orphans,
    Link(usize),
    Stdout(usize),
    Stderr(usize),
    Events(usize),
    Tracer,
    /// Our own stdout or stderr takes more.
    Screen(Target),
    Deaths,
}

impl Watch<'_> {
    /// Waits until something can be read. Deaths come last, so that a worker's last words are heard first.
    pub(crate) fn wait(&self) -> Result<Vec<Source>> {
        let mut watched: Vec<(Source, BorrowedFd<'_>)> = Vec::new();
        let guard = self.guard.iter().flat_map(Guard::fds);
        watched.extend(guard.map(|fd| (Source::Guard, fd)));
        watched.extend(self.orphans.fds().map(|fd| (Source::Orphans, fd)));
        watched.extend(self.command.links().map(|(index, link)| (Source::Link(index), link.fd())));
        for (i, worker) in self.workers.iter().enumerate() {
            let [stdout, stderr] = TARGETS.map(|target| !self.is_held_up(i, target));
            let events = !self.ui.events_are_held_up();
            watched.extend(worker.stdout.pipe.fd().filter(|_| stdout).map(|fd| (Source::Stdout(i), fd)));
            watched.extend(worker.stderr.pipe.fd().filter(|_| stderr).map(|fd| (Source::Stderr(i), fd)));
            watched.extend(worker.events.pipe.fd().filter(|_| events).map(|fd| (Source::Events(i), fd)));
        }
        let waiting = TARGETS.into_iter().filter(|target| screen::is_waiting(*target));
        watched.extend(waiting.map(|target| (Source::Screen(target), screen::fd(target))));
        if let Some(tracing) = &self.tracing {
            watched.extend(tracing.fds().map(|fd| (Source::Tracer, fd)));
        }
        watched.push((Source::Deaths, self.deaths.as_fd()));
        let has_more = |index| self.command.links().any(|(i, link)| i == index && link.has_more_to_send());
        let flags = |source| match source {
            Source::Link(index) if has_more(index) => PollFlags::IN | PollFlags::OUT,
            Source::Screen(_) => PollFlags::OUT,
            _ => PollFlags::IN,
        };
        let mut fds: Vec<PollFd<'_>> =
            watched.iter().map(|(source, fd)| PollFd::from_borrowed_fd(*fd, flags(*source))).collect();
        let deadlines = [self.command.deadline(), self.tracing.as_ref().map(Tracing::deadline)];
        let timeout = deadlines.into_iter().flatten().min().map(|deadline| {
            // A little late rather than a little early, which would mean another round.
            let left = deadline.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
            Timespec { tv_sec: left.as_secs().try_into().unwrap_or(i64::MAX), tv_nsec: i64::from(left.subsec_nanos()) }
        });
        // What came together with the last message that was handled is not in the kernel any more.
        let unread = |source: Source| match source {
            Source::Link(index) => self.command.links().any(|(i, link)| i == index && link.has_message()),
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

    /// Reads a source, and says what happened.
    pub(crate) fn inputs(&mut self, source: Source) -> Result<Vec<Input>> {
        match source {
            Source::Guard => {
                let Some(guard) = &mut self.guard else { return Ok(vec![]) };
                let Some(signals) = guard.take() else {
                    self.guard = None;
                    self.command.give_up("its launcher was killed".into());
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
                self.orphans.take();
                adopted::reap_adopted(&self.own());
                Ok(vec![])
            }
            Source::Stdout(i) => Ok(self.output(i, Target::Stdout)),
            Source::Stderr(i) => Ok(self.output(i, Target::Stderr)),
            Source::Screen(target) => {
                self.ui.flush(target);
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
        self.plan.show.has(self.workers[i].rank) && self.ui.is_held_up(target)
    }

    fn output(&mut self, i: usize, target: Target) -> Vec<Input> {
        if self.is_held_up(i, target) {
            return vec![];
        }
        let Self { workers, buffer, out, ui, .. } = self;
        let worker = &mut workers[i];
        let rank = worker.rank;
        let stream = worker.stream(target);
        out.clear();
        let came = stream.read(buffer, FAIR_SHARE, out);
        ui.output(rank, target, out);
        warn_of_log(stream, ui);
        if came { vec![Input::Output { rank }] } else { vec![] }
    }

    fn events(&mut self, i: usize) -> Vec<Input> {
        let events = self.workers[i].events.read(&mut self.buffer);
        self.note(i, events)
    }

    fn note(&mut self, i: usize, events: Vec<Event>) -> Vec<Input> {
        let rank = self.workers[i].rank;
        let mut keep = false;
        for event in &events {
            self.ui.worker_event(rank, event);
            if rank == self.plan.ranks().start {
                self.live.note(event, &self.ui);
                keep |= self.record.note(event);
            }
        }
        // Once, however many there are.
        if keep {
            self.record.keep();
        }
        events.into_iter().map(|event| Input::Event { rank, event }).collect()
    }

    /// The workers that have ended, in the order in which they did.
    fn deaths(&mut self) -> Result<Vec<Input>> {
        let mut list = [const { std::mem::MaybeUninit::uninit() }; 64];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        let (ended, _) = match epoll::wait(&self.deaths, &mut list, Some(&now)) {
            Ok(ended) => ended,
            Err(rustix::io::Errno::INTR) => return Ok(vec![]),
            Err(err) => return Err(Error::system("can't wait for the workers")(err.into())),
        };
        let indices: Vec<_> = ended.iter().filter_map(|event| usize::try_from(event.data.u64()).ok()).collect();
        let mut inputs = Vec::new();
        for i in indices {
            inputs.extend(self.death(i)?);
        }
        Ok(inputs)
    }

    fn death(&mut self, i: usize) -> Result<Vec<Input>> {
        let _ = epoll::delete(&self.deaths, &self.workers[i].pidfd);
        let exit = self.workers[i].reap()?;
        let events = self.workers[i].events.close(&mut self.buffer);
        let mut inputs = self.note(i, events);
        let Self { workers, buffer, out, ui, plan, job, .. } = self;
        let worker = &mut workers[i];
        for target in [Target::Stdout, Target::Stderr] {
            let rank = worker.rank;
            let stream = worker.stream(target);
            out.clear();
            stream.close(buffer, out);
            ui.output(rank, target, out);
            warn_of_log(stream, ui);
        }
        let file = ErrorFile::read(&plan.error_file(worker.rank, job.attempt));
        let message = file.map(|file| file.message().to_owned());
        let stderr = comparable(&worker.stderr.prefixer.last_lines(LAST_LINES).join("\n"));
        inputs.push(Input::Exited { rank: worker.rank, pid: worker.pid(), exit, message, stderr });
        Ok(inputs)
    }
}

impl Watch<'_> {
    /// Waits for whoever reads our output: as long as it takes for a job that ended by itself, not for one that was told to
    /// stop.
    pub(crate) fn finish_output(&mut self, verdict: &Verdict) {
        let stopped = matches!(verdict, Verdict::Stopped(_) | Verdict::Preempted { .. });
        let end = stopped.then(|| Instant::now() + PATIENCE);
        loop {
            TARGETS.into_iter().for_each(|target| self.ui.flush(target));
            let waiting: Vec<_> = TARGETS.into_iter().filter(|target| screen::is_waiting(*target)).collect();
            if waiting.is_empty() {
                break;
            }
            let signals = self.guard.as_mut().map_or(Some(vec![]), Guard::take);
            let told = signals.is_none_or(|signals| signals.into_iter().any(|signal| !is_for_workers_alone(signal)));
            if told || end.is_some_and(|end| Instant::now() >= end) {
                waiting.into_iter().for_each(screen::give_up);
                break;
            }
            let screens = waiting.iter().map(|target| PollFd::from_borrowed_fd(screen::fd(*target), PollFlags::OUT));
            let guard = self.guard.iter().flat_map(Guard::fds);
            let mut fds: Vec<_> = screens.chain(guard.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN))).collect();
            let time = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
            let _ = poll(&mut fds, end.is_some().then_some(&time));
        }
        if stopped {
            TARGETS.into_iter().filter(|target| !screen::is_ready(*target)).for_each(screen::give_up);
        }
    }
}

fn warn_of_log(stream: &mut Stream, ui: &Ui) {
    if let Some(err) = stream.log_failed.take() {
        ui.warn(format!("{} ends here: {err}; the job goes on", stream.log_path().display()));
    }
}
