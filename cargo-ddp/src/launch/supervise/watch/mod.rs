//! The launcher's one loop: waits for what happens (kernel's notices only, no polling), asks the dispatcher, and does it.

mod others;
mod sources;

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use ddp_contract::file;
use rustix::event::epoll;
use rustix::process::{Pid, Rlimit};
use serde_json::json;
use signal_hook::consts::SIGCHLD;

use self::sources::Source;
use super::command::{Command, LastWords};
use super::dispatch::{Action, Failure, Input, Known, SIGKILL, Verdict};
use super::stall::Tracing;
use crate::editor::debug::{self, Debug};
use crate::launch::nodes::{FromCoordinator, LONGEST_ERROR_FILE, Link};
use crate::launch::plan::LaunchPlan;
use crate::launch::process::guard::Guard;
use crate::launch::process::workers::{Port, Worker, start_all};
use crate::launch::run::record::Record;
use crate::launch::run::registry::{Entry, Job};
use crate::launch::words;
use crate::os::adopted;
use crate::os::descriptors::raise_limit;
use crate::os::signals::Signals;
use crate::ui::live::Live;
use crate::ui::screen::{self, TARGETS};
use crate::{Error, Result, Ui};

/// How many of a failed worker's last lines are shown.
const LAST_LINES: usize = 10;

pub(crate) struct Watch<'a> {
    plan: &'a LaunchPlan,
    ui: Ui,
    live: Live,
    command: Command,
    /// What workers on other nodes that failed have left to say, by rank.
    words: BTreeMap<usize, Vec<String>>,
    /// The ranks' steps, as they were when a stall was told.
    steps: Vec<Option<u64>>,
    guard: Option<Guard>,
    /// Workers that were there before us, and their port.
    joined: Option<(Port, Vec<Worker>)>,
    /// The ranks that were said to be paused in a debugger.
    told_paused: Vec<usize>,
    /// What came of what was done.
    pending: Vec<Input>,
    /// Ends of children that we did not start.
    orphans: Signals,
    /// Every worker's pidfd: the kernel lists them in the order of their deaths, however late we look.
    deaths: OwnedFd,
    workers: Vec<Worker>,
    tracing: Option<Tracing>,
    /// Ours as long as the attempt lasts.
    port: Option<Port>,
    job: Job,
    entry: Option<Entry>,
    record: Record,
    /// The limit of descriptors that workers get.
    descriptors: Rlimit,
    buffer: Vec<u8>,
    out: Vec<u8>,
}

impl<'a> Watch<'a> {
    pub(crate) fn new(
        plan: &'a LaunchPlan,
        links: Vec<Link>,
        guard: Guard,
        joined: Option<(Port, Vec<Worker>)>,
        ui: &Ui,
    ) -> Result<Self> {
        let orphans = Signals::only(SIGCHLD)?;
        let deaths = epoll::create(epoll::CreateFlags::CLOEXEC)
            .map_err(|err| Error::system("can't watch for the ends of workers")(err.into()))?;
        let job = Job::new(plan, guard.pid());
        let (ui, bar) = ui.with_live_line();
        let mut watch = Self {
            plan,
            ui,
            live: Live::new(bar),
            command: Command::new(plan, links, Instant::now()),
            words: BTreeMap::new(),
            steps: Vec::new(),
            guard: Some(guard),
            joined,
            told_paused: Vec::new(),
            pending: Vec::new(),
            orphans,
            deaths,
            workers: Vec::new(),
            tracing: None,
            port: None,
            job,
            entry: None,
            record: Record::new(plan),
            descriptors: raise_limit(),
            buffer: vec![0; 1 << 16],
            out: Vec::new(),
        };
        match Entry::new(&watch.job) {
            Ok(entry) => watch.entry = Some(entry),
            Err(err) => watch.ui.warn(format!("`cargo ddp ps` will not know this job: {err}")),
        }
        watch.record.keep();
        Ok(watch)
    }

    /// Runs the job to its end. The record is for the report.
    pub(crate) fn run(mut self) -> Result<(Verdict, Record)> {
        let verdict = self.watch();
        if let Err(err) = &verdict {
            self.command.give_up(err.to_string());
        }
        let verdict = verdict?;
        // While the job is still known to run, so that it is never taken for lost.
        self.record.conclude(&verdict);
        self.finish_output(&verdict);
        Ok((verdict, std::mem::take(&mut self.record)))
    }

    fn watch(&mut self) -> Result<Verdict> {
        // Elsewhere node 0 says when.
        if self.command.dispatcher().is_some() {
            self.start(0, None)?;
        }
        loop {
            for source in self.wait()? {
                let verdict = match source {
                    Source::Link(index) => self.listen(index)?,
                    source => {
                        let inputs = self.inputs(source)?;
                        self.dispatch_all(inputs)?
                    }
                };
                if let Some(verdict) = verdict {
                    return Ok(verdict);
                }
            }
            for (index, lost) in self.command.beat(Instant::now()) {
                if let Some(verdict) = self.lost(index, &lost.0)? {
                    return Ok(verdict);
                }
            }
            if let Some(verdict) = self.dispatch(Input::Tick)? {
                return Ok(verdict);
            }
        }
    }

    fn start_all(&self, attempt: u32, port: Port) -> Result<(Port, Vec<Worker>)> {
        let workers = start_all(self.plan, attempt, &port, self.descriptors, &self.ui)?;
        Ok((port, workers))
    }

    /// Starts this node's workers. `port` is where all ranks meet, if that is on another node.
    fn start(&mut self, attempt: u32, port: Option<u16>) -> Result<()> {
        self.words.clear();
        let (mut port, workers) = match (self.joined.take(), port) {
            (Some(joined), _) => joined,
            (None, Some(number)) => self.start_all(attempt, Port::elsewhere(number))?,
            (None, None) => self.start_all(attempt, Port::open(self.plan.store, self.plan.nodes.address)?)?,
        };
        self.workers = workers;
        port.started();
        self.command.tell(&FromCoordinator::Start { attempt, port: port.number() });
        for (index, worker) in self.workers.iter().enumerate() {
            let data = epoll::EventData::new_u64(index as u64);
            epoll::add(&self.deaths, &worker.pidfd, data, epoll::EventFlags::IN)
                .map_err(|err| Error::system("can't watch a worker")(err.into()))?;
        }
        let pids: Vec<_> = self.workers.iter().map(Worker::pid).collect();
        let ranks: Vec<_> =
            self.workers.iter().map(|worker| format!("rank {} pid {}", worker.rank, worker.pid())).collect();
        let place = match &self.plan.gpus {
            Some(gpus) if !gpus.is_empty() => format!("on GPU {}", gpus.join(", ")),
            _ => "on the CPU".into(),
        };
        let mut workers = if self.plan.nproc == 1 { "1 worker".into() } else { format!("{} workers", self.plan.nproc) };
        if self.plan.nodes.are_several() {
            workers += &format!(" of {}", self.plan.nodes.world_size());
        }
        self.ui.status("Running", format!("{workers} {place}: {}", ranks.join(", ")));
        self.ui.event(&json!({"event": "launched", "attempt": attempt, "run": self.plan.run_id, "pids": &pids}));
        if let (Some(Debug::Sessions(sessions)), Some(guard)) = (&self.plan.debug, &mut self.guard) {
            let program = self.plan.program.to_string_lossy();
            for worker in &self.workers {
                guard.open(&sessions.of(&program, worker.rank, worker.pid(), attempt));
            }
        }
        (self.job.workers, self.job.attempt) = (pids, attempt);
        self.told_paused.clear();
        self.port = Some(port);
        if let Some(entry) = &self.entry {
            // The list of jobs is a convenience.
            let _ = entry.update(&self.job);
        }
        Ok(())
    }

    fn dispatch_all(&mut self, inputs: Vec<Input>) -> Result<Option<Verdict>> {
        for input in inputs {
            if let Some(verdict) = self.dispatch(input)? {
                return Ok(Some(verdict));
            }
        }
        Ok(None)
    }

    fn dispatch(&mut self, input: Input) -> Result<Option<Verdict>> {
        let mut inputs = vec![input];
        while let Some(input) = inputs.pop() {
            let Self { command, workers, plan, job, .. } = self;
            let words = |rank| last_words(workers, plan, job.attempt, rank);
            let actions = command.decide(input, words, Instant::now());
            if let Some(verdict) = self.act(actions)? {
                return Ok(Some(verdict));
            }
            inputs.append(&mut self.pending);
            inputs.extend(self.traced());
        }
        Ok(None)
    }

    fn act(&mut self, actions: Vec<Action>) -> Result<Option<Verdict>> {
        for action in actions {
            match action {
                Action::Signal(signal) => {
                    self.command.tell(&FromCoordinator::Signal(signal));
                    self.signal(signal);
                    // Ctrl-C is the one that a person waits after.
                    if signal == libc::SIGINT {
                        self.ui.status("Stopping", words::stopping(&self.plan.rules));
                    }
                }
                Action::Announce { after, attempt, delay } => {
                    let newest = self.newest().cloned();
                    self.announce(&after, attempt, delay, newest.as_ref());
                    self.command.tell(&FromCoordinator::Announce { after, attempt, delay, newest });
                }
                Action::Failed(failure) => self.say_who_is_paused(Some(&failure)),
                Action::KillUnpaused => {
                    self.command.tell(&FromCoordinator::Signal(SIGKILL));
                    let next = self.kill_unpaused();
                    self.pending.extend(next);
                }
                Action::Start { attempt } => self.start(attempt, None)?,
                // Somebody looks at a breakpoint, or has paused our output.
                Action::Trace { .. } if self.is_debugged() || TARGETS.into_iter().any(screen::is_waiting) => {
                    self.pending.push(Input::Debugged)
                }
                Action::Trace { idle } => {
                    let world = 0..self.plan.nodes.world_size();
                    let step_of = |rank| self.command.dispatcher().and_then(|dispatcher| dispatcher.step_of(rank));
                    self.steps = world.map(step_of).collect();
                    self.command.await_traces();
                    self.command.tell(&FromCoordinator::Trace { idle, steps: self.steps.clone() });
                    self.trace(idle);
                }
                Action::Finish(verdict) => {
                    self.command.tell(&FromCoordinator::Finish(verdict.clone()));
                    self.finish(&verdict);
                    return Ok(Some(verdict));
                }
            }
        }
        Ok(None)
    }

    fn signal(&self, signal: i32) {
        for worker in self.workers.iter().filter(|worker| worker.alive) {
            worker.signal(signal);
            // One that is stopped (SIGSTOP) could not hear it.
            worker.signal(libc::SIGCONT);
        }
    }

    fn finish(&mut self, verdict: &Verdict) {
        self.end_attempt();
        if let (Verdict::Stopped(signal), true) = (verdict, self.plan.nodes.are_several()) {
            self.ui.status("Stopped", format!("on all nodes, as one was told to ({})", words::signal_name(*signal)));
        }
        if let Verdict::Failed(failure, _) = verdict {
            self.ui.error(words::headline(failure, self.plan));
            self.tell(failure);
            for hint in words::hints(failure, self.plan, &self.record, verdict) {
                self.ui.hint(hint);
            }
        }
    }

    fn newest(&self) -> Option<&Known> {
        self.command.dispatcher()?.newest_snapshot()
    }

    /// Nothing that the workers started goes on.
    fn end_attempt(&mut self) {
        adopted::end_adopted(&self.own());
        if let Some(tracing) = self.tracing.take() {
            tracing.stop();
        }
        self.port = None;
    }

    fn is_debugged(&self) -> bool {
        self.workers.iter().any(|worker| worker.alive && debug::is_debugged(worker.pid()))
    }

    /// Ends those that had time enough to do so. One that was paused has that time from when it goes on.
    fn kill_unpaused(&mut self) -> Option<Input> {
        let alive = self.workers.iter().filter(|worker| worker.alive);
        let (paused, others): (Vec<_>, Vec<_>) = alive.partition(|worker| debug::is_paused(worker.pid()));
        let (resumed, late): (Vec<_>, Vec<_>) =
            others.into_iter().partition(|worker| self.told_paused.contains(&worker.rank));
        late.iter().for_each(|worker| worker.signal(SIGKILL));
        if !paused.is_empty() {
            self.say_who_is_paused(None);
            return Some(Input::Paused);
        }
        let go_on = !resumed.is_empty();
        self.told_paused.clear();
        go_on.then_some(Input::Resumed)
    }

    /// A job whose workers should end may have to wait for those that somebody looks at.
    fn say_who_is_paused(&mut self, failure: Option<&Failure>) {
        let alive = self.workers.iter().filter(|worker| worker.alive && debug::is_paused(worker.pid()));
        let ranks: Vec<_> = alive.map(|worker| worker.rank).filter(|rank| !self.told_paused.contains(rank)).collect();
        if ranks.is_empty() {
            return;
        }
        if let Some(failure) = failure {
            self.ui.warn(words::headline(failure, self.plan));
        }
        self.ui.status("Waiting", words::paused(&ranks));
        self.told_paused.extend(ranks);
    }

    fn announce(&mut self, after: &Failure, attempt: u32, delay: Duration, newest: Option<&Known>) {
        self.end_attempt();
        self.ui.warn(words::headline(after, self.plan));
        self.tell(after);
        let restart = words::restart(attempt, newest, after.step, delay, &self.plan.rules);
        self.record.restarted(after, newest, delay);
        self.record.keep();
        self.ui.event(&json!({"event": "restart", "attempt": attempt, "because": words::headline(after, self.plan),
            "snapshot": newest.map(|known| &known.snapshot), "delay_seconds": delay.as_secs_f64()}));
        self.ui.status("Restarting", restart);
        self.live.restarted(attempt);
    }

    fn tell(&mut self, failure: &Failure) {
        let last_lines = match self.words.get(&failure.rank) {
            Some(lines) => lines.clone(),
            None => last_lines(&self.workers, failure.rank),
        };
        // What a rank elsewhere wrote is on the screen there.
        let shown = self.plan.show.has(failure.rank) && self.plan.ranks().contains(&failure.rank);
        for line in words::details(failure, self.plan, &last_lines, shown) {
            self.ui.line(&line);
        }
        self.record.failed(failure, self.plan, last_lines);
    }

    fn trace(&mut self, idle: Duration) {
        self.ui.warn(words::stalled(idle, &self.steps));
        self.ui.event(&json!({"event": "stalled", "seconds": idle.as_secs_f64(), "steps": &self.steps}));
        let alive = self.workers.iter().filter(|worker| worker.alive);
        let files =
            alive.map(|worker| (worker.rank, worker.pid(), self.plan.stack_file(worker.rank, self.job.attempt)));
        self.tracing = Some(Tracing::start(files.collect()));
    }

    /// Once every stack is written (or the time for it is over): what the ranks do.
    fn traced(&mut self) -> Option<Input> {
        if !self.tracing.as_mut()?.is_done() {
            return None;
        }
        let tracing = self.tracing.take()?;
        let found = tracing.finish(|rank: usize| *self.steps.get(rank)?);
        for line in &found.lines {
            self.ui.line(line);
        }
        self.command.suspect(found.suspect)
    }

    /// Children that we started and wait for ourselves.
    fn own(&self) -> Vec<Pid> {
        let workers = self.workers.iter().filter(|worker| worker.alive).map(Worker::as_pid);
        workers.chain(self.tracing.iter().flat_map(Tracing::pids)).collect()
    }
}

impl Drop for Watch<'_> {
    /// However the loop was left: no worker stays.
    fn drop(&mut self) {
        for worker in self.workers.iter_mut().filter(|worker| worker.alive) {
            let _ = worker.reap();
        }
        self.end_attempt();
    }
}

fn last_lines(workers: &[Worker], rank: usize) -> Vec<String> {
    let worker = workers.iter().find(|worker| worker.rank == rank);
    worker.map(|worker| worker.stderr.prefixer.last_lines(LAST_LINES)).unwrap_or_default()
}

/// What a worker has left for the report, if it failed.
fn last_words(workers: &[Worker], plan: &LaunchPlan, attempt: u32, rank: usize) -> LastWords {
    // One that is too long for a message would be of no use in part.
    let error_file = file::read(&plan.error_file(rank, attempt), LONGEST_ERROR_FILE as u64).ok();
    let error_file = error_file.and_then(|text| String::from_utf8(text).ok());
    LastWords { lines: last_lines(workers, rank), error_file }
}
