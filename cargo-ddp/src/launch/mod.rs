//! The launcher: starts one worker per rank, watches them, and restarts them all when one fails.
//!
//! | file | what it does |
//! |---|---|
//! | `plan` | what to run, with everything decided |
//! | `dispatch` | what to do when something happens: a state machine that knows no processes |
//! | `watch` | the loop between the system and the dispatcher |
//! | `workers` | processes, their pipes and their port |
//! | `events` | what a worker tells through its event pipe |
//! | `reap` | the end of a worker that is traced |
//! | `binding` | which cores a worker runs on |
//! | `descriptors` | the limit of open files |
//! | `interpreter` | what a script or a program needs to run |
//! | `binary` | programs that no shell may read |
//! | `loopback` | this machine's address for itself |
//! | `guard` | the processes around the launcher, which leave nothing running when it dies |
//! | `join` | workers that a debugger starts |
//! | `signals` | signals as descriptors |
//! | `lines`, `logs` | workers' output on the screen and on disk |
//! | `live`, `progress`, `keys` | the job's line on a terminal: drawing it, what is in it, what would disturb it |
//! | `stall` | what ranks do that make no progress |
//! | `words`, `record` | what happened, in words and as JSON |
//! | `registry` | the jobs that run on this machine |
//! | `origin` | which machine, boot and container a process belongs to |
//! | `rundir` | the directory of a run: made, marked, locked and pruned |
//! | `store` | where the runs of a project are |
//! | `history` | the runs of a folder, over or not |
//! | `nodes` | launchers on other machines |
//! | `command` | who decides: the dispatcher here, or node 0's |
//!
//! The plan's environment is torchrun's, so that a worker can't tell the difference; see `ddp_contract::env`.

mod adopted;
mod binary;
mod binding;
mod command;
mod descriptors;
mod dispatch;
mod events;
mod guard;
mod history;
mod interpreter;
mod join;
mod keys;
mod lines;
mod live;
mod logs;
mod loopback;
mod nodes;
mod origin;
mod plan;
mod progress;
mod reap;
mod record;
mod registry;
mod rundir;
mod signals;
mod stall;
mod store;
mod watch;
mod words;
mod workers;

pub(crate) use binary::start_without_shell;
pub use binding::{Binding, bind, cpus_of_node, own_cpus};
pub(crate) use descriptors::{hint as open_files_hint, raise_limit};
pub use dispatch::{Exit, Failure, NoRestart, Rules, Verdict};
pub use history::Run;
pub use interpreter::Fault;
pub(crate) use interpreter::{Missing, missing as missing_interpreter};
pub(crate) use lines::Prefixer;
pub use nodes::{Link, Member, Nodes, Rendezvous, Secret, SecretSource};
pub use origin::Origin;
pub use plan::{LaunchPlan, Show, StorePort};
pub use record::{Outcome, Record, Saved};
use registry::Entry;
pub use registry::{Elsewhere, Job, elsewhere, running};
pub use rundir::{LATEST, RunDir};
pub use store::Store;
pub(crate) use words::{finished, near, stopped};

use crate::debug::{self, Debug};
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
