use std::path::{Path, PathBuf};

use crate::cargo::Project;
use crate::scaffold::{self, EXAMPLE};
use crate::vscode;
use crate::{Result, Ui, cli, exit};

/// `cargo ddp init`
pub(super) fn init(args: &cli::Init, ui: &Ui) -> Result<u8> {
    let init = scaffold::Init { folder: args.path.clone(), join_workspace: args.workspace };
    let mut done = scaffold::init(&init)?;
    let edited = editor(&args.path, ui)?;
    done.changes.extend(edited.into_iter().map(|path| (path, "debugs every rank".into())));
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
    } else if done.changes.iter().any(|(path, _)| path.ends_with(format!("examples/{EXAMPLE}.rs"))) {
        ui.status("Next", "cargo ddp run --example train --nproc 2");
    }
    Ok(exit::SUCCESS)
}

/// `.vscode/` for the crate's binaries, and for the example to begin with. Gives the files that were written.
fn editor(folder: &Path, ui: &Ui) -> Result<Vec<PathBuf>> {
    let project = Project::find(Some(&folder.join("Cargo.toml")))?;
    let trainable: Vec<_> = super::vscode::trainable(&project)?.into_iter().map(|(_, target)| target).collect();
    let wanted = trainable.iter().filter(|target| !target.on_request || target.example && target.name == EXAMPLE);
    let only = wanted.map(|target| target.label.clone()).collect();
    let request = vscode::Request { only, ..vscode::Request::new(super::vscode::default_workers()) };
    let place = super::vscode::place(&project, ui)?;
    let plan = vscode::Project { target: place.target, platform: place.platform, trainable };
    let files = vscode::plan(&project.root, &plan, &request)?.files;
    let stale: Vec<_> = files.into_iter().filter(vscode::File::is_stale).collect();
    stale.iter().try_for_each(vscode::File::write)?;
    Ok(stale.into_iter().map(|file| file.path).collect())
}
