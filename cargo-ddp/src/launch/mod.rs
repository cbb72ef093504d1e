//! The launcher: starts one worker per rank, watches them, and restarts them all when one fails.
//!
//! | module | what it does |
//! |---|---|
//! | `plan` | what to run, with everything decided |
//! | `supervise` | the event loop, the dispatcher (a state machine that knows no processes), and who decides |
//! | `process` | workers, their pipes and their port; the guards around the launcher; workers that a debugger starts |
//! | `run` | a run's directory, logs, and records; the jobs that run on this machine |
//! | `nodes` | launchers on other machines |
//!
//! The plan's environment is torchrun's, so that a worker can't tell the difference; see `ddp_contract::env`.

pub(crate) mod nodes;
pub(crate) mod plan;
pub(crate) mod process;
pub(crate) mod run;
pub(crate) mod supervise;
pub(crate) mod words;

pub use nodes::{Link, Member, Nodes, Rendezvous, Secret, SecretSource};
pub use plan::binding::{Binding, bind, cpus_of_node, own_cpus};
pub use plan::{LaunchPlan, Show, StorePort};
use process::guard;
use process::join;
pub use run::history::Run;
pub use run::record::{Outcome, Record};
use run::registry::Entry;
pub use run::registry::{Job, elsewhere, running};
pub use run::rundir::LATEST;
pub use run::store::Store;
pub use supervise::dispatch::{Rules, Verdict};
use supervise::watch;
pub(crate) use words::{finished, near, stopped};

use crate::editor::debug::{self, Debug};
use crate::{Result, Ui};

/// Waits for the launchers of the other nodes, and adds them to the plan. `ps` and `runs` list the job meanwhile. Returns the
/// connections: node 0's to all others (by node rank, from 1), the others' to node 0.
///
/// # Errors
/// [`Error::Rendezvous`](crate::Error::Rendezvous), which says who is missing, or what does not fit.
pub fn meet(at: &Rendezvous, plan: &mut LaunchPlan, ui: &Ui) -> Result<Vec<Link>> {
    // The list of jobs is a convenience.
    let _entry = Entry::new(&Job::new(plan, std::process::id())).ok();
    Record::keep_waiting(plan);
    let (nodes, run_id, links) = nodes::join(at, plan.nproc, plan.gpus.clone(), plan.run_id.clone(), ui)?;
    (plan.nodes, plan.run_id) = (nodes, run_id);
    Ok(links)
}

/// Runs the plan to its end, in a process of its own: this one stays behind as its guard, never returns from here, and
/// ends with the exit code of the one that does.
///
/// `links` are what [`meet`] gave.
///
/// # Errors
/// Only when the system refuses a process, a socket or a pipe; workers that fail are a [`Verdict`].
pub fn launch(plan: &LaunchPlan, links: Vec<Link>, ui: &Ui) -> Result<(Verdict, Record)> {
    let whole = plan.debug.is_none() && debug::is_traced();
    let mut guard = guard::split(whole)?;
    let joined = match &plan.debug {
        Some(Debug::Join(folder)) => match join::gather(plan, folder, &mut guard, ui)? {
            join::Gathered::All(port, workers) => Some((port, workers)),
            join::Gathered::Stopped(signal) => return Ok((Verdict::Stopped(signal), Record::new(plan))),
        },
        _ => None,
    };
    watch::Watch::new(plan, links, guard, joined, ui)?.run()
}
