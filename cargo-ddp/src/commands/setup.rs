//! `cargo ddp setup`: finds or installs libtorch, and links the project to it.

use crate::cli::Setup;
use crate::editor::debug;
use crate::project::cargo::Project;
use crate::project::libtorch as torch;
use crate::project::shared;
use crate::ui::stdout;
use crate::{Error, Result, Ui, exit};

/// `cargo ddp setup`: in a project, links it; elsewhere, only fills the cache.
pub(super) fn setup(args: &Setup, ui: &Ui) -> Result<u8> {
    let project = match Project::find(None) {
        Ok(project) => Some(project),
        Err(Error::NoProject(_)) => None,
        Err(err) => return Err(err),
    };
    let choice = torch::choose(&args.request(), project.as_ref().map(|project| project.root.as_path()), ui)?;
    super::libtorch::print(&choice, ui);
    if let Some(project) = &project {
        debug::prepare(&project.root)?;
    }
    match &project {
        // With a LIBTORCH of the user's own, cargo does not look at the link.
        Some(_) if torch::own_libtorch().is_some() => {}
        Some(project) => {
            if torch::link(&project.root, &choice.home)? {
                ui.status("Linked", format!("{}", project.root.join(torch::LINK).display()));
            }
        }
        None => ui.status("Note", "no cargo project here to link; run `cargo ddp setup` again in a project"),
    }
    if let Some(project) = &project {
        super::libtorch::reuse(project, ui);
    }
    prune(ui);
    println!("{}", stdout::shown(&choice.home.path().to_string_lossy()));
    Ok(exit::SUCCESS)
}

/// Compiled dependencies that nobody uses any more.
fn prune(ui: &Ui) {
    match shared::prune() {
        Ok(0) => {}
        Ok(bytes) => {
            let freed = bytes as f64 / 1e6;
            ui.status("Removed", format!("{freed:.0} MB of compiled dependencies that no build has used for 30 days"));
        }
        Err(err) => tracing::debug!("compiled dependencies were not pruned: {err}"),
    }
}
