//! What happens to a job, as lines on stderr, as JSON on stdout, and as a live bar.

use std::collections::HashMap;
use std::os::fd::BorrowedFd;

use indicatif::ProgressBar;

use super::lines::Prefixer;
use super::live::Live;
use super::{Ui, failure, json, messages, screen};
use crate::launch::event::{LaunchEvent, LauncherEnd, Output, Reporter};
use crate::launch::outcome::{Verdict, signal_name};
use crate::os::stdio::{TARGETS, Target};

/// The user interface of a job.
pub(crate) struct JobUi {
    /// Waits for readers.
    patient: Ui,
    /// While workers run: never waits for a reader, and has a line below all others.
    running: Option<(Ui, Live)>,
    /// Lines of workers that have no end yet.
    partial: HashMap<(usize, Target), Prefixer>,
    /// This node's first rank, which speaks for all in the live bar.
    first_rank: usize,
}

impl JobUi {
    pub(crate) fn new(ui: Ui) -> Self {
        Self { patient: ui, running: None, partial: HashMap::new(), first_rank: 0 }
    }

    fn ui(&self) -> &Ui {
        self.running.as_ref().map_or(&self.patient, |(ui, _)| ui)
    }

    fn report_nodes(&self, event: &LaunchEvent) {
        let ui = self.ui();
        match event {
            LaunchEvent::SecretFileAwaited { path } => {
                ui.status("Waiting", format!("for the secret file {}, which node 0 creates", path.display()));
            }
            LaunchEvent::SecretExposed(exposure) => ui.warn(messages::exposure(exposure)),
            LaunchEvent::NoSecret { place } => {
                ui.warn(format!("this job has no secret: anyone who can reach {place} can join it"));
                ui.hint(
                    "set DDP_JOB_SECRET to the same random text on all nodes, or --secret-file to a file that all nodes see",
                );
            }
            LaunchEvent::NodesAwaited { missing, nnodes, place } => {
                ui.status("Waiting", format!("for {} of {nnodes} at {place}", messages::nodes(missing)));
            }
            LaunchEvent::JoiningNode0 { place, node_rank, nnodes } => {
                ui.status("Joining", format!("node 0 at {place}, as node {node_rank} of {nnodes}"));
            }
            LaunchEvent::NodeJoined { node, host } => ui.status("Joined", format!("node {node} ({host})")),
            LaunchEvent::NodeLeft { node, host } => ui.status("Left", format!("node {node} ({host})")),
            LaunchEvent::LauncherRefused { from, problem } => {
                ui.warn(format!("a launcher at {from} was refused: {problem}"));
            }
            LaunchEvent::RefusalsHidden => ui.warn("more launchers were refused; further refusals are not reported"),
            LaunchEvent::NodeLost { why } => ui.warn(why),
            _ => {}
        }
    }

    /// What concerns workers that a debugger starts.
    fn report_joining(&self, event: &LaunchEvent) {
        let ui = self.ui();
        match event {
            LaunchEvent::WorkersAwaited { ranks, program, limit } => {
                let (ranks, limit) = (messages::ranks(ranks), limit.as_secs());
                ui.status(
                    "Waiting",
                    format!("for {ranks} of {program}, which the debugger starts, for {limit} s at most"),
                );
            }
            LaunchEvent::WorkerLeft { rank } => {
                ui.warn(format!("rank {rank} ended before all others had joined; start it again"));
            }
            LaunchEvent::WorkerRefused { problem } => ui.warn(format!("a worker was refused: {problem}")),
            LaunchEvent::StrangerRefused { pid, uid } => {
                ui.warn(format!("a process of another user was refused (pid {pid}, uid {uid})"));
            }
            _ => {}
        }
    }

    fn report_files(&self, event: &LaunchEvent) {
        let ui = self.ui();
        match event {
            LaunchEvent::RunsPruned { first, last, kept } => {
                let which = if first == last { format!("run {first}") } else { format!("runs {first} to {last}") };
                ui.status("Pruned", format!("the logs of {which}: only the newest {kept} runs keep theirs"));
            }
            LaunchEvent::LatestBlocked { latest, by } => {
                let (latest, what) = (latest.display(), messages::blocker(by));
                ui.warn(format!("{latest} does not point to this run: it is {what}, which was left unchanged"));
            }
            LaunchEvent::NotListed { problem } => ui.warn(format!("`cargo ddp ps` will not list this job: {problem}")),
            LaunchEvent::LogEnded { path, problem } => {
                ui.warn(format!("{} ends here: {problem}; the job continues", path.display()));
            }
            _ => {}
        }
    }

    fn report_job(&mut self, event: &LaunchEvent) {
        if let (LaunchEvent::Worker { rank, event }, Some((ui, live))) = (event, &mut self.running)
            && *rank == self.first_rank
        {
            live.update(event, ui);
        }
        let ui = self.ui();
        match event {
            LaunchEvent::Launched(launched) => {
                ui.status("Running", messages::running(launched));
                self.first_rank = launched.first_rank;
            }
            LaunchEvent::Stopping { grace } => ui.status("Stopping", messages::stopping(*grace)),
            LaunchEvent::RanksPaused { ranks, after } => {
                if let Some(cause) = after {
                    ui.warn(failure::headline(cause));
                }
                ui.status("Waiting", messages::paused(ranks));
            }
            LaunchEvent::Restarting(restarting) => {
                ui.warn(failure::headline(&restarting.report.cause));
                failure::details(&restarting.report).iter().for_each(|line| ui.line(line));
            }
            LaunchEvent::Stalled { idle, steps } => ui.warn(messages::stalled(*idle, steps)),
            LaunchEvent::Stacks(Some(stacks)) => stacks.iter().for_each(|stack| ui.line(&messages::stack(stack))),
            LaunchEvent::Stacks(None) => ui.line(
                "  gdb, lldb or eu-stack is needed to show what each rank does: install one (`apt-get install gdb`)",
            ),
            LaunchEvent::Failed(failed) => {
                ui.error(failure::headline(&failed.report.cause));
                failure::details(&failed.report).iter().for_each(|line| ui.line(line));
                failure::hints(failed).iter().for_each(|hint| ui.hint(hint));
            }
            LaunchEvent::StoppedEverywhere { signal } => {
                ui.status("Stopped", format!("on all nodes, as one was asked to stop ({})", signal_name(*signal)));
            }
            LaunchEvent::Finished { verdict, job, elapsed } => match verdict {
                Verdict::Done { restarts } => ui.status("Finished", messages::finished(job, *restarts, *elapsed)),
                Verdict::Preempted { snapshot } => ui.status("Stopped", messages::preempted(snapshot.as_deref())),
                Verdict::NodeLost(why) => {
                    ui.error(format!("the job has ended: {why}"));
                    ui.hint("start the launchers of all nodes again: training resumes from the newest snapshot");
                }
                // With several nodes, that was reported when the workers ended.
                Verdict::Stopped(signal) if job.nnodes <= 1 => ui.status("Stopped", messages::stopped(job, *signal)),
                Verdict::Failed(..) | Verdict::Stopped(_) => {}
            },
            _ => {}
        }
    }
}

impl Reporter for JobUi {
    fn report(&mut self, event: LaunchEvent) {
        self.report_files(&event);
        self.report_nodes(&event);
        self.report_joining(&event);
        self.report_job(&event);
        if self.patient.json
            && let Some(json) = json::event(&event)
        {
            self.ui().event(&json);
        }
        if let LaunchEvent::Restarting(restarting) = &event {
            self.ui().status("Restarting", messages::restarting(restarting));
            if let Some((_, live)) = &mut self.running {
                live.restarted(restarting.attempt);
            }
        }
    }

    fn output(&mut self, output: Output<'_>) {
        let Output { rank, stream, bytes, ends } = output;
        let ui = self.running.as_ref().map_or(&self.patient, |(ui, _)| ui);
        let prefixer = self.partial.entry((rank, stream)).or_insert_with(|| ui.prefixer(rank, stream));
        let mut lines = vec![];
        prefixer.push(bytes, &mut lines);
        if ends {
            prefixer.finish(&mut lines);
        }
        ui.output(rank, stream, &lines);
    }

    fn begin(&mut self) {
        let (ui, bar): (Ui, ProgressBar) = self.patient.with_live_line();
        self.running = Some((ui, Live::new(bar)));
    }

    fn end(&mut self) {
        self.running = None;
    }

    fn is_held_up(&self, stream: Target) -> bool {
        self.ui().is_held_up(stream)
    }

    fn holds_up_events(&self) -> bool {
        self.ui().events_are_held_up()
    }

    fn waiting(&self) -> Vec<(Target, BorrowedFd<'static>)> {
        let waiting = TARGETS.into_iter().filter(|target| screen::is_waiting(*target));
        waiting.map(|target| (target, target.fd())).collect()
    }

    fn flush(&mut self, stream: Target) {
        self.ui().flush(stream);
    }

    fn give_up(&mut self) {
        let stuck = |target: &Target| screen::is_waiting(*target) || !screen::is_ready(*target);
        TARGETS.into_iter().filter(stuck).for_each(screen::give_up);
    }

    fn launcher_ended(&self, end: LauncherEnd) {
        let problem = messages::launcher_end(end);
        screen::write_if_ready(Target::Stderr, format!("error: {problem}\n").as_bytes());
    }
}
