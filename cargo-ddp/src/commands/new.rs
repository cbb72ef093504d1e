//! `cargo ddp new`: creates a project from a template, or lists the templates.

use crate::cli::New;
use crate::scaffold::{self, Plan};
use crate::{Result, Ui, exit, shell};

/// `cargo ddp new PATH`, `cargo ddp new --list`
pub(super) fn new(args: &New, ui: &Ui) -> Result<u8> {
    let Some(path) = args.path.as_deref().filter(|_| !args.list) else {
        for template in scaffold::TEMPLATES {
            println!("{:<8} {}", template.name, template.about);
        }
        return Ok(exit::SUCCESS);
    };
    let plan = Plan::new(path, args.name.as_deref(), &args.template)?;
    let made = scaffold::scaffold(&plan, super::vscode::default_workers())?;
    ui.status("Created", format!("`{}` from the template `{}` in {}", plan.name, args.template, path.display()));
    if made.standalone {
        ui.status(
            "Note",
            "the project is inside another workspace, so it is its own workspace (see the end of its Cargo.toml)",
        );
    }
    if let Err(err) = super::libtorch::prepare(&plan.path, ui) {
        tracing::debug!("{err}");
    }
    ui.status("Next", format!("cd {} && cargo ddp run --nproc 2", shell::quote_path(path)));
    Ok(exit::SUCCESS)
}
