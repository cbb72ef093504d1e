//! The launcher: starts one worker per rank, watches them, and restarts them all when one fails.
//!
//! | module | what it does |
//! |---|---|
//! | `supervise` | the event loop, the dispatcher (a state machine that knows no processes), and who decides |
//! | `process` | workers, their pipes and their port; the guards around the launcher; workers that a debugger starts |
//! | `run` | a run's directory, logs, and job file; the jobs that run on this machine |
//! | `plan` | what to run, with everything decided |
//! | `nodes` | launchers on other machines |
//! | `event` | what the launcher reports, and to whom |
//! | `outcome` | how workers and jobs end |
//!
//! A module imports only from those below it. None knows a terminal, the environment or the command line: a
//! [`LaunchPlan`] comes in, [`LaunchEvent`]s go out to a [`Reporter`].
//!
//! The plan's environment is torchrun's, so that a worker can't tell the difference; see `ddp_contract::env`.

pub(crate) mod event;
pub(crate) mod nodes;
pub(crate) mod outcome;
pub(crate) mod plan;
pub(crate) mod process;
pub(crate) mod run;
pub(crate) mod supervise;

use std::time::Instant;

pub(crate) use event::{LaunchEvent, Reporter};
pub use outcome::Verdict;
pub use plan::{LaunchPlan, StorePort};
pub use run::history::{Because, Run};
pub use run::job_file::write_report;
pub use run::latest::LATEST;
pub use run::lineage::{Replay, Unreachable, arguments, workers};
pub use run::registry::{Registry, belongs_to, process_of};
pub(crate) use run::scratch::prepare as prepare_scratch;
pub use run::store::Store;

use crate::Result;
use crate::editor::debug::{self, Debug};
use ddp_contract::job::Job;
use nodes::{Link, Member, Rendezvous};
use process::guard;
use process::port::Port;
use process::worker::Worker;
use process::{debugged, guard::Guard};
use run::job_file::JobFile;
use run::registry::RegistryEntry;
use supervise::watch::Watch;

/// Runs the plan to its end, in its own process: this one stays behind as its guard, never returns from here, and ends with
/// the exit code of the other.
///
/// # Errors
/// When the nodes can't meet, or the system refuses a process, a socket or a pipe; workers that fail are a [`Verdict`].
pub(crate) fn launch(mut plan: LaunchPlan, reporter: &mut dyn Reporter) -> Result<(Verdict, Job)> {
    let span = tracing::debug_span!("run", run = plan.run_id);
    let _in_run = span.enter();
    tracing::debug!(?plan, "launching");
    let finished = meet(&mut plan, reporter).and_then(|links| run(&plan, links, reporter));
    if let Err(err) = &finished {
        JobFile::new(&plan, std::process::id()).refused(err);
    }
    finished
}

/// Waits for the launchers of the other nodes, and adds them to the plan. `ps` and `runs` list the job meanwhile. Returns the
/// connections: node 0's to all others (by node rank, from 1), the others' to node 0.
fn meet(plan: &mut LaunchPlan, reporter: &mut dyn Reporter) -> Result<Vec<Link>> {
    let Some(at) = plan.rendezvous.clone() else { return Ok(vec![]) };
    let record = JobFile::new(plan, std::process::id());
    // The list of jobs is a convenience.
    let _entry = RegistryEntry::new(plan.jobs_dir.as_deref(), &record.job).ok();
    record.waiting();
    let links = join(&at, plan, reporter)?;
    tracing::debug!(nodes = ?plan.nodes.members, "all nodes have joined");
    Ok(links)
}

fn join(at: &Rendezvous, plan: &mut LaunchPlan, reporter: &mut dyn Reporter) -> Result<Vec<Link>> {
    let own = Member { first_rank: 0, ..plan.nodes.members[plan.nodes.own].clone() };
    let (nodes, run_id, links) = nodes::join(at, own, plan.run_id.clone(), reporter)?;
    (plan.nodes, plan.run_id) = (nodes, run_id);
    Ok(links)
}

fn run(plan: &LaunchPlan, links: Vec<Link>, reporter: &mut dyn Reporter) -> Result<(Verdict, Job)> {
    let start = Instant::now();
    let in_one_process = plan.debug.is_none() && debug::is_traced();
    let mut guard = guard::split(in_one_process, reporter)?;
    tracing::debug!(pid = std::process::id(), guard = guard.pid(), "launcher started");
    let (verdict, record) = match accept_workers(plan, &mut guard, reporter)? {
        Ready::Stopped(signal) => {
            let mut record = JobFile::new(plan, guard.pid());
            let verdict = Verdict::Stopped(signal);
            record.conclude(&verdict);
            (verdict, record)
        }
        Ready::Joined(joined) => {
            reporter.begin();
            let ended = Watch::new(plan, links, guard, joined, reporter).and_then(Watch::run);
            reporter.end();
            ended?
        }
    };
    if let (Verdict::Failed(..), Some(path)) = (&verdict, &plan.outer_error_file) {
        record.forward_cause(path);
    }
    let (job, elapsed) = (record.job, start.elapsed());
    reporter.report(LaunchEvent::Finished { verdict: verdict.clone(), job: Box::new(job.clone()), elapsed });
    Ok((verdict, job))
}

/// Workers that were there before the launcher.
enum Ready {
    /// Those that a debugger started, and their port; `None`: the launcher starts them.
    Joined(Option<(Port, Vec<Worker>)>),
    /// The launcher was asked to stop by this signal.
    Stopped(i32),
}

fn accept_workers(plan: &LaunchPlan, guard: &mut Guard, reporter: &mut dyn Reporter) -> Result<Ready> {
    let Some(Debug::Join(join)) = &plan.debug else { return Ok(Ready::Joined(None)) };
    Ok(match debugged::accept_workers(plan, &join.folder, guard, reporter)? {
        debugged::Accepted::All(port, workers) => Ready::Joined(Some((port, workers))),
        debugged::Accepted::Stopped(signal) => Ready::Stopped(signal),
    })
}
