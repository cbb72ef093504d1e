use std::os::unix::process::CommandExt;
use std::process::Command;

use crate::cargo::Project;
use crate::cli::Exec;
use crate::{Error, Result, Ui, exit, torch};

/// `cargo ddp exec -- COMMAND`: this process becomes the command, so signals and exit codes are its own.
pub(super) fn exec(args: Exec, ui: &Ui) -> Result<u8> {
    let project = Project::find(None)?;
    super::ensure_libtorch(&project.root, ui)?;
    let mut words = args.command.into_iter();
    let program = words.next().unwrap_or_default();
    let mut command = Command::new(&program);
    command.args(words).env("LIBTORCH", torch::libtorch_for(&project.root));
    let source = command.exec();
    let err = Error::Start { program: program.into(), source };
    if matches!(&err, Error::Start { source, .. } if source.kind() == std::io::ErrorKind::NotFound) {
        ui.error(err.to_string());
        return Ok(exit::COMMAND_NOT_FOUND);
    }
    Err(err)
}
