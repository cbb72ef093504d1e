//! `.vscode/`: what VS Code needs to debug every rank, written into files that may have much of the user's own in them.
//!
//! Files are edited, not replaced: their text is parsed with [`jsonc_parser`], and only the parts that are ours are spliced.
//! What is ours is known by its name (`ddp: …`), and updated in place.

mod config;
mod debugger;
mod edit;
mod entry;
mod file;
mod files;
mod json;
mod merge;
mod place;
mod project;
mod source;

#[cfg(test)]
mod properties;
#[cfg(test)]
mod schema;
#[cfg(test)]
mod tests;

use std::fs;
use std::path::{Path, PathBuf};

pub use debugger::Debugger;
pub use file::File;
pub use place::Place;
pub use project::{Project, path_named, target_folder};

use config::Variant;
use entry::{Entry, Role};
use files::Wanted;
use json::Json;
use source::Source;

use crate::project::trainable::{Trainable, Workers};
use crate::{Error, Result};

/// The user's request. Omitted options keep their values in the files.
#[derive(Clone, Debug)]
pub struct Request {
    /// The debugger [default: the one that is in use, else the first of [`Debugger::ALL`]].
    pub debugger: Option<Debugger>,
    /// The number of workers.
    pub workers: Option<Workers>,
    /// The number where neither the request nor the files say one.
    pub default_workers: Workers,
    /// Only these binaries and examples; empty: all binaries, and the on-request ones that already have entries.
    pub only: Vec<String>,
    /// With variants for optimized programs.
    pub release: bool,
}

impl Request {
    /// Everything left open.
    pub fn new(default_workers: Workers) -> Self {
        Self { debugger: None, workers: None, default_workers, only: vec![], release: false }
    }
}

/// What is to be written, and for what.
#[derive(Debug)]
pub struct Plan {
    /// The debugger.
    pub debugger: Debugger,
    /// The binaries and examples that get configurations.
    pub targets: Vec<String>,
    /// launch.json, tasks.json, extensions.json, settings.json.
    pub files: Vec<File>,
}

/// What `root/.vscode` is to be for a project.
///
/// # Errors
/// [`Error::BadJson`] for a file that is not JSONC, [`Error::NoTarget`] for a name in `only` that does not exist,
/// [`Error::NothingToDebug`] when nothing trains and nothing is to be taken away.
pub fn plan(root: &Path, project: &Project, request: &Request) -> Result<Plan> {
    let folder = root.join(".vscode");
    let path = |name: &str| folder.join(name);
    let paths = ["launch.json", "tasks.json", "extensions.json", "settings.json"].map(path);
    let mut texts = vec![];
    for path in &paths {
        texts.push(source::read(path)?);
    }
    let [launch, tasks, extensions, settings] = &paths;
    let before = |at: usize| texts[at].as_deref();
    let present = Present::parse(launch, before(0))?;

    let targets = chosen(project, request, &present)?;
    if targets.is_empty() && present.entries.is_empty() {
        return Err(Error::NothingToDebug);
    }
    let debugger = request.debugger.or(present.debugger).unwrap_or(Debugger::ALL[0]);
    let workers: Vec<Workers> = targets.iter().map(|target| present.workers_of(target, request)).collect();
    let profiles = |target: &Trainable| {
        let release = request.release || present.has_release(&target.label);
        [Some(false), release.then_some(true)].into_iter().flatten()
    };
    let (folder, platform) = (project.target.as_str(), project.platform.as_deref());
    let variant = |target, workers, release| Variant { debugger, target, workers, release, folder, platform };
    let variants = targets
        .iter()
        .zip(&workers)
        .flat_map(|(&target, workers)| profiles(target).map(move |release| variant(target, workers, release)));
    let is_chosen = |label: &str| targets.iter().any(|target| target.label == label);
    // An entry by the name alone, from before there was a namesake, may have arguments of the user's.
    let names = project.trainable.iter().flat_map(|target| [target.label.as_str(), target.name.as_str()]);
    let untouched = names.filter(|name| !is_chosen(name)).collect();
    let wanted = Wanted { debugger, variants: variants.collect(), untouched };

    // A debugger that was in use before, and now only if a configuration of the user's own needs it.
    let former =
        present.debugger.filter(|former| *former != debugger && !present.user_types.contains(&former.kind().into()));
    let mut after = vec![files::launch(launch, before(0), &wanted)?, files::tasks(tasks, before(1), &wanted)?];
    if targets.is_empty() {
        after.extend([texts[2].clone(), texts[3].clone()]);
    } else {
        after.push(files::extensions(extensions, before(2), debugger, former)?);
        after.push(files::settings(settings, before(3))?);
    }
    let targets = targets.iter().map(|target| target.label.clone()).collect();
    let files = paths.iter().zip(texts).zip(after);
    let files = files.map(|((path, before), after)| File { path: path.clone(), before, after }).collect();
    Ok(Plan { debugger, targets, files })
}

/// The targets that get configurations.
fn chosen<'a>(project: &'a Project, request: &Request, present: &Present) -> Result<Vec<&'a Trainable>> {
    let mut targets: Vec<&Trainable> = vec![];
    for name in &request.only {
        // A label is of one alone; several can have a name.
        let found = project.trainable.iter().filter(|target| target.label == *name || target.name == *name);
        let before = targets.len();
        for target in found {
            if !targets.contains(&target) {
                targets.push(target);
            }
        }
        let is_known = || targets.iter().any(|target| target.label == *name || target.name == *name);
        if targets.len() == before && !is_known() {
            let known = project.trainable.iter().map(|target| target.label.clone()).collect();
            return Err(Error::NoTarget { name: name.clone(), known });
        }
    }
    if request.only.is_empty() {
        let is_there = |target: &Trainable| present.entries.iter().any(|(entry, _)| entry.target == target.label);
        targets.extend(project.trainable.iter().filter(|target| !target.on_request || is_there(target)));
    }
    Ok(targets)
}

/// What launch.json says already.
struct Present {
    /// Our configurations.
    entries: Vec<(Entry, Json)>,
    /// The types of the user's own.
    user_types: Vec<String>,
    debugger: Option<Debugger>,
}

impl Present {
    fn parse(path: &Path, text: Option<&str>) -> Result<Self> {
        let source = Source::parse(path, text.unwrap_or_default())?;
        let mut present = Self { entries: vec![], user_types: vec![], debugger: None };
        for key in ["configurations", "compounds"] {
            for element in source.list(key)?.iter().flat_map(|array| &array.elements) {
                let element = Json::from_ast(element);
                let kind = element.get("type").and_then(Json::text);
                match element.get("name").and_then(Json::text).and_then(Entry::parse) {
                    Some(entry) => {
                        present.debugger = present.debugger.or_else(|| Debugger::of_kind(kind?));
                        present.entries.push((entry, element));
                    }
                    None => present.user_types.extend(kind.map(str::to_owned)),
                }
            }
        }
        Ok(present)
    }

    fn has_release(&self, target: &str) -> bool {
        self.entries.iter().any(|(entry, _)| entry.release && entry.target == target)
    }

    fn workers_of(&self, target: &Trainable, request: &Request) -> Workers {
        let of_target = || self.entries.iter().filter(|(entry, _)| entry.target == target.label);
        let present = || {
            let run = of_target().filter(|(entry, _)| matches!(entry.role, Role::Run | Role::Launcher));
            let ranks = of_target().find_map(|(entry, _)| entry.ranks).filter(|ranks| *ranks > 0);
            run.filter_map(|(_, value)| given_workers(value, ranks)).next().or(ranks.map(Workers::nproc))
        };
        let usual = || target.workers.clone().unwrap_or_else(|| request.default_workers.clone());
        request.workers.clone().or_else(present).unwrap_or_else(usual)
    }
}

/// What one of our configurations starts in place of `built`, a program of this workspace. With `has_platform` it was built
/// with `--target`, and only configurations for the same platform count.
pub fn starts_another(root: &Path, built: &Path, profile: Option<&str>, has_platform: bool) -> Option<PathBuf> {
    let release = match profile {
        None | Some("dev") => false,
        Some(config::RELEASE_PROFILE) => true,
        Some(_) => return None,
    };
    let path = root.join(".vscode/launch.json");
    // What can't be read, `cargo ddp vscode` says.
    let text = source::read(&path).ok().flatten()?;
    let source = Source::parse(&path, &text).ok()?;
    let is_example = |path: &Path| path.parent().is_some_and(|folder| folder.ends_with("examples"));
    // The folder of the platform lies above that of the profile.
    let platform = |path: &Path| {
        let folder = path.ancestors().nth(if is_example(path) { 3 } else { 2 })?;
        folder.file_name().map(std::ffi::OsStr::to_owned)
    };
    let same =
        |path: &Path| fs::canonicalize(path).ok().is_some_and(|path| fs::canonicalize(built).is_ok_and(|b| b == path));
    let configurations = source.list("configurations").ok()??.elements.iter().map(Json::from_ast);
    let started = configurations.filter_map(|configuration| {
        let entry = configuration.get("name").and_then(Json::text).and_then(Entry::parse)?;
        let ours = matches!(entry.role, Role::Alone | Role::Rank(_)) && entry.release == release;
        let program = configuration.get("program")?.text()?;
        ours.then(|| path_named(root, program))
    });
    let mut namesakes = started.filter(|path| {
        path.file_name() == built.file_name()
            && is_example(path) == is_example(built)
            && (!has_platform || platform(path) == platform(built))
    });
    namesakes.find(|path| path != built && !same(path))
}

/// What the arguments of a launcher's configuration say.
fn given_workers(configuration: &Json, ranks: Option<usize>) -> Option<Workers> {
    let args: Vec<&str> = configuration.get("args")?.list().iter().filter_map(Json::text).collect();
    let options = args.split(|arg| *arg == "--").next()?;
    let value = |name: &str| {
        let pairs = options.windows(2).rev().find(|pair| pair[0] == name).map(|pair| pair[1]);
        pairs.or_else(|| options.iter().rev().find_map(|option| option.strip_prefix(name)?.strip_prefix('=')))
    };
    if let Some(count) =
        value("--nproc").and_then(|count| count.parse().ok()).filter(|count| (1..=4096).contains(count))
    {
        return Some(Workers::nproc(count));
    }
    Some(Workers { count: ranks?, gpus: Some(value("--gpus")?.to_owned()) })
}
