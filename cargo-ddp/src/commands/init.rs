//! `cargo ddp init`: adds to an existing crate what it needs to train.

use std::path::Path;

use crate::editor::vscode;
use crate::project::cargo::Project;
use crate::scaffold::{self, EXAMPLE};
use crate::{Result, Ui, cli, exit};

/// `cargo ddp init`
pub(super) fn init(args: &cli::Init, ui: &Ui) -> Result<u8> {
    let init = scaffold::Init { folder: args.path.clone(), join_workspace: args.workspace };
    let mut done = scaffold::init(&init)?;
    editor(&args.path, &mut done, ui).inspect_err(|_| done.undo())?;
    super::libtorch::relink(&Project::find(Some(&args.path.join("Cargo.toml")))?.root)?;
    let here = std::env::current_dir().unwrap_or_default();
    for (path, what) in &done.changes {
        let path = path.strip_prefix(&here).unwrap_or(path);
        ui.status("Wrote", format!("{}: {what}", path.display()));
    }
    for note in &done.notes {
        ui.status("Note", note);
    }
    if done.changes.is_empty() {
        ui.status("Unchanged", "the crate already has everything that training needs");
    } else if done.changes.iter().any(|(path, _)| path.ends_with(format!("examples/{EXAMPLE}.rs"))) {
        ui.status("Next", "cargo ddp run --example train --nproc 2");
    }
    Ok(exit::SUCCESS)
}

/// `.vscode/` for the crate's binaries, and for the example to begin with.
fn editor(folder: &Path, done: &mut scaffold::Done, ui: &Ui) -> Result<()> {
    let project = Project::find(Some(&folder.join("Cargo.toml")))?;
    let trainable: Vec<_> = super::vscode::trainable(&project)?.into_iter().map(|(_, target)| target).collect();
    let wanted = trainable.iter().filter(|target| !target.on_request || target.example && target.name == EXAMPLE);
    let only = wanted.map(|target| target.label.clone()).collect();
    let request = vscode::Request { only, ..vscode::Request::new(super::vscode::default_workers()) };
    let place = super::vscode::place(&project, ui)?;
    let plan = vscode::Project { target: place.target, platform: place.platform, trainable };
    let files = vscode::plan(&project.root, &plan, &request)?.files;
    files.iter().filter(|file| file.is_stale()).try_for_each(|file| done.write(file, "debugs every rank"))
}
