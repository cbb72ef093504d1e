//! `cargo ddp run`: builds a target and runs it as the workers of a job.

use std::path::PathBuf;

use super::at_step::Destination;
use super::job::Prepared;
use super::store;
use crate::cli::{self, Run};
use crate::config::Combined;
use crate::launch::{Store, StorePort};
use crate::project::cargo::{Project, Selection};
use crate::{Error, Result, Ui, shell};

/// `cargo ddp run`
pub(super) fn run(args: Run, ui: &Ui) -> Result<u8> {
    let mut selection = args.build.selection();
    selection.flags.extend(cli::flags_for_cargo(ui.color()));
    let project = Project::find(selection.manifest_path.as_deref())?;
    let tables = project.settings_of_selection(&selection);
    let combined = Combined::of_project(&args.options, args.preset.as_deref(), &tables)?;
    let mut options = combined.options.clone();
    // New runs, and earlier ones: a package of the workspace may keep its runs elsewhere.
    let (runs, earlier) = match &options.log_dir {
        Some(dir) if !combined.is_from_manifest("log-dir") => (Store::only(dir.clone()), Store::only(dir.clone())),
        log_dir => {
            let runs = store::of_project(&project, log_dir.iter().cloned().collect());
            (runs, store::of_project(&project, project.log_dirs()))
        }
    };
    selection.quiet = options.quiet;
    let ui = ui.clone().quiet(options.quiet).json(options.json);
    let find = |step| Destination::find(&project, &mut selection, &earlier, args.run.as_deref(), step, &ui);
    let destination = args.at_step.map(find).transpose()?;
    if let Some(destination) = &destination {
        destination.adjust(&mut options, &combined)?;
    }
    let job = Prepared::new(options, &project.root, &ui).map_err(|err| combined.locate(err))?;
    project.check(&selection)?;
    super::libtorch::ensure(&project.root, &ui)?;
    let job = job.with_debugger(&project.root, &ui)?;
    let (job, args) = match destination {
        Some(destination) => {
            destination.announce(job.nproc(), &ui);
            let args = destination.args(args.args);
            (job.with_destination(destination), args)
        }
        None => (job, args.args),
    };
    build_and_launch(&project, &selection, job, args, &runs, &ui)
}

/// Builds the selection, runs it to its end, and gives the exit code.
pub(super) fn build_and_launch(
    project: &Project,
    selection: &Selection,
    job: Prepared,
    args: Vec<std::ffi::OsString>,
    runs: &Store,
    ui: &Ui,
) -> Result<u8> {
    let mut runner = project.runner(selection)?;
    if job.has_debugger() && !runner.is_empty() {
        let words: Vec<_> = runner.drain(..).map(|word| word.to_string_lossy().into_owned()).collect();
        ui.warn(format!(
            "starting workers without cargo's runner ({}), because they are debugged",
            shell::join(&words)
        ));
    }
    let mut command = runner.into_iter().chain([project.build(selection)?.into_os_string()]).chain(args);
    let program = PathBuf::from(command.next().unwrap_or_default());
    job.launch(found(program)?, command.collect(), runs, StorePort::Inherited, ui)
}

/// A runner's name is looked up once, rather than by each rank.
fn found(program: PathBuf) -> Result<PathBuf> {
    if program.is_absolute() { Ok(program) } else { which::which(&program).map_err(|_| Error::NoProgram(program)) }
}
