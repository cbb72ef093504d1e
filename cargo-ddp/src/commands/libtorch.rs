//! What commands do so that a project has its libtorch and compiled dependencies.

use std::path::Path;

use crate::editor::debug;
use crate::project::cargo::Project;
use crate::project::libtorch::{self as torch, Choice, Request};
use crate::{Result, Ui};

/// Sees that `project` is linked to a libtorch (or that the user's own is fit), and says so when that is new.
pub(super) fn ensure(project: &Path, ui: &Ui) -> Result<Choice> {
    let choice = torch::choose(&Request::default(), Some(project), ui)?;
    if let Err(err) = debug::prepare(project) {
        // Only debuggers need it.
        tracing::debug!("{err}");
    }
    if torch::own_libtorch().is_none() && torch::link(project, &choice.home)? {
        say(&choice, ui);
    }
    Ok(choice)
}

/// What makes a new project ready without waiting for anything: a link to the libtorch that is there already, and the
/// dependencies that other projects have built. What fails here, the first `cargo ddp run` reports.
pub(super) fn prepare(project: &Path, ui: &Ui) -> Result<()> {
    let Some(choice) = torch::find(&Request::default(), None, ui)? else { return Ok(()) };
    if torch::own_libtorch().is_none() && torch::link(project, &choice.home)? {
        say(&choice, ui);
    }
    reuse(&Project::find(Some(&project.join("Cargo.toml")))?, ui);
    Ok(())
}

/// Gives a project the dependencies that other projects have built.
pub(super) fn reuse(project: &Project, ui: &Ui) {
    let count = project.seed(None);
    if count > 0 {
        ui.status("Reusing", format!("{count} compiled dependencies of earlier projects"));
    }
}

/// Writes this machine's libtorch for cargo, in a project whose configuration was changed after it had been linked.
pub(super) fn relink(project: &Path) -> Result<()> {
    match torch::Home::inspect(&project.join(torch::LINK)) {
        Ok(home) if torch::own_libtorch().is_none() => torch::link(project, &home).map(drop),
        _ => Ok(()),
    }
}

/// Says which libtorch was chosen, and why.
pub(super) fn say(Choice { home, why }: &Choice, ui: &Ui) {
    let (version, flavor, path) = (torch::VERSION, home.flavor().name(), home.path().display());
    ui.status("Using", format!("libtorch {version} ({flavor}) in {path}: {why}"));
}
