use crate::cargo::Project;
use crate::cli::BuildArgs;
use crate::{Result, Ui, debug, exit};

/// `cargo ddp build`: what `run` does before it launches.
pub(super) fn build(args: &BuildArgs, ui: &Ui) -> Result<u8> {
    let selection = args.build.selection();
    let project = Project::find(selection.manifest_path.as_deref())?;
    super::ensure_libtorch(&project.root, ui)?;
    debug::prepare(&project.root)?;
    let program = project.build(&selection)?;
    println!("{}", program.display());
    Ok(exit::SUCCESS)
}
