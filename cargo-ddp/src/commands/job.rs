//! What `run`, `launch` and `demo` share: from options to a plan, and from its verdict to an exit code.

use std::ffi::OsString;
use std::io::ErrorKind;
use std::net::Ipv6Addr;
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ddp_contract::env;
use ddp_contract::text::printable_line;

use crate::config::{LaunchOptions, Nproc, Seconds};
use crate::editor::debug::Debug;
use crate::launch::{
    self, Binding, LaunchPlan, Member, Nodes, Record, Rendezvous, Rules, Secret, SecretSource, Show, Store, StorePort,
    Verdict,
};
use crate::machine::gpus as gpu;
use crate::os::output::Output;
use crate::{Error, Result, Ui, exit, shell};

/// torchrun's default.
const MASTER_PORT: u16 = 29500;
/// How long nodes wait for each other.
const JOIN_TIMEOUT: Duration = Duration::from_secs(600);

/// What to launch, before there is a program.
pub(super) struct Job {
    pub(super) nproc: usize,
    gpus: Option<Vec<String>>,
    bindings: Vec<Binding>,
    rules: Rules,
    show: Show,
    stdin: Option<usize>,
    report: Option<Output>,
    dry_run: bool,
    rendezvous: Option<Rendezvous>,
    debug: Option<Debug>,
}

impl Job {
    /// Checks the options, so that what is wrong is found before a build, which may take minutes.
    pub(super) fn new(options: LaunchOptions, ui: &Ui) -> Result<Self> {
        check_variables()?;
        crate::os::descriptors::raise_limit();
        let Places { gpus, nodes } = workers(options.gpus.as_deref(), options.nproc, ui)?;
        let nproc = nodes.len();
        let bindings = match options.bind {
            true => {
                let cpus = launch::own_cpus().map_err(Error::system("can't find the cores of this process"))?;
                launch::bind(&nodes, &cpus, launch::cpus_of_node)
            }
            false => vec![],
        };
        if !bindings.is_empty() {
            let ranks =
                bindings.iter().enumerate().map(|(rank, binding)| format!("rank {rank} to {}", binding.words()));
            ui.status("Binding", ranks.collect::<Vec<_>>().join(", "));
        }
        let bad = |option, problem| Error::BadOption { option, problem };
        let show = options.show.clone().unwrap_or(Show::All);
        let rendezvous = rendezvous(&options)?;
        // With several nodes, who has which ranks is not known yet.
        let is_rank = |option, rank: usize| {
            let problem = || format!("there is no rank {rank}; there are {nproc}, from 0");
            if rank < nproc || rendezvous.is_some() { Ok(()) } else { Err(bad(option, problem())) }
        };
        if let Show::Only(ranks) = &show {
            ranks.iter().try_for_each(|rank| is_rank("show", *rank))?;
        }
        options.stdin.map_or(Ok(()), |rank| is_rank("stdin", rank))?;
        let report = options.report.as_deref().map(|path| {
            Output::open(path).map_err(|err| bad("report", format!("can't write to {}: {err}", path.display())))
        });
        let report = report.transpose()?;
        let defaults = Rules::default();
        let rules = Rules {
            max_restarts: options.max_restarts.unwrap_or(defaults.max_restarts),
            only_reporting: false,
            backoff: options.backoff.map_or(defaults.backoff, |Seconds(time)| time),
            grace: options.grace.map_or(defaults.grace, |Seconds(time)| time),
            stall_timeout: options.stall_timeout.map(|Seconds(time)| time),
            restart_on_stall: options.restart_on_stall,
        };
        let (stdin, dry_run) = (options.stdin, options.dry_run);
        Ok(Self { nproc, gpus, bindings, rules, show, stdin, report, dry_run, debug: None, rendezvous })
    }

    /// For a program that may not report to us: as under torchrun, it is restarted only if `--max-restarts` says so, or once it
    /// has reported something.
    pub(super) fn of_any_program(mut self, is_limit_given: bool) -> Self {
        self.rules.only_reporting = !is_limit_given;
        self
    }

    /// Takes note of a debugger, for a job of the project in `root`.
    pub(super) fn debugged(self, root: &Path, ui: &Ui) -> Result<Self> {
        let debug = Debug::from_env(root, |text| ui.warn(text))?;
        let mut rules = self.rules;
        if debug.is_some() {
            // Who stands still may be looked at.
            rules.stall_timeout = Some(Duration::ZERO);
        }
        if let Some(Debug::Join(_)) = &debug {
            if self.rendezvous.is_some() {
                let problem = "workers that a debugger starts are all on one node".into();
                return Err(Error::BadOption { option: "nnodes", problem });
            }
            // We did not start the workers, and can't again.
            rules.max_restarts = 0;
        }
        Ok(Self { debug, rules, ..self })
    }

    /// Whether a debugger follows the workers.
    pub(super) fn is_debugged(&self) -> bool {
        self.debug.is_some()
    }

    /// Runs `program` to its end, and gives the exit code. What it leaves goes to `store`.
    pub(super) fn launch(
        self,
        program: PathBuf,
        args: Vec<OsString>,
        runs: &Store,
        store: StorePort,
        ui: &Ui,
    ) -> Result<u8> {
        // It counts as running while this is kept, also when its nodes have not come yet.
        let kept = if self.dry_run { None } else { Some(runs.create(ui)?) };
        let (number, run_dir) =
            kept.as_ref().map_or_else(|| (0, runs.dir().join("N")), |run| (run.number, run.path.clone()));
        let mut plan = LaunchPlan {
            program,
            args,
            nproc: self.nproc,
            nodes: supposed_nodes(self.rendezvous.as_ref(), self.nproc, self.gpus.clone()),
            gpus: self.gpus,
            omp_num_threads: omp_num_threads(self.nproc, &self.bindings),
            bindings: self.bindings,
            rules: self.rules,
            run_id: format!("run-{number}-{}", std::process::id()),
            run_dir,
            stdin: self.stdin,
            show: self.show,
            store,
            debug: self.debug,
            withheld: crate::config::variables(),
        };
        if self.dry_run {
            print(&plan);
            return Ok(exit::SUCCESS);
        }
        let refused = |plan: &LaunchPlan, err: Error| {
            Record::keep_refused(plan, &err);
            err
        };
        let links = match &self.rendezvous {
            Some(at) => launch::meet(at, &mut plan, ui).map_err(|err| refused(&plan, err))?,
            None => vec![],
        };
        tracing::debug!(?plan, "launching");
        if plan.debug.is_some() {
            let name = plan.program.file_name().unwrap_or_default().to_string_lossy();
            ui.title(&format!("{name}: {} workers", plan.nproc));
        }
        let start = Instant::now();
        let (verdict, mut record) = launch::launch(&plan, links, ui).map_err(|err| refused(&plan, err))?;
        tell(&verdict, &record, &plan, start, ui);
        let reported = finish(&mut record, &verdict, self.report.as_ref(), ui);
        Ok(match verdict.exit_code() {
            exit::SUCCESS if !reported => exit::SYSTEM,
            code => code,
        })
    }
}

/// Variables that workers read: one that means nothing is refused here, once, rather than by every rank.
fn check_variables() -> Result<()> {
    for name in [env::TIMEOUT, env::WAIT_DEBUGGER] {
        let value = std::env::var_os(name).unwrap_or_default();
        let value = value.to_string_lossy().into_owned();
        env::seconds(&value).map_err(|problem| Error::BadVariable { name, value, problem })?;
    }
    Ok(())
}

fn tell(verdict: &Verdict, record: &Record, plan: &LaunchPlan, start: Instant, ui: &Ui) {
    match verdict {
        Verdict::Done { restarts } => {
            ui.status("Finished", launch::finished(record, *restarts, start.elapsed()));
        }
        Verdict::Preempted { snapshot } => {
            let place =
                snapshot.as_ref().map(|snapshot| format!(" from {}", launch::near(snapshot))).unwrap_or_default();
            ui.status("Stopped", format!("as asked; run it again to go on{place}"));
        }
        Verdict::NodeLost(why) => {
            ui.error(format!("the job has ended: {why}"));
            ui.hint("start the launchers of all nodes again: training goes on from the newest snapshot");
        }
        // With several nodes, all were told at the same time as this one.
        Verdict::Stopped(signal) if !plan.nodes.are_several() => ui.status("Stopped", launch::stopped(record, *signal)),
        Verdict::Failed(..) | Verdict::Stopped(_) => {}
    }
}

/// Whether the report is where the user wants it, or nobody reads it there.
fn finish(record: &mut Record, verdict: &Verdict, report: Option<&Output>, ui: &Ui) -> bool {
    if matches!(verdict, Verdict::Failed(..)) {
        record.pass_on();
    }
    record.conclude(verdict);
    ui.event(&record.to_json());
    let Some(Err(err)) = report.map(|to| record.write(to)) else { return true };
    let problem = format!("can't write the report: {err}");
    // A FIFO without a reader, or whose reader is gone, changes no exit code.
    let unread = matches!(err.kind(), ErrorKind::TimedOut | ErrorKind::BrokenPipe);
    if unread || err.raw_os_error() == Some(libc::ENXIO) {
        ui.warn(problem);
        return true;
    }
    ui.error(problem);
    ui.hint(format!("the run's directory has it, too: {}", record.path().display()));
    false
}

/// `--dry-run`: what would be done, on stdout.
fn print(plan: &LaunchPlan) {
    println!("command: {}", printable_line(&shell::join(&plan.command())));
    println!("workers: {}", plan.nproc);
    if plan.nodes.are_several() {
        println!(
            "nodes:   {}, this is node {}, and the others have {} workers each",
            plan.nodes.members.len(),
            plan.nodes.own,
            plan.nproc
        );
    }
    println!(
        "GPUs:    {}",
        plan.gpus.as_ref().filter(|gpus| !gpus.is_empty()).map_or("none".into(), |gpus| gpus.join(", "))
    );
    println!("logs:    {}", printable_line(&plan.run_dir.to_string_lossy()));
    for rank in plan.ranks() {
        println!("rank {rank}:");
        // The port is whichever is free at the start.
        for (name, value) in plan.worker_env(rank, 0, 0) {
            let value = if name == env::MASTER_PORT { "(a free one)".into() } else { value.to_string_lossy() };
            println!("  {name}={}", printable_line(&value));
        }
    }
}

/// With several nodes, where their launchers meet.
fn rendezvous(options: &LaunchOptions) -> Result<Option<Rendezvous>> {
    let bad = |option, problem: String| Err(Error::BadOption { option, problem });
    let nnodes = options.nnodes.unwrap_or(1);
    if nnodes == 1 {
        let alone = options.node_rank.is_none_or(|rank| rank == 0);
        return if alone { Ok(None) } else { bad("node-rank", "it needs --nnodes".into()) };
    }
    let Some(node_rank) = options.node_rank else {
        return bad("node-rank", format!("of {nnodes} nodes, each needs a number of its own, from 0"));
    };
    if node_rank >= nnodes {
        return bad("node-rank", format!("there is no node {node_rank}; there are {nnodes}, from 0"));
    }
    let Some(master_addr) = options.master_addr.clone() else {
        return bad("master-addr", "several nodes need an address of node 0 that all can reach".into());
    };
    let master_addr = match host(&master_addr) {
        Ok(host) => host.to_owned(),
        Err(problem) => return bad("master-addr", problem),
    };
    Ok(Some(Rendezvous {
        nnodes: nnodes.into(),
        node_rank: node_rank.into(),
        master_addr,
        master_port: options.master_port.unwrap_or(MASTER_PORT),
        timeout: options.join_timeout.map_or(JOIN_TIMEOUT, |Seconds(time)| time),
        secret: secret(options)?,
    }))
}

/// The host that `--master-addr` names. An IPv6 address stands in brackets where a port can follow it, and a link-local one
/// ends with its interface (`fe80::1%eth0`).
fn host(master_addr: &str) -> std::result::Result<&str, String> {
    let is_ipv6 = |address: &str| address.split('%').next().is_some_and(|address| address.parse::<Ipv6Addr>().is_ok());
    if let Some(address) = master_addr.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'))
        && is_ipv6(address)
    {
        return Ok(address);
    }
    match master_addr.rsplit_once(':') {
        Some((host, port)) if !is_ipv6(master_addr) && port.parse::<u16>().is_ok() => {
            Err(format!("{master_addr:?} has a port: use --master-addr '{host}' --master-port {port}"))
        }
        _ => Ok(master_addr),
    }
}

/// Where the secret of a job on several nodes is: the flag wins over the environment, and there a value over a file.
fn secret(options: &LaunchOptions) -> Result<SecretSource> {
    let set = |name| std::env::var_os(name).filter(|value: &OsString| !value.is_empty());
    if let Some(path) = &options.secret_file {
        return Ok(SecretSource::File(path.clone()));
    }
    if let Some(value) = set(env::JOB_SECRET) {
        let secret = value.to_str().ok_or_else(|| "the secret is not UTF-8".to_owned()).and_then(Secret::new);
        return secret.map(SecretSource::Value).map_err(Error::BadSecret);
    }
    Ok(set(env::JOB_SECRET_FILE).map_or(SecretSource::None, |path| SecretSource::File(path.into())))
}

/// This node, as far as can be told without the others: they have as many workers.
fn supposed_nodes(at: Option<&Rendezvous>, nproc: usize, gpus: Option<Vec<String>>) -> Nodes {
    let mut nodes = Nodes::one(nproc, gpus);
    if let Some(at) = at {
        let own = nodes.members[0].clone();
        nodes.members = (0..at.nnodes).map(|node| Member { first_rank: node * nproc, ..own.clone() }).collect();
        (nodes.own, nodes.master_addr) = (at.node_rank, at.master_addr.clone());
    }
    nodes
}

/// What each worker runs on.
struct Places {
    /// Without GPUs, the CPU.
    gpus: Option<Vec<String>>,
    /// For each worker its GPU's NUMA node, if that is known.
    nodes: Vec<Option<u32>>,
}

/// How many workers, and where.
fn workers(list: Option<&str>, nproc: Option<Nproc>, ui: &Ui) -> Result<Places> {
    let visible = std::env::var(env::CUDA_VISIBLE_DEVICES).ok();
    // Without a driver, only those who ask for GPUs need to know.
    let there = if list.is_some() { gpu::list()? } else { gpu::list().unwrap_or_default() };
    let chosen = match list {
        Some(list) => gpu::select(list, &there, visible.as_deref())?,
        None => {
            let all = gpu::available(&there, visible.as_deref());
            let on_cpu = |gpus: Option<Vec<String>>| Ok(Places { gpus, nodes: vec![None; cores()] });
            match nproc {
                Some(Nproc::Gpu) if all.is_empty() => {
                    let problem = "`gpu` is one worker per GPU, and this machine has none".into();
                    return Err(Error::BadOption { option: "nproc", problem });
                }
                Some(Nproc::Auto) if all.is_empty() => return on_cpu(None),
                Some(Nproc::Cpu) => return on_cpu((!all.is_empty()).then(Vec::new)),
                Some(Nproc::Gpu | Nproc::Auto) => all,
                Some(Nproc::Count(nproc)) if all.is_empty() => {
                    return Ok(Places { gpus: None, nodes: vec![None; nproc.into()] });
                }
                Some(Nproc::Count(nproc)) if usize::from(nproc) <= all.len() => all[..nproc.into()].to_vec(),
                Some(Nproc::Count(nproc)) => {
                    let problem = format!("{nproc} workers need {nproc} GPUs, and there are {}", all.len());
                    return Err(Error::BadOption { option: "nproc", problem });
                }
                None if all.is_empty() => {
                    let note = "there is no GPU here, so there will be one worker on the CPU; `--nproc N` starts N";
                    ui.status("Note", note);
                    return Ok(Places { gpus: None, nodes: vec![None] });
                }
                None => all,
            }
        }
    };
    let described = |name: &String| {
        there
            .iter()
            .find(|gpu| gpu.index.to_string() == *name || gpu.uuid.as_ref() == Some(name) || gpu.mig.contains(name))
    };
    for name in &chosen {
        if let Some(busy) = described(name).and_then(gpu::Gpu::busy) {
            ui.warn(format!("GPU {name}: {busy}"));
        }
    }
    let nodes = chosen.iter().map(|name| described(name)?.numa_node).collect();
    Ok(Places { gpus: Some(chosen), nodes })
}

/// The cores shared out among the workers, unless the user has decided.
fn omp_num_threads(nproc: usize, bindings: &[Binding]) -> Option<usize> {
    if std::env::var_os(env::OMP_NUM_THREADS).is_some() {
        return None;
    }
    if let Some(fewest) = bindings.iter().map(|binding| binding.cpus.len()).min() {
        return Some(fewest);
    }
    Some((cores() / nproc).max(1))
}

/// The cores that this process may use.
fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, NonZero::get)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn master_addr_is_a_name_or_an_address_without_a_port() {
        for (text, expected) in [
            ("node-0", "node-0"),
            ("10.0.0.1", "10.0.0.1"),
            ("::1", "::1"),
            ("[::1]", "::1"),
            ("fe80::1%eth0", "fe80::1%eth0"),
            ("[fe80::1%eth0]", "fe80::1%eth0"),
            ("[node-0]", "[node-0]"),
        ] {
            assert_eq!(host(text), Ok(expected), "{text}");
        }
        for (text, name) in [("[::1]:29500", "[::1]"), ("node-0:29500", "node-0"), ("10.0.0.1:29500", "10.0.0.1")] {
            let problem = host(text).unwrap_err();
            assert!(problem.ends_with(&format!("use --master-addr '{name}' --master-port 29500")), "{problem}");
        }
    }
}
