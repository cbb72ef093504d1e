use std::path::PathBuf;

use super::job::Prepared;
use super::store;
use crate::cli::Run;
use crate::config as settings;
use crate::launch::{Store, StorePort};
use crate::project::cargo::{Project, Selection};
use crate::{Error, Result, Ui, shell};

/// `cargo ddp run`
pub(super) fn run(args: Run) -> Result<u8> {
    let mut selection = args.build.selection();
    let project = Project::find(selection.manifest_path.as_deref())?;
    let metadata = project.package_metadata(&selection);
    let options = settings::with_metadata(args.options.clone(), metadata)?;
    let runs = match args.options.log_dir {
        Some(dir) => Store::only(dir),
        None => store::of_project(&project, project.log_dir_of(metadata)),
    };
    selection.quiet = options.quiet;
    let ui = Ui::new().quiet(options.quiet).json(options.json);
    let job = Prepared::new(options, &project.root, &ui)?;
    project.check(&selection)?;
    super::ensure_libtorch(&project.root, &ui)?;
    let job = job.with_debugger(&project.root, &ui)?;
    build_and_launch(&project, &selection, job, args.args.into_iter().collect(), &runs, &ui)
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
            "the workers are started without cargo's runner ({}), as they are debugged",
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
