//! An existing crate, made trainable: what it lacks is added, and nothing else touched.

mod cargo_config;
mod example;
mod plan;

use std::fs;
use std::path::{Path, PathBuf};

use toml_edit::{DocumentMut, Item, Value};

use plan::{Plan, parse, table_in};

use super::dependencies::{dependency, inherited};
use super::files::Backup;
use super::source::{self, RuntimeSource};
use super::{files, lines, name};
use crate::editor::vscode;
use crate::project::cargo::Project;
use crate::{Error, Result};

const BUILD: &str = include_str!("../../../templates/shared/build.rs");
/// The name of the example to begin with.
pub const EXAMPLE: &str = "train";
/// What the build script must call, and what it read in earlier versions.
const LINK: &str = "ddp_build::link";
const RPATH: &str = "DEP_DDP_RUNTIME_LIBTORCH_LIB";
const TCH: &str = "0.26";
const OWN_WORKSPACE: &str = "# Its own workspace, although it is inside another one.\n[workspace]\n";

/// A crate that is to be made trainable.
#[derive(Debug)]
pub struct Init {
    /// Its folder.
    pub folder: PathBuf,
    /// Whether it is to be a member of the workspace around it.
    pub join_workspace: bool,
}

/// What was done to a crate.
#[derive(Debug, Default)]
pub struct Done {
    /// Each file that was made or changed, and what of it.
    pub changes: Vec<(PathBuf, String)>,
    /// What the user must do or should know.
    pub notes: Vec<String>,
    backup: Backup,
}

impl Done {
    /// Writes a file for VS Code as well.
    ///
    /// # Errors
    /// [`Error::System`].
    pub fn write(&mut self, file: &vscode::File, what: &str) -> Result<()> {
        self.backup.add(&file.path)?;
        file.write()?;
        self.changes.push((file.path.clone(), what.to_owned()));
        Ok(())
    }

    fn write_all(&mut self, writes: Vec<(PathBuf, Vec<u8>, String)>) -> Result<()> {
        for (path, content, what) in writes {
            self.backup.add(&path)?;
            files::write(&path, &content)?;
            self.changes.push((path, what));
        }
        Ok(())
    }

    /// Restores the crate as it was before.
    pub fn undo(&self) {
        self.backup.restore();
    }
}

/// Makes the crate trainable. Run again, it finds nothing to do.
///
/// # Errors
/// [`Error::NoProject`], [`Error::BadManifest`], [`Error::BadFolder`], [`Error::CantJoin`], [`Error::System`], all with
/// nothing changed.
pub fn init(init: &Init) -> Result<Done> {
    let folder = std::path::absolute(&init.folder).map_err(Error::system("can't find the current folder"))?;
    let folder = fs::canonicalize(&folder).map_err(|_| Error::NoProject(format!("no folder {}", folder.display())))?;
    let path = folder.join("Cargo.toml");
    let text = files::read(&path)?.ok_or_else(|| Error::NoProject(format!("no Cargo.toml in {}", folder.display())))?;
    let mut manifest = parse(&path, &text)?;
    let package = manifest.get("package").and_then(|package| package.get("name")).and_then(Item::as_str);
    let problem = || "no [package]; change to the folder of the crate that should train".into();
    let package = package.ok_or_else(|| Error::BadManifest { path: path.clone(), problem: problem() })?;
    if ["ddp-runtime", "tch"].contains(&package) {
        let problem = format!("a package named `{package}` can't depend on {package}; rename it");
        return Err(Error::BadManifest { path, problem });
    }

    let mut plan = Plan::default();
    let mut done = Vec::new();
    let root = workspace(init, &folder, &path, &mut manifest, &mut plan, &mut done)?;
    let source = RuntimeSource::of_this_program();
    name::check_folder(&root)?;
    let shared = match files::read(&root.join("Cargo.toml"))? {
        Some(text) if root != folder => parse(&root.join("Cargo.toml"), &text)?,
        _ => manifest.clone(),
    };
    add_dependencies(&mut manifest, &shared, &path, &source, &mut plan, &mut done)?;
    build_script(&folder, &mut manifest, &shared, &source, &mut plan, &mut done)?;
    if !done.is_empty() {
        plan.edit(path, &text, &manifest.to_string(), done.join(", "));
    }
    cargo_config::edit(&root, &source, &mut plan)?;
    gitignore(&root, &mut plan)?;
    example::add(&folder, &manifest, &shared, &mut plan)?;

    let mut done = Done { notes: plan.notes, ..Done::default() };
    done.write_all(plan.writes).inspect_err(|_| done.undo())?;
    Ok(done)
}

/// The folder that cargo builds the crate in: a workspace's, if it is a member, or its own.
fn workspace(
    init: &Init,
    folder: &Path,
    path: &Path,
    manifest: &mut DocumentMut,
    plan: &mut Plan,
    done: &mut Vec<String>,
) -> Result<PathBuf> {
    let cant = |problem: &str| Err(Error::CantJoin { folder: folder.to_owned(), problem: problem.to_owned() });
    let around = if manifest.contains_key("workspace") { None } else { enclosing_workspace(folder)? };
    let Some((root, around_text, mut around)) = around else {
        return match (init.join_workspace, manifest.contains_key("workspace")) {
            (false, _) => Ok(folder.to_owned()),
            (true, true) => cant("its Cargo.toml has a [workspace] table"),
            (true, false) => cant("no folder above it is a workspace"),
        };
    };
    match Project::find(Some(path)) {
        Ok(project) if project.root == root => Ok(root), // already a member
        Ok(project) if init.join_workspace => {
            cant(&format!("cargo already treats it as part of {}", project.root.display()))
        }
        Ok(project) => Ok(project.root),
        // A crate that cargo can't read for another reason may be a member.
        Err(err) if !is_no_member(&err) => Err(err),
        Err(_) if !init.join_workspace => {
            // As text, so that it follows the last line of the file.
            let text = format!("{}\n{OWN_WORKSPACE}", manifest.to_string().trim_end().to_owned() + "\n");
            *manifest = parse(path, text.as_bytes())?;
            done.push(
                "its own [workspace], as the enclosing workspace does not list the crate (--workspace adds it there)"
                    .into(),
            );
            Ok(folder.to_owned())
        }
        Err(_) => {
            let member = folder.strip_prefix(&root).unwrap_or(folder).display().to_string();
            let members = around["workspace"]["members"].or_insert(Item::Value(Value::Array(Default::default())));
            let Some(members) = members.as_array_mut() else { return cant("`workspace.members` is not an array") };
            members.push(member.as_str());
            plan.edit(
                root.join("Cargo.toml"),
                &around_text,
                &around.to_string(),
                format!("{member} is a member of the workspace"),
            );
            Ok(root)
        }
    }
}

/// cargo finds a workspace around the package that does not list it.
fn is_no_member(err: &Error) -> bool {
    matches!(err, Error::BadProject(problem) if problem.contains("believes it's in a workspace when it's not"))
}

fn enclosing_workspace(folder: &Path) -> Result<Option<(PathBuf, Vec<u8>, DocumentMut)>> {
    for above in folder.ancestors().skip(1) {
        let path = above.join("Cargo.toml");
        if let Some(text) = files::read(&path)? {
            let manifest = parse(&path, &text)?;
            if manifest.contains_key("workspace") {
                return Ok(Some((above.to_owned(), text, manifest)));
            }
        }
    }
    Ok(None)
}

fn add_dependencies(
    manifest: &mut DocumentMut,
    shared: &DocumentMut,
    path: &Path,
    source: &RuntimeSource,
    plan: &mut Plan,
    done: &mut Vec<String>,
) -> Result<()> {
    for (name, value) in [("ddp-runtime", source.dependency(source::RUNTIME)), ("tch", format!("{TCH:?}"))] {
        if dependency(manifest, shared, name, &["dependencies"]).is_some() {
            continue;
        }
        // cargo takes one source of a package only, so that of the tests or of the build script.
        let elsewhere = dependency(manifest, shared, name, &["dev-dependencies", "build-dependencies"]);
        let (key, item) = match elsewhere {
            Some((key, item)) => (key.to_owned(), item.clone()),
            None => (name.to_owned(), Item::Value(value.parse().unwrap_or_else(|_| Value::from(value)))),
        };
        let Some(dependencies) = table_in(manifest, "dependencies").as_table_like_mut() else {
            let problem = "`dependencies` is not a table".into();
            return Err(Error::BadManifest { path: path.to_owned(), problem });
        };
        dependencies.insert(&key, item);
        done.push(format!("depends on {name}"));
    }
    let tch = dependency(manifest, shared, "tch", &["dependencies"]);
    let tch = tch.map(|(name, item)| inherited(shared, name, item).unwrap_or(item));
    let tch = tch.and_then(|tch| tch.as_str().or_else(|| tch.get("version")?.as_str()));
    if let Some(version) = tch.filter(|version| !version.trim_start_matches(['^', '=', '~']).starts_with(TCH)) {
        plan.notes.push(format!(
            "the crate depends on tch {version:?}, but ddp-runtime on {TCH:?}: their tensors are different types"
        ));
    }
    Ok(())
}

/// The build script that lets the program find libtorch without LD_LIBRARY_PATH.
fn build_script(
    folder: &Path,
    manifest: &mut DocumentMut,
    shared: &DocumentMut,
    source: &RuntimeSource,
    plan: &mut Plan,
    done: &mut Vec<String>,
) -> Result<()> {
    let build = manifest.get("package").and_then(|package| package.get("build"));
    let path = folder.join(build.and_then(Item::as_str).unwrap_or("build.rs"));
    let off = build.and_then(Item::as_bool) == Some(false);
    match files::read(&path)? {
        None if !off => plan.write(path, BUILD, "lets the program find libtorch"),
        Some(text) if [LINK, RPATH].iter().any(|words| String::from_utf8_lossy(&text).contains(words)) => return Ok(()),
        _ => plan.notes.push(format!(
            "your build script stays unchanged: call `{LINK}();` in the main function of {}, or the program finds libtorch only \
             with LD_LIBRARY_PATH",
            path.display()
        )),
    }
    if dependency(manifest, shared, "ddp-build", &["build-dependencies"]).is_none()
        && let Some(dependencies) = table_in(manifest, "build-dependencies").as_table_like_mut()
    {
        let value = source.dependency(source::BUILD);
        dependencies.insert("ddp-build", Item::Value(value.parse().unwrap_or_else(|_| Value::from(value))));
        done.push("depends on ddp-build".into());
    }
    Ok(())
}

fn gitignore(root: &Path, plan: &mut Plan) -> Result<()> {
    let path = root.join(".gitignore");
    // Its lines may be of any encoding: they are added to, not read.
    let mut text = files::read(&path)?.unwrap_or_default();
    let before = String::from_utf8_lossy(&text).into_owned();
    let has = |name: &&str| lines::plain(&before).lines().any(|line| line.trim().trim_matches('/') == *name);
    let missing: Vec<_> = [".ddp", "snapshots"].into_iter().filter(|name| !has(name)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let ending = lines::ending(&before);
    if !text.is_empty() && !text.ends_with(b"\n") {
        text.extend_from_slice(ending.as_bytes());
    }
    missing.iter().for_each(|name| text.extend_from_slice(format!("/{name}{ending}").as_bytes()));
    plan.write(path, text, format!("ignores {}", missing.join(" and ")));
    Ok(())
}
