use std::ffi::OsString;
use std::num::NonZero;
use std::time::{Duration, Instant};

use ddp_contract::env;

use crate::cargo::{Project, Selection};
use crate::cli::Run;
use crate::launch::{self, LaunchPlan, Verdict};
use crate::{Error, Result, Ui, exit, gpu};

/// What to launch, before there is a program.
pub(super) struct Job {
    pub(super) nproc: usize,
    pub(super) gpus: Option<Vec<String>>,
    pub(super) max_restarts: u32,
    pub(super) grace: Duration,
    pub(super) args: Vec<OsString>,
}

/// `cargo ddp run`
pub(super) fn run(args: Run, ui: &Ui) -> Result<u8> {
    // What can be wrong is found before the build, which may take minutes.
    let (nproc, gpus) = workers(args.gpus.as_deref(), args.nproc, ui)?;
    let selection = args.build.selection();
    let project = Project::find(selection.manifest_path.as_deref())?;
    super::ensure_libtorch(&project.root, ui)?;
    let job = Job { nproc, gpus, max_restarts: args.max_restarts, grace: args.grace, args: args.args };
    build_and_launch(&project, &selection, job, ui)
}

/// Builds the selection, runs it to its end, and gives the exit code.
pub(super) fn build_and_launch(project: &Project, selection: &Selection, job: Job, ui: &Ui) -> Result<u8> {
    let program = project.build(selection)?;
    let (number, run_dir) = launch::new_run(&project.target)?;
    let plan = LaunchPlan {
        program,
        args: job.args,
        nproc: job.nproc,
        gpus: job.gpus,
        max_restarts: job.max_restarts,
        grace: job.grace,
        run_id: format!("run-{number}-{}", std::process::id()),
        run_dir,
        omp_num_threads: omp_num_threads(job.nproc),
    };
    tracing::debug!(?plan, "launching");
    let start = Instant::now();
    let verdict = launch::launch(&plan, ui)?;
    // Only failures left anything there.
    let _ = std::fs::remove_dir(&plan.run_dir);
    Ok(match verdict {
        Verdict::Done { restarts } => {
            let restarts = match restarts {
                0 => String::new(),
                1 => ", 1 restart".into(),
                n => format!(", {n} restarts"),
            };
            ui.status("Finished", format!("{} in {:.1} s{restarts}", count(plan.nproc), start.elapsed().as_secs_f64()));
            exit::SUCCESS
        }
        Verdict::Preempted { snapshot } => {
            let place = snapshot.map(|snapshot| format!(" in {}", snapshot.display())).unwrap_or_default();
            ui.status("Stopped", format!("as asked, with everything saved{place}; run it again to go on"));
            exit::PREEMPTED
        }
        Verdict::Failed(_) => exit::WORKER_FAILED,
        Verdict::Stopped(signal) => exit::signalled(signal),
    })
}

/// How many workers, and on which GPUs.
fn workers(list: Option<&str>, nproc: Option<u16>, ui: &Ui) -> Result<(usize, Option<Vec<String>>)> {
    let visible = std::env::var(env::CUDA_VISIBLE_DEVICES).ok();
    if let Some(list) = list {
        let gpus = gpu::select(list, gpu::count()?, visible.as_deref())?;
        return Ok((gpus.len(), Some(gpus)));
    }
    let there = gpu::count().map(|count| gpu::available(count, visible.as_deref())).unwrap_or_default();
    match nproc.map(usize::from) {
        Some(nproc) if there.is_empty() => Ok((nproc, None)),
        Some(nproc) if nproc <= there.len() => Ok((nproc, Some(there[..nproc].to_vec()))),
        Some(nproc) => {
            let problem = format!("{nproc} workers need {nproc} GPUs, and there are {}", there.len());
            Err(Error::BadGpuList { list: there.join(","), problem })
        }
        None if there.is_empty() => {
            ui.status("Note", "there is no GPU here, so there will be one worker on the CPU; `--nproc N` starts N");
            Ok((1, None))
        }
        None => Ok((there.len(), Some(there))),
    }
}

/// The cores shared out among the workers, unless the user has decided.
fn omp_num_threads(nproc: usize) -> Option<usize> {
    if std::env::var_os(env::OMP_NUM_THREADS).is_some() {
        return None;
    }
    let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
    Some((cores / nproc).max(1))
}

fn count(nproc: usize) -> String {
    if nproc == 1 { "1 worker".into() } else { format!("{nproc} workers") }
}
