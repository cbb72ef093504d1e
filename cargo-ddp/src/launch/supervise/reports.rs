//! What is reported to the user, and recorded in the job file.

use std::collections::BTreeMap;
use std::time::Duration;

use ddp_contract::{ErrorFile, Event};

use super::crew::Crew;
use crate::launch::event::{Failed, FailureReport, LaunchEvent, Launched, Output, Reporter, Restarting};
use crate::launch::outcome::{Failure, Known, NoRestart, Verdict};
use crate::launch::plan::LaunchPlan;
use crate::launch::process::stream::Stream;
use crate::launch::run::job_file::{JobFile, cause};
use crate::launch::run::registry::RegistryEntry;

pub(super) struct Reports<'a> {
    plan: &'a LaunchPlan,
    pub(super) reporter: &'a mut dyn Reporter,
    pub(super) record: JobFile,
    /// The job is listed as long as this is kept.
    _entry: Option<RegistryEntry>,
    /// The last lines of workers on other nodes that failed, by rank.
    pub(super) remote_lines: BTreeMap<usize, Vec<String>>,
}

impl<'a> Reports<'a> {
    /// `pid` is the process that answers for the job.
    pub(super) fn new(plan: &'a LaunchPlan, pid: u32, reporter: &'a mut dyn Reporter) -> Self {
        let mut record = JobFile::new(plan, pid);
        let listed = record.try_save().and_then(|()| RegistryEntry::new(plan.jobs_dir.as_deref(), &record.job));
        let entry = listed.map_err(|err| reporter.report(LaunchEvent::NotListed { problem: err.to_string() }));
        Self { plan, reporter, record, _entry: entry.ok(), remote_lines: BTreeMap::new() }
    }

    pub(super) fn launched(&mut self, crew: &Crew) {
        self.remote_lines.clear();
        let (attempt, pids) = (crew.attempt, crew.pids());
        self.reporter.report(LaunchEvent::Launched(Launched {
            run: self.plan.run_id.clone(),
            attempt,
            first_rank: self.plan.ranks().start,
            pids: pids.clone(),
            world_size: self.plan.nodes.world_size(),
            gpus: self.plan.gpus.clone(),
        }));
        self.record.started(attempt, pids);
    }

    /// What a worker wrote: `bytes`, and nothing more if its stream has ended.
    pub(super) fn output(&mut self, rank: usize, target: crate::os::stdio::Target, bytes: &[u8], stream: &mut Stream) {
        if self.plan.show.has(rank) {
            self.reporter.output(Output { rank, stream: target, bytes, ends: stream.has_ended() });
        }
        if let Some(err) = stream.log_failed.take() {
            let (path, problem) = (stream.log_path().to_owned(), err.to_string());
            self.reporter.report(LaunchEvent::LogEnded { path, problem });
        }
    }

    /// What the libraries of this node's workers report.
    pub(super) fn worker_events(&mut self, rank: usize, events: &[Event]) {
        let mut save = false;
        for event in events {
            self.reporter.report(LaunchEvent::Worker { rank, event: event.clone() });
            if rank == self.plan.ranks().start {
                save |= self.record.update(event);
            }
        }
        // Once, however many there are.
        if save {
            self.record.save();
        }
    }

    pub(super) fn restarting(
        &mut self,
        after: &Failure,
        attempt: u32,
        delay: Duration,
        newest: Option<Known>,
        crew: &Crew,
    ) {
        let report = self.failure(after, crew);
        self.record.restarted(after, newest.as_ref(), delay);
        self.record.save();
        let max_restarts = self.plan.rules.max_restarts;
        let restarting = Restarting { report, attempt, max_restarts, delay, newest };
        self.reporter.report(LaunchEvent::Restarting(Box::new(restarting)));
    }

    pub(super) fn ended(&mut self, verdict: &Verdict, crew: &Crew) {
        match verdict {
            Verdict::Failed(failure, no_restart) => self.failed(failure, *no_restart, crew),
            Verdict::Stopped(signal) if self.plan.nodes.is_multi_node() => {
                self.reporter.report(LaunchEvent::StoppedEverywhere { signal: *signal });
            }
            _ => {}
        }
    }

    fn failed(&mut self, failure: &Failure, no_restart: NoRestart, crew: &Crew) {
        let report = self.failure(failure, crew);
        self.reporter.report(LaunchEvent::Failed(Box::new(Failed {
            report,
            no_restart,
            at_startup: failure.at_startup,
            oom_kills: self.record.out_of_memory(),
            run_dir: self.plan.run_dir.clone(),
        })));
    }

    pub(super) fn paused(&mut self, ranks: Vec<usize>, after: Option<&Failure>) {
        if !ranks.is_empty() {
            let after = after.map(|failure| Box::new(cause(failure, self.plan, vec![])));
            self.reporter.report(LaunchEvent::RanksPaused { ranks, after });
        }
    }

    /// Records a failure, and collects what is needed to describe it.
    fn failure(&mut self, failure: &Failure, crew: &Crew) -> FailureReport {
        let lines = match self.remote_lines.get(&failure.rank) {
            Some(lines) => lines.clone(),
            None => crew.last_lines(failure.rank),
        };
        self.record.failed(failure, self.plan, lines);
        let error = ErrorFile::read(&self.plan.error_file(failure.rank, failure.attempt));
        let traceback = error.filter(|error| error.location().is_none() && error.backtrace().starts_with("Traceback"));
        FailureReport {
            cause: self.record.job.cause.clone().unwrap_or_default(),
            exit: Some(failure.exit),
            traceback: traceback.map(|error| error.backtrace().to_owned()),
            // What a rank elsewhere wrote is on the screen there.
            shown: self.plan.show.has(failure.rank) && self.plan.ranks().contains(&failure.rank),
        }
    }
}
