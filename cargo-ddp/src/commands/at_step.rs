//! `cargo ddp run --at-step N`: the earlier run to go to a step of, and the job that does.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use ddp_contract::snapshot::{self, ValidSnapshot};

use crate::config::{Combined, LaunchOptions};
use crate::launch::plan::Nproc;
use crate::launch::{LATEST, Replay, Run, Store, Unreachable, arguments, workers};
use crate::project::cargo::{Project, Selection};
use crate::ui::messages::{count, display_path};
use crate::{Error, Result, Ui, shell};

/// cargo leaves it in a folder for what is built.
const CARGO_FILE: &str = ".rustc_info.json";

/// A step of an earlier run, and where to start.
pub(super) struct Destination {
    replay: Replay,
    program: String,
    /// `None`: from scratch.
    snapshot: Option<ValidSnapshot>,
}

impl Destination {
    /// Finds it. Selects the program of `run`, if that is given and no program is selected.
    pub(super) fn find(
        project: &Project,
        selection: &mut Selection,
        store: &Store,
        run: Option<&str>,
        step: u64,
        ui: &Ui,
    ) -> Result<Self> {
        let (runs, last) = match run {
            Some(run) => {
                let (runs, last) = named(store, run)?;
                select(selection, project, &last)?;
                (runs, Some(last))
            }
            None => (store.history(), None),
        };
        let program = project.program_of(selection)?.or_else(|| selection.target.clone()).unwrap_or_default();
        let is_of_program = |run: &&Run| arguments(&run.job, &program).is_some();
        let has_steps = |run: &&Run| run.job.at_step.is_none() && run.last_step().is_some_and(|step| step > 0);
        let last = match last {
            Some(last) if !is_of_program(&&last) => return Err(Error::OtherProgram { run: last.number, program }),
            Some(last) => last,
            None => {
                let newest = runs.iter().rev().filter(has_steps).find(is_of_program).cloned();
                newest.ok_or_else(|| no_earlier_run(store, &program))?
            }
        };
        let replay = Replay::find(&runs, &last, &program, step).map_err(|problem| unreachable(&last, step, problem))?;
        let snapshot = newest_valid(&replay.snapshots, ui);
        if snapshot.is_none() && !replay.from_scratch {
            return Err(unreachable(&last, step, Unreachable::NoSnapshot { reachable: None }));
        }
        Ok(Self { replay, program, snapshot })
    }

    /// The step.
    pub(super) fn step(&self) -> u64 {
        self.replay.step
    }

    /// Where the earlier run was started, if that folder still exists.
    pub(super) fn folder(&self) -> Option<&Path> {
        Some(self.replay.run.job.folder.as_path()).filter(|folder| folder.is_dir())
    }

    /// The snapshot to start from.
    pub(super) fn snapshot(&self) -> Option<&ValidSnapshot> {
        self.snapshot.as_ref()
    }

    /// The options of the job: the workers of the earlier run, and no restarts, where no flag or variable decides.
    pub(super) fn adjust(&self, options: &mut LaunchOptions, combined: &Combined) -> Result<()> {
        if options.nnodes.is_some_and(|nnodes| nnodes > 1) {
            let problem = "the job runs on one node; drop --nnodes".into();
            return Err(Error::BadOption { option: "at-step", problem });
        }
        if !combined.is_of_this_job("nproc") && !combined.is_of_this_job("gpus") {
            let workers = u16::try_from(workers(&self.replay.run)).unwrap_or(u16::MAX);
            (options.nproc, options.gpus) = (Some(Nproc::Count(workers)), None);
        }
        if !combined.is_of_this_job("max-restarts") {
            options.max_restarts = Some(0);
        }
        Ok(())
    }

    /// The arguments of the earlier run, unless there are others.
    pub(super) fn args(&self, given: Vec<OsString>) -> Vec<OsString> {
        if !given.is_empty() {
            return given;
        }
        arguments(&self.replay.run.job, &self.program).unwrap_or_default().iter().map(OsString::from).collect()
    }

    /// Prints what the job is going to do.
    pub(super) fn announce(&self, nproc: usize, ui: &Ui) {
        let Replay { run, step, .. } = &self.replay;
        let before = workers(run);
        if nproc != before {
            ui.warn(format!(
                "run {} had {} at step {step}; with {nproc}, the results differ",
                run.number,
                count(before, "worker")
            ));
        }
        let (first, from) = match &self.snapshot {
            Some(snapshot) => (snapshot.manifest.step + 1, display_path(&snapshot.folder)),
            None => (1, "scratch".into()),
        };
        let steps = if first == *step { format!("step {step}") } else { format!("steps {first} to {step}") };
        let workers = count(nproc, "worker");
        ui.status("Replaying", format!("{steps} of run {} with {workers}, from {from}", run.number));
    }
}

/// Prints the command that goes to a step of `run`, which the command line calls `name`. Nothing where that is not possible: for
/// a program that cargo did not build, and a run without steps.
pub(super) fn hint(run: &Run, name: &str, step: Option<u64>, ui: &Ui) {
    let is_built = |word: &String| Path::new(word).ancestors().any(|folder| folder.join(CARGO_FILE).exists());
    if run.job.start.is_some()
        && run.job.at_step.is_none()
        && run.job.command.iter().any(is_built)
        && let Some(step) = step.filter(|step| *step > 0)
    {
        let run = shell::quote_path(Path::new(name));
        ui.hint(format!("to debug step {step}, run `cargo ddp run --at-step {step} --run {run}`"));
    }
}

/// The run of this name, and all runs next to it, oldest first.
fn named(store: &Store, run: &str) -> Result<(Vec<Run>, Run)> {
    let known = store.history();
    if run == LATEST || run.parse::<u64>().is_ok() {
        let folder = store.find(run).and_then(|folder| folder.canonicalize().ok());
        let is_it = |run: &&Run| run.folder.canonicalize().ok() == folder;
        let found = folder.as_ref().and_then(|_| known.iter().find(is_it).cloned());
        let found = found.ok_or_else(|| not_found(store, run, &known))?;
        return Ok((known, found));
    }
    let folder = PathBuf::from(run).canonicalize().ok();
    let next_to_it =
        folder.as_ref().and_then(|folder| folder.parent()).map(|dir| Store::only(dir.to_owned()).history());
    let found = next_to_it.into_iter().chain([known.clone()]).find_map(|runs| {
        let is_it = |one: &&Run| one.job.run == run || folder.is_some() && one.folder.canonicalize().ok() == folder;
        let found = runs.iter().find(is_it)?.clone();
        Some((runs, found))
    });
    found.ok_or_else(|| not_found(store, run, &known))
}

fn not_found(store: &Store, run: &str, known: &[Run]) -> Error {
    let dirs = store.dirs().into_iter().map(Path::to_owned).collect();
    Error::NoRunFolder { run: run.into(), runs: dirs, known: known.iter().map(|run| run.number.to_string()).collect() }
}

/// Selects the program that the run has run, unless the command line selects one.
fn select(selection: &mut Selection, project: &Project, run: &Run) -> Result<()> {
    if selection.target.is_some() {
        return Ok(());
    }
    let program = run.job.command.iter().find_map(|word| {
        let path = Path::new(word);
        let name = path.file_name()?.to_str()?;
        let example = path.parent().is_some_and(|folder| folder.ends_with("examples"));
        project.has_program(name, example).then_some((name, example))
    });
    let (name, example) = program.ok_or(Error::OtherProgram { run: run.number, program: String::new() })?;
    selection.flags.extend([if example { "--example" } else { "--bin" }.into(), name.into()]);
    (selection.target, selection.example) = (Some(name.to_owned()), example);
    Ok(())
}

fn no_earlier_run(store: &Store, program: &str) -> Error {
    let runs = store.dirs().into_iter().map(Path::to_owned).collect();
    Error::NoEarlierRun { program: program.to_owned(), runs }
}

fn unreachable(run: &Run, step: u64, problem: Unreachable) -> Error {
    match problem {
        Unreachable::NotExecuted { last } => Error::NoSuchStep { run: run.number, step, last },
        Unreachable::NoSnapshot { reachable } => Error::StepOutOfReach { run: run.number, step, reachable },
    }
}

fn newest_valid(snapshots: &[PathBuf], ui: &Ui) -> Option<ValidSnapshot> {
    snapshots.iter().find_map(|folder| match snapshot::valid(folder) {
        Ok(valid) => valid,
        Err(damage) => {
            ui.warn(format!("skipping snapshot {}: {damage}", folder.display()));
            None
        }
    })
}
