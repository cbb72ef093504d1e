//! New projects from templates, and their renewal.

mod dependencies;
mod files;
mod generated;
mod init;
mod lines;
mod lock;
mod name;
mod record;
mod source;
mod template;
mod update;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use generated::generate;
use record::Record;
use source::RuntimeSource;

use crate::editor::vscode;
use crate::project::trainable::{Trainable, Workers};
use crate::{Error, Result};

pub use init::{Done, EXAMPLE, Init, init};
pub use template::{TEMPLATES, Template};
pub use update::Update;

/// A project to be made: everything checked, nothing written.
#[derive(Debug)]
pub struct Plan {
    /// Its folder, absolute.
    pub path: PathBuf,
    /// The package's name.
    pub name: String,
    template: &'static Template,
}

/// What was made.
#[derive(Debug)]
pub struct Made {
    /// The project is inside another workspace, and is its own workspace.
    pub standalone: bool,
}

impl Plan {
    /// Checks the path, the name (`None`: the folder's) and the template.
    ///
    /// # Errors
    /// [`Error::Exists`], [`Error::BadFolder`], [`Error::BadName`], [`Error::NoTemplate`].
    pub fn new(path: &Path, name: Option<&str>, template: &str) -> Result<Self> {
        let path = std::path::absolute(path).map_err(Error::system("can't find the current folder"))?;
        let template = template::find(template)?;
        let name = match name {
            Some(name) => name.to_owned(),
            // `/` and `..` have no name, and exist.
            None => path.file_name().ok_or_else(|| Error::Exists(path.clone()))?.to_string_lossy().into_owned(),
        };
        name::check_folder(&path)?;
        name::check(&name, template)?;
        if path.symlink_metadata().is_ok() {
            return Err(Error::Exists(path));
        }
        Ok(Self { path, name, template })
    }
}

/// Makes the project: rendered next to its place first, then renamed into it, so it is complete or absent. Its
/// `.vscode/` debugs this many workers.
///
/// # Errors
/// [`Error::System`], with nothing left behind.
pub fn scaffold(plan: &Plan, workers: Workers) -> Result<Made> {
    let parent = plan.path.parent().unwrap_or(Path::new("/"));
    let cant = || Error::system(format!("can't create {}", plan.path.display()));
    let missing: Vec<_> = parent.ancestors().take_while(|folder| !folder.exists()).collect();
    fs::create_dir_all(parent).map_err(cant())?;
    let made = render_beside(plan, parent, workers);
    if made.is_err() {
        // Also removes the parent folders that were created, if they are empty.
        missing.iter().for_each(|folder| drop(fs::remove_dir(folder)));
    }
    made
}

fn render_beside(plan: &Plan, parent: &Path, workers: Workers) -> Result<Made> {
    let cant = || Error::system(format!("can't create {}", plan.path.display()));
    let staging = tempfile::Builder::new().prefix(".cargo-ddp-new-").tempdir_in(parent).map_err(cant())?;
    let standalone = inside_a_workspace(parent);
    let generated = generate(plan.template, &plan.name, standalone)?;
    for (path, content) in &generated {
        files::write(&staging.path().join(path), content)?;
    }
    // cargo's configuration depends on the final location of the project.
    let place = vscode::Place::read(&plan.path)?;
    let project = vscode::Project { target: place.target, platform: place.platform, trainable: binaries(plan) };
    for file in vscode::plan(staging.path(), &project, &vscode::Request::new(workers))?.files {
        file.write()?;
    }
    let record = Record::new(plan.template.name, &plan.name, standalone, &generated);
    files::write(&staging.path().join(record::FILE), record.to_toml().as_bytes())?;
    let lock = lock::of_template(plan.template, &RuntimeSource::of_this_program());
    files::write(&staging.path().join("Cargo.lock"), lock.as_bytes())?;
    if !inside_a_repository(parent) {
        git_init(staging.path());
    }
    // A temporary folder is private; a project has the usual permissions of its user.
    let mode = fs::metadata(staging.path().join("src")).map_err(cant())?.permissions();
    fs::set_permissions(staging.path(), mode).map_err(cant())?;
    let staging = staging.keep();
    // rename fails for a folder that is not empty: another process created it meanwhile.
    let renamed = match plan.path.symlink_metadata() {
        Ok(_) => Err(Error::Exists(plan.path.clone())),
        Err(_) => fs::rename(&staging, &plan.path).map_err(cant()),
    };
    if renamed.is_err() {
        let _ = fs::remove_dir_all(&staging);
    }
    renamed.map(|()| Made { standalone })
}

/// The project's binaries, as cargo finds them.
fn binaries(plan: &Plan) -> Vec<Trainable> {
    let others: Vec<&str> = plan.template.other_binaries().collect();
    let names = std::iter::once(plan.name.as_str()).chain(others);
    let binary = |name: &str| Trainable {
        name: name.to_owned(),
        label: name.to_owned(),
        example: false,
        on_request: false,
        package: None,
        features: vec![],
        package_features: vec![],
        workers: None,
    };
    names.map(binary).collect()
}

/// Whether cargo would look for the project in a workspace further up.
fn inside_a_workspace(parent: &Path) -> bool {
    parent.ancestors().any(|folder| folder.join("Cargo.toml").exists())
}

fn inside_a_repository(parent: &Path) -> bool {
    parent.ancestors().any(|folder| [".git", ".hg", ".jj"].iter().any(|name| folder.join(name).exists()))
}

/// A machine without git makes projects without a repository.
fn git_init(folder: &Path) {
    let _ = Command::new("git").args(["init", "-q"]).arg(folder).stdout(Stdio::null()).stderr(Stdio::null()).status();
}
