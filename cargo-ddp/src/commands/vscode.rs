//! `cargo ddp vscode`: flags become a request to `editor::vscode`; the result is written, printed or checked.

use crate::cli::Vscode;
use crate::config;
use crate::editor::debug;
use crate::editor::vscode::{self, File, Place, Request};
use crate::launch::plan::Nproc;
use crate::machine::gpus as gpu;
use crate::project::cargo::{Project, TARGET_DIR_VARIABLES};
use crate::project::trainable::{Trainable, Workers};
use crate::ui::stdout;
use crate::{Error, Result, Ui, exit};

/// `cargo ddp vscode`
pub(super) fn vscode(args: &Vscode, ui: &Ui) -> Result<u8> {
    let project = Project::find(args.manifest_path.as_deref())?;
    let mut trainable = trainable(&project)?;
    let mut only = args.bin.clone();
    if let Some(package) = &args.package {
        // Of a name that is there twice, this package's.
        let (chosen, others): (Vec<_>, Vec<_>) = trainable.into_iter().partition(|(name, _)| name == package);
        if chosen.is_empty() && !others.is_empty() {
            let mut known: Vec<String> = others.into_iter().map(|(name, _)| name).collect();
            known.dedup();
            return Err(Error::NoTarget { name: package.clone(), known });
        }
        if only.is_empty() {
            only.extend(chosen.iter().filter(|(_, target)| !target.on_request).map(|(_, target)| target.label.clone()));
            if only.is_empty() {
                return Err(Error::NothingToDebug);
            }
        }
        for name in &mut only {
            if let Some((_, target)) = chosen.iter().find(|(_, target)| target.name == *name) {
                name.clone_from(&target.label);
            }
        }
        trainable = chosen.into_iter().chain(others).collect();
    }
    let request = Request {
        debugger: args.debugger,
        workers: workers(args.gpus.as_deref(), args.nproc)?,
        default_workers: default_workers(),
        only,
        release: args.release,
    };
    let trainable = trainable.into_iter().map(|(_, target)| target).collect();
    let Place { target, platform, .. } = place(&project, ui)?;
    let plan = vscode::plan(&project.root, &vscode::Project { target, platform, trainable }, &request)?;

    let stale: Vec<&File> = plan.files.iter().filter(|file| file.is_stale()).collect();
    let shown = |file: &File| file.path.strip_prefix(&project.root).unwrap_or(&file.path).to_owned();
    if args.print {
        for file in &plan.files {
            let text = format!("// {}\n{}", shown(file).display(), file.after.as_deref().unwrap_or_default());
            print!("{}", stdout::shown(&text));
        }
        return Ok(exit::SUCCESS);
    }
    if args.check {
        if stale.is_empty() {
            ui.status("Checked", format!("{} files in .vscode are up to date", plan.files.len()));
            return Ok(exit::SUCCESS);
        }
        return Err(Error::Stale(stale.into_iter().map(shown).collect()));
    }
    // The files that the configurations refer to.
    debug::prepare(&project.root)?;
    for file in &stale {
        file.write()?;
        let verb = if file.before.is_some() { "Updated" } else { "Wrote" };
        ui.status(verb, shown(file).display().to_string());
    }
    match (stale.is_empty(), plan.targets.as_slice()) {
        (true, _) => ui.status("Unchanged", ".vscode is up to date"),
        (false, []) => ui.status("Removed", "the configurations: nothing depends on ddp-runtime anymore"),
        (false, targets) => {
            let targets = targets.join(", ");
            ui.status("Ready", format!("F5 debugs {targets} with {} ({})", plan.debugger, plan.debugger.extension()));
        }
    }
    Ok(exit::SUCCESS)
}

/// One per GPU; two without GPUs, as one worker would not be data-parallel.
pub(super) fn default_workers() -> Workers {
    let visible = std::env::var(ddp_contract::env::CUDA_VISIBLE_DEVICES).ok();
    let gpus = gpu::list().map_or(0, |gpus| gpu::available(&gpus, visible.as_deref()).len());
    Workers::nproc(if gpus == 0 { 2 } else { gpus })
}

fn workers(gpus: Option<&str>, nproc: Option<u16>) -> Result<Option<Workers>> {
    let count = |list| Ok(Workers { count: gpu::count(list)?, gpus: Some(list.to_owned()) });
    match (gpus, nproc) {
        (Some(list), _) => count(list).map(Some),
        (None, nproc) => Ok(nproc.map(|count| Workers::nproc(count.into()))),
    }
}

/// As a package sets them in Cargo.toml: `all` are the GPUs of the machine that runs the job, and this one may have none.
fn workers_of_package(gpus: Option<&str>, nproc: Option<u16>) -> Result<Option<Workers>> {
    match gpus.map(str::trim) {
        Some(all @ "all") if gpu::list().unwrap_or_default().is_empty() => {
            Ok(Some(Workers { gpus: Some(all.to_owned()), ..default_workers() }))
        }
        _ => workers(gpus, nproc),
    }
}

/// What trains in the project, with the number of workers that its package sets in Cargo.toml.
pub(super) fn trainable(project: &Project) -> Result<Vec<(String, Trainable)>> {
    let mut all = project.trainable();
    for (package, target) in &mut all {
        let given = config::of_package(&project.settings_of(package))?;
        let nproc = given.nproc.and_then(Nproc::count);
        target.workers = workers_of_package(given.gpus.as_deref(), nproc)?;
    }
    Ok(all)
}

/// Where a task builds. A colleague's clone doesn't have this shell's variables, so they don't name the folder.
pub(super) fn place(project: &Project, ui: &Ui) -> Result<Place> {
    let place = Place::read(&project.root)?;
    let own = TARGET_DIR_VARIABLES.into_iter().find(|name| std::env::var_os(name).is_some());
    if let Some(name) = own.filter(|_| !place.folder.starts_with(&project.target)) {
        let target = &place.target;
        ui.status("Note", format!("ignoring {name} of this shell: the configurations use {target}"));
    }
    if let Some(note) = &place.note {
        ui.status("Note", note);
    }
    Ok(place)
}
