//! `cargo ddp exec -- COMMAND`: runs a command with libtorch in its environment.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::Command;

use crate::cli::Exec;
use crate::os::binary::start_without_shell;
use crate::project::cargo::Project;
use crate::project::libtorch::{self as torch, Request};
use crate::{Error, Result, Ui};

/// `cargo ddp exec -- COMMAND`: this process becomes the command, so signals and exit codes are its own.
pub(super) fn exec(args: Exec, ui: &Ui) -> Result<u8> {
    let mut words = args.command.into_iter();
    let program = words.next().unwrap_or_default();
    let mut command = Command::new(&program);
    command.args(words).envs(environment(ui)?);
    start_without_shell(&mut command);
    let source = command.exec();
    Err(Error::start(program.as_ref(), source))
}

/// What is set for a command: libtorch is there then, and the project linked to it.
pub(super) fn environment(ui: &Ui) -> Result<Vec<(&'static str, OsString)>> {
    let project = match Project::find(None) {
        Ok(project) => project,
        // Outside of a project there is nothing to link.
        Err(Error::NoProject(_)) => {
            let choice = torch::choose(&Request::default(), None, ui)?;
            return Ok(vec![("LIBTORCH", choice.home.path().into())]);
        }
        Err(err) => return Err(err),
    };
    super::libtorch::ensure(&project.root, ui)?;
    let libtorch = torch::libtorch_for(&project.root);
    let mut variables = vec![("LIBTORCH", libtorch.clone())];
    if torch::own_libtorch().is_none() && torch::is_included(&project.root) {
        // As cargo sets it: a `cargo ddp` in there does not take it for the user's own.
        variables.push((torch::VARIABLE, libtorch));
    }
    Ok(variables)
}
