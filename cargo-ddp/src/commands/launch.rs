//! `cargo ddp launch -- PROGRAM`: runs any program as the workers of a job, without a build.

use std::path::{Path, PathBuf};

use super::job::Prepared;
use crate::cli::Launch;
use crate::config::Combined;
use crate::launch::{Store, StorePort};
use crate::{Error, Result, Ui};

/// `cargo ddp launch -- PROGRAM`: as `run`, without a build.
pub(super) fn launch(args: Launch, ui: &Ui) -> Result<u8> {
    let combined = Combined::of_flags(&args.options)?;
    let options = combined.options.clone();
    let ui = ui.clone().quiet(options.quiet).json(options.json);
    let mut words = args.command.into_iter();
    let name = PathBuf::from(words.next().unwrap_or_default());
    let program = find(&name)?;
    let here = std::env::current_dir().map_err(Error::system("can't find the current folder"))?;
    let runs = options.log_dir.clone().map_or_else(Store::here, Store::only);
    let job = Prepared::of_any_program(options, &here, &ui).map_err(|err| combined.locate(err))?;
    let job = job.with_debugger(&here, &ui)?;
    job.launch(program, words.collect(), &runs, StorePort::Reserved, &ui)
}

/// The program that a shell would run.
fn find(name: &Path) -> Result<PathBuf> {
    which::which(name).map_err(|_| {
        let denied = || std::io::Error::from(rustix::io::Errno::ACCESS);
        // A path to something that is there and can't be run.
        if name.components().count() > 1 && name.exists() {
            Error::NotExecutable { program: name.to_owned(), source: denied() }
        } else {
            Error::NoProgram(name.to_owned())
        }
    })
}
