//! What `run`, `launch` and `demo` share: from options to a job, and from its end to an exit code.

use std::ffi::OsString;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use ddp_contract::env;
use ddp_contract::job::{self, Job};
use ddp_contract::text::printable_line;

use super::at_step::Destination;
use super::table;
use crate::config::{LaunchOptions, Seconds};
use crate::editor::debug::Debug;
use crate::launch::plan::{Note, Options, Resolved, resolve};
use crate::launch::{self, LaunchPlan, Store, StorePort, Verdict};
use crate::machine::Machine;
use crate::os::output::Output;
use crate::ui::{JobUi, messages};
use crate::{Error, Result, Ui, exit, shell};

/// What to launch, before there is a program.
pub(super) struct Prepared {
    plan: LaunchPlan,
    report: Option<Output>,
    dry_run: bool,
    pid: u32,
    destination: Option<Destination>,
}

impl Prepared {
    /// Checks the options, so that what is wrong is found before a build, which may take minutes. `project` is the one that
    /// the job belongs to.
    pub(super) fn new(options: LaunchOptions, project: &Path, ui: &Ui) -> Result<Self> {
        Self::resolve(plain(options.clone(), project), &options, ui)
    }

    /// For a program that may not report to us: as under torchrun, it is restarted only if `--max-restarts` says so, or once it
    /// has reported something.
    pub(super) fn of_any_program(options: LaunchOptions, folder: &Path, ui: &Ui) -> Result<Self> {
        let plain = Options { only_reporting: true, ..plain(options.clone(), folder) };
        Self::resolve(plain, &options, ui)
    }

    fn resolve(plain: Options, options: &LaunchOptions, ui: &Ui) -> Result<Self> {
        crate::os::descriptors::raise_limit();
        let machine = Machine::read();
        let (report, dry_run) = (options.report.clone(), options.dry_run);
        let Resolved { plan, notes } = resolve(&plain, &machine)?;
        notes.iter().for_each(|note| print_note(note, ui));
        let report = report.map(|path| {
            let problem = |err| format!("can't write to {}: {err}", path.display());
            Output::open(&path).map_err(|err| Error::BadOption { option: "report", problem: problem(err) })
        });
        Ok(Self { plan, report: report.transpose()?, dry_run, pid: machine.pid, destination: None })
    }

    /// With the debugger that DDP_DEBUG names, for a job of the project in `root`.
    pub(super) fn with_debugger(self, root: &Path, ui: &Ui) -> Result<Self> {
        let plan = self.plan.with_debugger(Debug::from_env(root, ui)?)?;
        Ok(Self { plan, ..self })
    }

    /// A job that goes to a step of an earlier run, in the folder where that was started.
    pub(super) fn with_destination(self, destination: Destination) -> Self {
        let folder = destination.folder().map_or_else(|| self.plan.folder.clone(), Path::to_owned);
        let plan = LaunchPlan { at_step: Some(destination.step()), folder, ..self.plan };
        Self { plan, destination: Some(destination), ..self }
    }

    /// Whether a debugger follows the workers.
    pub(super) fn has_debugger(&self) -> bool {
        self.plan.debug.is_some()
    }

    /// Number of workers on this node.
    pub(super) fn nproc(&self) -> usize {
        self.plan.nproc
    }

    /// Runs `program` to its end, and returns the exit code. Its run directory is in `runs`.
    pub(super) fn launch(
        self,
        program: PathBuf,
        args: Vec<OsString>,
        runs: &Store,
        store: StorePort,
        ui: &Ui,
    ) -> Result<u8> {
        let Self { plan, report, dry_run, pid, destination } = self;
        let plan = plan.with_program(program, args, store);
        if dry_run {
            print_plan(&plan.in_run(0, runs.dir().join("N"), pid));
            return Ok(exit::SUCCESS);
        }
        let mut reporter = JobUi::new(ui.clone());
        // The job counts as running while this is kept, also while it waits for its nodes.
        let run = runs.create(&mut reporter)?;
        let plan = plan.in_run(run.number, run.path.clone(), pid);
        if plan.debug.is_some() {
            ui.title(&format!("{}: {}", plan.name(), messages::count(plan.nproc, "worker")));
        }
        if let Some(destination) = &destination {
            let dir = plan.scratch_dir();
            let cant = |err| Error::system(format!("can't prepare {}", dir.display()))(err);
            launch::prepare_scratch(&dir, destination.snapshot()).map_err(cant)?;
        }
        drop(destination); // other programs may remove the snapshot
        let (verdict, job) = launch::launch(plan, &mut reporter)?;
        if let (Some(step), Verdict::Done { .. }) = (job.at_step, &verdict) {
            arrived(step, &job, ui)?;
        }
        let reported = write_report(&job, report.as_ref(), ui);
        Ok(match verdict.exit_code() {
            exit::SUCCESS if !reported => exit::SYSTEM,
            code => code,
        })
    }
}

/// A job of `--at-step` has ended. Without a debugger, it has saved the step.
fn arrived(step: u64, job: &Job, ui: &Ui) -> Result<()> {
    if job.last_step < Some(step) {
        return Err(Error::StepNotReached { step, last: job.last_step });
    }
    let saved = job.snapshot.as_ref().filter(|saved| saved.step == step && !ui.prints_json());
    saved.into_iter().for_each(|saved| println!("{}", table::path(&saved.snapshot)));
    Ok(())
}

/// The options without the command line's types.
fn plain(options: LaunchOptions, project: &Path) -> Options {
    let seconds = |time: Option<Seconds>| time.map(|Seconds(time)| time);
    Options {
        project: project.to_owned(),
        gpus: options.gpus,
        nproc: options.nproc,
        only_reporting: false,
        withheld: crate::config::variables(),
        bind: options.bind,
        max_restarts: options.max_restarts,
        backoff: seconds(options.backoff),
        grace: seconds(options.grace),
        stall_timeout: seconds(options.stall_timeout),
        restart_on_stall: options.restart_on_stall,
        show: options.show,
        stdin: options.stdin,
        nnodes: options.nnodes.map(usize::from),
        node_rank: options.node_rank.map(usize::from),
        master_addr: options.master_addr,
        master_port: options.master_port,
        join_timeout: seconds(options.join_timeout),
        secret_file: options.secret_file,
    }
}

fn print_note(note: &Note, ui: &Ui) {
    match note {
        Note::NoGpu => ui.status("Note", "no GPU found: starting one worker on the CPU; `--nproc N` starts N"),
        Note::BusyGpu { gpu, busy } => ui.warn(format!("GPU {gpu}: {busy}")),
        Note::Bindings(bindings) => ui.status("Binding", messages::bindings(bindings)),
    }
}

/// Writes the report. Returns whether it is where the user wants it, or nobody reads it there.
fn write_report(job: &Job, report: Option<&Output>, ui: &Ui) -> bool {
    let Some(Err(err)) = report.map(|to| launch::write_report(job, to)) else { return true };
    let problem = format!("can't write the report: {err}");
    // A FIFO without a reader, or whose reader is gone, changes no exit code.
    let unread = matches!(err.kind(), ErrorKind::TimedOut | ErrorKind::BrokenPipe);
    if unread || err.raw_os_error() == Some(libc::ENXIO) {
        ui.warn(problem);
        return true;
    }
    ui.error(problem);
    ui.hint(format!("the run directory has a copy: {}", job.run_dir.join(job::FILE).display()));
    false
}

/// `--dry-run`: what would be done, on stdout.
fn print_plan(plan: &LaunchPlan) {
    println!("command: {}", printable_line(&shell::join(&plan.command())));
    println!("workers: {}", plan.nproc);
    if plan.nodes.is_multi_node() {
        println!(
            "nodes:   {}, this is node {}, and the others are assumed to have {} each",
            plan.nodes.members.len(),
            plan.nodes.own,
            messages::count(plan.nproc, "worker")
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
