use crate::cli::Setup;
use crate::editor::debug;
use crate::project::cargo::Project;
use crate::project::libtorch as torch;
use crate::ui::stdout;
use crate::{Error, Result, Ui, exit};

/// `cargo ddp setup`: in a project, links it; elsewhere, only fills the cache.
pub(super) fn setup(args: &Setup, ui: &Ui) -> Result<u8> {
    let project = match Project::find(None) {
        Ok(project) => Some(project.root),
        Err(Error::NoProject(_)) => None,
        Err(err) => return Err(err),
    };
    let choice = torch::choose(&args.request(), project.as_deref(), ui)?;
    super::say(&choice, ui);
    if let Some(project) = &project {
        debug::prepare(project)?;
    }
    match project {
        // With a LIBTORCH of the user's own, cargo does not look at the link.
        Some(_) if torch::own_libtorch().is_some() => {}
        Some(project) => {
            if torch::link(&project, &choice.home)? {
                ui.status("Linked", format!("{}", project.join(torch::LINK).display()));
            }
        }
        None => ui.status("Note", "there is no cargo project here to link; run it again in one"),
    }
    println!("{}", stdout::shown(&choice.home.path().to_string_lossy()));
    Ok(exit::SUCCESS)
}
