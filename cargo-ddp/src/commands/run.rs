use std::path::PathBuf;

use super::job::Job;
use crate::cargo::{Project, Selection};
use crate::cli::Run;
use crate::launch::{Store, StorePort};
use crate::{Result, Ui, settings};

/// `cargo ddp run`
pub(super) fn run(args: Run) -> Result<u8> {
    let mut selection = args.build.selection();
    let project = Project::find(selection.manifest_path.as_deref())?;
    let metadata = project.package_metadata(&selection);
    let options = settings::with_metadata(args.options.clone(), metadata)?;
    let runs = match args.options.log_dir {
        Some(dir) => Store::only(dir),
        None => project.store(project.log_dir_of(metadata)),
    };
    selection.quiet = options.quiet;
    let ui = Ui::new().quiet(options.quiet).json(options.json);
    let job = Job::new(options, &ui)?;
    project.check(&selection)?;
    super::ensure_libtorch(&project.root, &ui)?;
    let job = job.debugged(&project.root, &ui)?;
    build_and_launch(&project, &selection, job, args.args.into_iter().collect(), &runs, &ui)
}

/// Builds the selection, runs it to its end, and gives the exit code.
pub(super) fn build_and_launch(
    project: &Project,
    selection: &Selection,
    job: Job,
    args: Vec<std::ffi::OsString>,
    runs: &Store,
    ui: &Ui,
) -> Result<u8> {
    let program: PathBuf = project.build(selection)?;
    job.launch(program, args, runs, StorePort::Inherited, ui)
}
