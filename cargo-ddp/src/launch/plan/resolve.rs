//! From options to a plan. Everything it needs to know is in [`Machine`], so it is a function of its arguments.

use std::net::SocketAddr;
use std::path::PathBuf;

use ddp_contract::env;

use super::binding::Binding;
use super::placement::Placement;
use super::rendezvous::rendezvous;
use super::{LaunchPlan, Note, Options, Rules, Show, StorePort};
use crate::launch::nodes::{Member, Nodes, Rendezvous};
use crate::machine::{Environment, Machine};
use crate::{Error, Result};

/// A plan without a program, and what the user should know about it.
#[derive(Debug)]
pub struct Resolved {
    /// The plan. The program follows with [`LaunchPlan::with_program`], after the build, and the run's directory with
    /// [`LaunchPlan::in_run`].
    pub plan: LaunchPlan,
    /// In the order in which they should be printed.
    pub notes: Vec<Note>,
}

/// Checks the options and decides everything about a launch that does not depend on the program.
///
/// # Errors
/// Usage errors: an option, a variable or a GPU.
pub(crate) fn resolve(options: &Options, machine: &Machine) -> Result<Resolved> {
    let mut notes = vec![];
    check_variables(&machine.environment)?;
    let placement = Placement::choose(options.gpus.as_deref(), options.nproc, machine, &mut notes)?;
    let nproc = placement.nproc();
    let bindings = if options.bind { placement.bindings(machine)? } else { vec![] };
    if !bindings.is_empty() {
        notes.push(Note::Bindings(bindings.clone()));
    }
    let bad = |option, problem| Error::BadOption { option, problem };
    let show = options.show.clone().unwrap_or(Show::All);
    let rendezvous = rendezvous(options, &machine.environment)?;
    // With several nodes, who has which ranks is not known yet.
    let check_rank = |option, rank: usize| match rank < nproc || rendezvous.is_some() {
        true => Ok(()),
        false => Err(bad(option, format!("rank {rank} not found: ranks are 0 to {}", nproc - 1))),
    };
    if let Show::Only(ranks) = &show {
        ranks.iter().try_for_each(|rank| check_rank("show", *rank))?;
    }
    options.stdin.map_or(Ok(()), |rank| check_rank("stdin", rank))?;
    let defaults = Rules::default();
    let plan = LaunchPlan {
        program: PathBuf::new(),
        args: vec![],
        store: StorePort::Reserved,
        run_id: String::new(),
        run_dir: PathBuf::new(),
        project: options.project.clone(),
        folder: machine.folder.clone(),
        jobs_dir: machine.cache.as_ref().map(|cache| cache.join("jobs")),
        nproc,
        nodes: assume_equal_nodes(rendezvous.as_ref(), &placement, machine),
        rendezvous,
        gpus: placement.gpus,
        omp_num_threads: omp_num_threads(nproc, &bindings, machine),
        bindings,
        rules: Rules {
            max_restarts: options.max_restarts.unwrap_or(defaults.max_restarts),
            only_reporting: options.only_reporting && options.max_restarts.is_none(),
            backoff: options.backoff.unwrap_or(defaults.backoff),
            grace: options.grace.unwrap_or(defaults.grace),
            stall_timeout: options.stall_timeout,
            restart_on_stall: options.restart_on_stall,
        },
        stdin: options.stdin,
        show,
        at_step: None,
        debug: None,
        interfaces: machine.interfaces.clone(),
        preset: machine.environment.names().map(str::to_owned).collect(),
        withheld: options.withheld.clone(),
        outer_error_file: machine.environment.get(env::ERROR_FILE).map(PathBuf::from),
    };
    Ok(Resolved { plan, notes })
}

/// Variables that workers read: an invalid one is refused here, once, rather than by every rank.
fn check_variables(environment: &Environment) -> Result<()> {
    for name in [env::TIMEOUT, env::WAIT_DEBUGGER] {
        let value = environment.get(name).unwrap_or_default().to_string_lossy().into_owned();
        env::seconds(&value).map_err(|problem| Error::BadVariable { name, value, problem })?;
    }
    Ok(())
}

/// All nodes, before they have met: the others are taken to have as many workers as this one.
fn assume_equal_nodes(at: Option<&Rendezvous>, placement: &Placement, machine: &Machine) -> Nodes {
    let nproc = placement.nproc();
    let own = Member { host: machine.host.clone(), first_rank: 0, nproc, gpus: placement.gpus.clone() };
    let address = SocketAddr::new(machine.loopback, 0);
    match at {
        None => Nodes { members: vec![own], own: 0, master_addr: machine.loopback.to_string(), address },
        Some(at) => {
            let members = (0..at.nnodes).map(|node| Member { first_rank: node * nproc, ..own.clone() }).collect();
            Nodes { members, own: at.node_rank, master_addr: at.master_addr.clone(), address }
        }
    }
}

/// The cores shared out among the workers, unless the user has decided.
fn omp_num_threads(nproc: usize, bindings: &[Binding], machine: &Machine) -> Option<usize> {
    if machine.environment.get(env::OMP_NUM_THREADS).is_some() {
        return None;
    }
    let fewest = bindings.iter().map(|binding| binding.cpus.len()).min();
    Some(fewest.unwrap_or((machine.cores / nproc).max(1)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::launch::plan::Nproc;
    use crate::machine::gpus::{Gpu, Memory};

    fn problem(options: &Options, machine: &Machine) -> String {
        resolve(options, machine).unwrap_err().to_string()
    }

    fn gpu(index: u32) -> Gpu {
        Gpu { index, numa_node: Some(index), ..Gpu::default() }
    }

    fn with_gpus(count: u32) -> Machine {
        let numa_nodes = [(0, vec![0, 1, 2, 3]), (1, vec![4, 5, 6, 7])].into();
        Machine { gpus: Ok((0..count).map(gpu).collect()), numa_nodes, ..Machine::example() }
    }

    #[test]
    fn plan_without_options_has_one_worker_per_gpu_or_one_on_the_cpu() {
        let Resolved { plan, notes } = resolve(&Options::default(), &with_gpus(2)).unwrap();
        assert_eq!((plan.nproc, plan.gpus.unwrap().join(","), plan.omp_num_threads), (2, "0,1".into(), Some(4)));
        assert_eq!(notes, []);
        let Resolved { plan, notes } = resolve(&Options::default(), &Machine::example()).unwrap();
        assert_eq!((plan.nproc, plan.gpus, plan.omp_num_threads), (1, None, Some(8)));
        assert_eq!((notes, plan.nodes.world_size()), (vec![Note::NoGpu], 1));
    }

    #[test]
    fn plan_respects_the_gpus_of_a_scheduler() {
        let visible = |value: &str| Machine { environment: [("CUDA_VISIBLE_DEVICES", value)].into(), ..with_gpus(4) };
        let gpus = |machine: &Machine| resolve(&Options::default(), machine).unwrap().plan.gpus.unwrap();
        assert_eq!(gpus(&visible("3,1")), ["3", "1"]);
        let three = Options { nproc: Some(Nproc::Count(3)), ..Options::default() };
        assert!(problem(&three, &visible("3,1")).contains("3 workers need 3 GPUs, but only 2 are available"));
        let asked = Options { gpus: Some("0".into()), ..Options::default() };
        assert!(problem(&asked, &visible("3,1")).contains("not in CUDA_VISIBLE_DEVICES=3,1"));
        let no_driver = Machine { gpus: Err("no driver".into()), ..Machine::example() };
        assert_eq!(problem(&asked, &no_driver), "can't use GPUs: no driver");
        assert_eq!(resolve(&three, &no_driver).unwrap().plan.nproc, 3);
    }

    #[test]
    fn plan_names_gpus_that_others_use() {
        let memory = Some(Memory { total: 80_000_000_000, used: 40_000_000_000 });
        let machine = Machine { gpus: Ok(vec![Gpu { memory, ..gpu(0) }, gpu(1)]), ..with_gpus(2) };
        let notes = resolve(&Options::default(), &machine).unwrap().notes;
        assert_eq!(notes, [Note::BusyGpu { gpu: "0".into(), busy: "40.0 GB of 80.0 GB in use".into() }]);
    }

    #[test]
    fn plan_binds_workers_to_the_cores_of_their_gpu() {
        let options = Options { bind: true, ..Options::default() };
        let Resolved { plan, notes } = resolve(&options, &with_gpus(2)).unwrap();
        let cpus: Vec<_> = plan.bindings.iter().map(|binding| binding.cpus.clone()).collect();
        assert_eq!((cpus, plan.omp_num_threads), (vec![vec![0, 1, 2, 3], vec![4, 5, 6, 7]], Some(4)));
        assert_eq!(notes, [Note::Bindings(plan.bindings)]);
        let unknown = Machine { cpus: None, ..with_gpus(2) };
        assert!(problem(&options, &unknown).contains("can't find the cores of this process"));
    }

    // Zero workers divided by zero, and zero nodes had no member.
    #[test]
    fn plan_of_no_workers_or_no_nodes_is_refused() {
        let none = Options { nproc: Some(Nproc::Count(0)), ..Options::default() };
        assert_eq!(problem(&none, &Machine::example()), "--nproc: expected at least 1 worker");
        assert_eq!(problem(&none, &with_gpus(2)), "--nproc: expected at least 1 worker");
        let none = Options { nnodes: Some(0), node_rank: Some(0), ..Options::default() };
        assert_eq!(problem(&none, &Machine::example()), "--nnodes: expected at least 1 node");
    }

    #[test]
    fn plan_refuses_ranks_and_nodes_that_do_not_exist() {
        let two = Options { nproc: Some(Nproc::Count(2)), ..Options::default() };
        let refused = |options: Options| problem(&options, &Machine::example());
        let show = Options { show: Some(Show::Only(vec![1, 2])), ..two.clone() };
        assert_eq!(refused(show.clone()), "--show: rank 2 not found: ranks are 0 to 1");
        assert_eq!(refused(Options { stdin: Some(7), ..two.clone() }), "--stdin: rank 7 not found: ranks are 0 to 1");
        assert_eq!(refused(Options { node_rank: Some(1), ..two.clone() }), "--node-rank: requires --nnodes");
        let nodes = Options { nnodes: Some(2), node_rank: Some(1), master_addr: Some("node-0".into()), ..show };
        let plan = resolve(&nodes, &Machine::example()).unwrap().plan;
        assert_eq!((plan.nodes.world_size(), plan.ranks(), plan.nodes.is_multi_node()), (4, 2..4, true));
        assert!(
            refused(Options { node_rank: None, ..nodes.clone() })
                .starts_with("--node-rank: required for a job on 2 nodes")
        );
        assert!(
            refused(Options { master_addr: None, ..nodes }).starts_with("--master-addr: required for several nodes")
        );
    }

    #[test]
    fn plan_refuses_variables_that_workers_could_not_read() {
        let machine = Machine { environment: [("DDP_TIMEOUT", "soon")].into(), ..Machine::example() };
        assert!(problem(&Options::default(), &machine).starts_with("invalid DDP_TIMEOUT `soon`: "));
        let machine = Machine { environment: [("OMP_NUM_THREADS", "3")].into(), ..Machine::example() };
        assert_eq!(resolve(&Options::default(), &machine).unwrap().plan.omp_num_threads, None);
    }
}
