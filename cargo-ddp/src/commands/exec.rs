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
pub(super) fn environment(ui: &Ui) -> Result<[(&'static str, OsString); 1]> {
    let libtorch = match Project::find(None) {
        Ok(project) => {
            super::ensure_libtorch(&project.root, ui)?;
            torch::libtorch_for(&project.root)
        }
        // Outside of a project there is nothing to link.
        Err(Error::NoProject(_)) => torch::choose(&Request::default(), None, ui)?.home.path().into(),
        Err(err) => return Err(err),
    };
    Ok([("LIBTORCH", libtorch)])
}
