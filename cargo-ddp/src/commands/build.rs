//! `cargo ddp build`: builds the program and keeps the editor's debug configurations pointing to it.

use std::fs;
use std::path::Path;

use crate::cli::{self, BuildArgs};
use crate::editor::debug;
use crate::editor::vscode::{self, Place};
use crate::project::cargo::{Project, Selection, TARGET_DIR_VARIABLES, TARGET_VARIABLE};
use crate::ui::stdout;
use crate::{Error, Result, Ui, exit};

/// `cargo ddp build`: what `run` does before it launches.
pub(super) fn build(args: &BuildArgs, ui: &Ui) -> Result<u8> {
    let mut selection = args.build.selection();
    selection.flags.extend(cli::flags_for_cargo(ui.color()));
    let project = Project::find(selection.manifest_path.as_deref())?;
    project.check(&selection)?;
    super::libtorch::ensure(&project.root, ui)?;
    debug::prepare(&project.root)?;
    let program = project.build(&selection)?;
    println!("{}", stdout::shown(&program.to_string_lossy()));
    serve_configurations(&project, &selection, &program, ui)?;
    Ok(exit::SUCCESS)
}

/// Checks that the project's debug configurations start `program`, which was just built: an editor would start an old one
/// without a word. Where a variable of this shell or `--target-dir` has moved it, it is linked to the place that they name.
fn serve_configurations(project: &Project, selection: &Selection, program: &Path, ui: &Ui) -> Result<()> {
    let (profile, has_platform) = (selection.profile.as_deref(), selection.platform.is_some());
    let Some(started) = vscode::starts_another(&project.root, program, profile, has_platform) else {
        return Ok(());
    };
    let variables = [TARGET_VARIABLE].into_iter().chain(TARGET_DIR_VARIABLES);
    let is_set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    let moved = selection.has_target_dir || variables.into_iter().any(is_set);
    let usual = vscode::path_named(&project.root, &Place::of_files(&project.root)?.target);
    if !started.starts_with(&usual) || !moved && is_current_dir(&project.root) {
        return Err(Error::StartsAnother { built: program.to_owned(), started });
    }
    if !moved {
        // The current folder has a configuration of cargo's that the editor's task, at the root, does not read.
        let (started, root) = (started.display(), project.root.display());
        ui.status("Note", format!("F5 starts {started}, which `cargo ddp build` in {root} builds"));
        return Ok(());
    }
    // As cargo itself does for what it builds in `deps/`.
    let linked = started.parent().map_or(Ok(()), fs::create_dir_all).and_then(|()| {
        let _ = fs::remove_file(&started);
        fs::hard_link(program, &started).or_else(|_| fs::copy(program, &started).map(drop))
    });
    linked.map_err(Error::system(format!("can't link {}", started.display())))
}

fn is_current_dir(folder: &Path) -> bool {
    let here = std::env::current_dir().and_then(fs::canonicalize);
    here.is_ok_and(|here| fs::canonicalize(folder).is_ok_and(|folder| folder == here))
}
