use crate::cli::New;
use crate::scaffold::{self, Plan};
use crate::{Result, Ui, exit};

/// `cargo ddp new PATH`
pub(super) fn new(args: &New, ui: &Ui) -> Result<u8> {
    let plan = Plan::new(&args.path, args.name.as_deref(), &args.template)?;
    let made = scaffold::scaffold(&plan, super::vscode::default_workers())?;
    ui.status("Created", format!("`{}` from the template `{}` in {}", plan.name, args.template, args.path.display()));
    if made.standalone {
        ui.status("Note", "it lies inside another workspace, and is one of its own (see the end of its Cargo.toml)");
    }
    ui.status("Next", format!("cd {} && cargo ddp run --nproc 2", args.path.display()));
    Ok(exit::SUCCESS)
}
