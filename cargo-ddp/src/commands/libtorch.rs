//! What commands do so that a project has its libtorch and compiled dependencies.

use std::path::Path;

use crate::editor::debug;
use crate::project::cargo::Project;
use crate::project::libtorch::{self as torch, Choice, Request};
use crate::{Result, Ui};

/// Links `project` to a libtorch, or checks the user's own.
pub(super) fn ensure(project: &Path, ui: &Ui) -> Result<Choice> {
    let choice = torch::choose(&Request::default(), Some(project), ui)?;
    if let Err(err) = debug::prepare(project) {
        // Only debuggers need it.
        tracing::debug!("{err}");
    }
    link(project, &choice, ui)?;
    Ok(choice)
}

/// Prepares a new project with what this machine already has: links it to libtorch, and gives it the dependencies that other
/// projects have built. The first `cargo ddp run` reports what fails here.
pub(super) fn prepare(project: &Path, ui: &Ui) -> Result<()> {
    let Some(choice) = torch::find(&Request::default(), None, ui)? else { return Ok(()) };
    link(project, &choice, ui)?;
    reuse(&Project::find(Some(&project.join("Cargo.toml")))?, ui);
    Ok(())
}

/// Links the project to a libtorch, unless the user's own is in use, and prints which one if that is new.
fn link(project: &Path, choice: &Choice, ui: &Ui) -> Result<()> {
    if torch::own_libtorch().is_none() && torch::link(project, &choice.home)? {
        print(choice, ui);
    }
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

/// Prints which libtorch was chosen, and why.
pub(super) fn print(Choice { home, why }: &Choice, ui: &Ui) {
    let (version, flavor, path) = (torch::VERSION, home.flavor().name(), home.path().display());
    ui.status("Using", format!("libtorch {version} ({flavor}) in {path}: {why}"));
}
