//! `cargo ddp demo`: setup, a new project, a build and a training run in one command.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use ddp_contract::text::printable_line;
use ddp_contract::{file, snapshot};

use super::job::Prepared;
use super::{run, store, table};
use crate::cli::Demo;
use crate::config::LaunchOptions;
use crate::launch::plan::Nproc;
use crate::machine::gpus as gpu;
use crate::project::cargo::{Project, Selection};
use crate::scaffold::{self, Plan};
use crate::{Error, Result, Ui, exit, shell};

/// `cargo ddp demo`: everything once.
pub(super) fn demo(args: &Demo, ui: &Ui) -> Result<u8> {
    let folder = std::path::absolute(&args.path).map_err(Error::system("can't find the current folder"))?;
    if is_earlier_demo(&folder) {
        ui.status("Reusing", format!("the project in {}", folder.display()));
    } else {
        let plan = Plan::new(&folder, None, "linear")?;
        scaffold::scaffold(&plan, super::vscode::default_workers())?;
        ui.status("Created", format!("a project from the template `linear` in {}", folder.display()));
    }

    let project = Project::find(Some(&folder.join("Cargo.toml")))?;
    super::libtorch::ensure(&project.root, ui)?;
    // An earlier demo's training is finished: this one gets its own folder.
    let snapshots = fresh_snapshot_folder(&folder);
    let gpus = gpu::list().map(|gpus| gpu::available(&gpus, visible().as_deref())).unwrap_or_default();
    let nproc = gpus.is_empty().then_some(Nproc::Count(2));
    let job = Prepared::new(LaunchOptions { nproc, ..LaunchOptions::default() }, &project.root, ui)?;
    ui.status("Building", "the project (the first time takes a few minutes: libtorch's bindings are C++)");
    std::env::set_current_dir(&folder).map_err(Error::system(format!("can't go to {}", folder.display())))?;
    let nproc = job.nproc();
    let runs = store::of_project(&project, vec![]);
    let code = run::build_and_launch(&project, &Selection::default(), job, args_of(&snapshots), &runs, ui)?;
    if code == exit::SUCCESS {
        let dir = folder.join(&snapshots);
        let newest = snapshot::list(&dir).map_err(Error::system(format!("can't read {}", dir.display())))?;
        let newest = newest.first().map_or("none".into(), |newest| table::path(newest));
        println!("snapshot: {newest}");
        let folder = shell::quote_path(&args.path);
        println!("next:     cd {} && cargo ddp run --nproc {nproc} -- --total-epochs 40", printable_line(&folder));
    }
    Ok(code)
}

fn args_of(snapshots: &Path) -> Vec<OsString> {
    vec!["--snapshots".into(), snapshots.into()]
}

fn visible() -> Option<String> {
    std::env::var(ddp_contract::env::CUDA_VISIBLE_DEVICES).ok()
}

/// Whether a demo made this project before.
fn is_earlier_demo(folder: &Path) -> bool {
    let readme = file::read(&folder.join("README.md"), file::SMALL).unwrap_or_default();
    String::from_utf8_lossy(&readme).contains("cargo ddp run")
        && folder.join("Cargo.toml").exists()
        && folder.join("src/main.rs").exists()
}

fn fresh_snapshot_folder(folder: &Path) -> PathBuf {
    let names = std::iter::once("snapshots".to_owned()).chain((2..).map(|n| format!("snapshots/demo-{n}")));
    names.map(PathBuf::from).find(|name| no_snapshots(&folder.join(name))).unwrap_or_default()
}

fn no_snapshots(dir: &Path) -> bool {
    snapshot::list(dir).is_ok_and(|found| found.is_empty())
}
