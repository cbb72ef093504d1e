//! The launcher's one loop: waits for what happens (the kernel's notices only, no polling), asks the decider, and does what it
//! says.

use std::time::{Duration, Instant};

use super::crew::Crew;
use super::decider::Decider;
use super::dispatch::{Action, Input, SIGKILL};
use super::pauses::Pauses;
use super::reports::Reports;
use super::stalls::Stall;
use crate::Result;
use crate::editor::debug::Debug;
use crate::launch::event::{LaunchEvent, Reporter};
use crate::launch::nodes::{FromCoordinator, Link};
use crate::launch::outcome::{Failure, Known, Verdict};
use crate::launch::plan::LaunchPlan;
use crate::launch::process::guard::Guard;
use crate::launch::process::port::Port;
use crate::launch::process::worker::Worker;
use crate::launch::run::job_file::JobFile;
use crate::os::stdio::Target;

/// What a descriptor in the poll set belongs to.
#[derive(Clone, Copy)]
pub(super) enum Source {
    Guard,
    Orphans,
    Link(usize),
    Stdout(usize),
    Stderr(usize),
    Events(usize),
    Tracer,
    /// The reporter can write more there.
    Reporter(Target),
    Deaths,
}

pub(crate) struct Watch<'a> {
    pub(super) plan: &'a LaunchPlan,
    pub(super) decider: Decider,
    pub(super) crew: Crew,
    pub(super) stall: Stall,
    pauses: Pauses,
    pub(super) reports: Reports<'a>,
    pub(super) guard: Option<Guard>,
    /// What follows from what was done.
    pending: Vec<Input>,
    pub(super) buffer: Vec<u8>,
    /// The attempt in progress.
    span: tracing::Span,
}

impl<'a> Watch<'a> {
    pub(crate) fn new(
        plan: &'a LaunchPlan,
        links: Vec<Link>,
        guard: Guard,
        joined: Option<(Port, Vec<Worker>)>,
        reporter: &'a mut dyn Reporter,
    ) -> Result<Self> {
        Ok(Self {
            plan,
            decider: Decider::new(plan, links, Instant::now()),
            crew: Crew::new(joined)?,
            stall: Stall::default(),
            pauses: Pauses::default(),
            reports: Reports::new(plan, guard.pid(), reporter),
            guard: Some(guard),
            pending: vec![],
            buffer: vec![0; 1 << 16],
            span: tracing::Span::none(),
        })
    }

    /// Runs the job to its end.
    pub(crate) fn run(mut self) -> Result<(Verdict, JobFile)> {
        let verdict = self.watch();
        if let Err(err) = &verdict {
            self.decider.give_up(err.to_string());
        }
        let verdict = verdict?;
        tracing::debug!(?verdict, "job ended");
        // While the job is still known to run, so that it is never taken for lost.
        self.reports.record.conclude(&verdict);
        self.finish_output(&verdict);
        Ok((verdict, std::mem::take(&mut self.reports.record)))
    }

    fn watch(&mut self) -> Result<Verdict> {
        // Elsewhere node 0 decides when.
        if self.decider.dispatcher().is_some() {
            self.start(0, None)?;
        }
        loop {
            let sources = self.wait()?;
            let span = self.span.clone();
            let _in_attempt = span.enter();
            for source in sources {
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
            for (index, lost) in self.decider.beat(Instant::now()) {
                if let Some(verdict) = self.lost(index, &lost.0)? {
                    return Ok(verdict);
                }
            }
            if let Some(verdict) = self.dispatch(Input::Tick)? {
                return Ok(verdict);
            }
        }
    }

    /// Starts this node's workers. `port` is where all ranks meet, if that is on another node.
    pub(super) fn start(&mut self, attempt: u32, port: Option<u16>) -> Result<()> {
        self.span = tracing::debug_span!("attempt", attempt);
        let span = self.span.clone();
        let _in_attempt = span.enter();
        let port = self.crew.start(self.plan, attempt, port)?;
        tracing::debug!(attempt, port, pids = ?self.crew.pids(), "workers started");
        self.decider.tell(&FromCoordinator::Start { attempt, port });
        self.pauses.clear();
        self.reports.launched(&self.crew);
        if let (Some(Debug::Sessions(sessions)), Some(guard)) = (&self.plan.debug, &mut self.guard) {
            let program = self.plan.program.to_string_lossy();
            for worker in &self.crew.workers {
                guard.open(&sessions.session(&program, worker.rank, worker.pid(), attempt));
            }
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

    pub(super) fn dispatch(&mut self, input: Input) -> Result<Option<Verdict>> {
        let mut inputs = vec![input];
        while let Some(input) = inputs.pop() {
            let Self { decider, crew, plan, .. } = self;
            let actions = decider.decide(input, |rank| crew.last_messages(plan, rank), Instant::now());
            if let Some(verdict) = self.act(actions)? {
                return Ok(Some(verdict));
            }
            inputs.append(&mut self.pending);
            inputs.extend(self.traced());
        }
        Ok(None)
    }

    pub(super) fn act(&mut self, actions: Vec<Action>) -> Result<Option<Verdict>> {
        for action in actions {
            match action {
                Action::Signal(signal) => {
                    self.decider.tell(&FromCoordinator::Signal(signal));
                    self.crew.signal(signal);
                    // Only after Ctrl-C is someone watching.
                    if signal == libc::SIGINT {
                        let grace = self.plan.rules.grace;
                        self.reports.reporter.report(LaunchEvent::Stopping { grace });
                    }
                }
                Action::Announce { after, attempt, delay } => {
                    let newest = self.newest();
                    self.announce(&after, attempt, delay, newest.clone());
                    self.decider.tell(&FromCoordinator::Announce { after, attempt, delay, newest });
                }
                Action::Failed(failure) => self.report_pauses(Some(&failure)),
                Action::KillUnpaused => {
                    self.decider.tell(&FromCoordinator::Signal(SIGKILL));
                    let next = self.pauses.kill_unpaused(&self.crew);
                    if matches!(next, Some(Input::Paused)) {
                        self.report_pauses(None);
                    }
                    self.pending.extend(next);
                }
                Action::Start { attempt } => self.start(attempt, None)?,
                // Somebody looks at a breakpoint, or has paused our output.
                Action::Trace { .. } if self.crew.is_debugged() || !self.reports.reporter.waiting().is_empty() => {
                    self.pending.push(Input::Debugged)
                }
                Action::Trace { idle } => {
                    let world = 0..self.plan.nodes.world_size();
                    let step_of = |rank| self.decider.dispatcher().and_then(|dispatcher| dispatcher.step_of(rank));
                    let steps: Vec<_> = world.map(step_of).collect();
                    self.decider.await_traces();
                    self.decider.tell(&FromCoordinator::Trace { idle, steps: steps.clone() });
                    self.trace(idle, steps);
                }
                Action::Finish(verdict) => {
                    self.decider.tell(&FromCoordinator::Finish(verdict.clone()));
                    self.finish(&verdict);
                    return Ok(Some(verdict));
                }
            }
        }
        Ok(None)
    }

    pub(super) fn finish(&mut self, verdict: &Verdict) {
        self.end_attempt();
        self.reports.ended(verdict, &self.crew);
    }

    fn newest(&self) -> Option<Known> {
        self.decider.dispatcher()?.newest_snapshot().cloned()
    }

    /// Ends everything that the workers started, and the debuggers that look at them.
    fn end_attempt(&mut self) {
        self.crew.end_attempt(self.stall.pids());
        self.stall.stop();
    }

    fn report_pauses(&mut self, failure: Option<&Failure>) {
        let ranks = self.pauses.unreported(&self.crew);
        self.reports.paused(ranks, failure);
    }

    pub(super) fn announce(&mut self, after: &Failure, attempt: u32, delay: Duration, newest: Option<Known>) {
        self.end_attempt();
        tracing::debug!(attempt, ?delay, rank = after.rank, "restarting all workers");
        self.reports.restarting(after, attempt, delay, newest, &self.crew);
    }

    pub(super) fn trace(&mut self, idle: Duration, steps: Vec<Option<u64>>) {
        self.reports.reporter.report(LaunchEvent::Stalled { idle, steps: steps.clone() });
        self.stall.trace(steps, &self.crew, self.plan);
    }

    fn traced(&mut self) -> Option<Input> {
        let found = self.stall.finish()?;
        self.reports.reporter.report(LaunchEvent::Stacks(found.stacks));
        self.decider.suspect(found.suspect)
    }
}

impl Drop for Watch<'_> {
    /// However the loop was left: nothing stays that the workers started.
    fn drop(&mut self) {
        self.crew.reap_all();
        self.end_attempt();
    }
}
