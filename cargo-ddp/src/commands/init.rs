use std::path::Path;

use crate::scaffold;
use crate::{Result, Ui, cli, exit};

/// `cargo ddp init`
pub(super) fn init(args: &cli::Init, ui: &Ui) -> Result<u8> {
    let init = scaffold::Init { folder: args.path.clone(), join_workspace: args.workspace };
    let done = scaffold::init(&init)?;
    let here = std::env::current_dir().unwrap_or_default();
    for (path, what) in &done.changes {
        let path = path.strip_prefix(&here).unwrap_or(path);
        ui.status("Wrote", format!("{}: {what}", path.display()));
    }
    for note in &done.notes {
        ui.status("Note", note);
    }
    if done.changes.is_empty() {
        ui.status("Unchanged", "everything that training needs is there");
    } else if done.changes.iter().any(|(path, _)| path.ends_with(Path::new("examples/train.rs"))) {
        ui.status("Next", "cargo ddp run --example train --nproc 2");
    }
    Ok(exit::SUCCESS)
}
