//! Which libtorch is used, and why.

use std::path::{Path, PathBuf};

use super::config::VARIABLE;
use super::flavor::Flavor;
use super::home::Home;
use super::link::LINK;
use super::{provision, python, view};
use crate::status::Status;
use crate::version::LIBTORCH;
use crate::{Error, Result};

/// What the user asked of `cargo ddp setup`.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// `--cpu` or `--cuda`; `None` leaves it to the machine.
    pub flavor: Option<Flavor>,
    /// `--python`: look at this interpreter's torch, and fetch with its pip.
    pub python: Option<PathBuf>,
}

/// A libtorch, and why it was chosen.
#[derive(Clone, Debug)]
pub struct Choice {
    /// The libtorch.
    pub home: Home,
    /// Why, in words.
    pub why: String,
}

/// The user's own LIBTORCH, if one is set. (Where cargo runs us, through the alias of a clone or of a project, it sets the
/// variable as `.cargo/config.toml` says: that is ours.)
pub fn own_libtorch() -> Option<PathBuf> {
    let set = |name| std::env::var_os(name).filter(|value: &std::ffi::OsString| !value.is_empty());
    is_own(set("LIBTORCH")?.into(), set(VARIABLE))
}

/// `path`, a value of LIBTORCH, unless a project's configuration has set it; then `configured` has the same value.
pub(crate) fn is_own(path: PathBuf, configured: Option<std::ffi::OsString>) -> Option<PathBuf> {
    let is_ours = path.ends_with(LINK) || configured.is_some_and(|configured| path == Path::new(&configured));
    (!is_ours).then_some(path)
}

/// Finds a libtorch that fits, or provisions one.
///
/// In this order: the user's LIBTORCH; the one that `project` is linked to already; the active Python's torch; one in the
/// user's cache; a new one in the cache, fetched with pip.
///
/// # Errors
/// Each has a hint; see [`Error::hint`].
pub fn choose(request: &Request, project: Option<&Path>, ui: &dyn Status) -> Result<Choice> {
    let (flavor, reason, pythons) = match look(request, project, ui)? {
        Look::Found(choice) => return Ok(choice),
        Look::Missing { flavor, reason, pythons } => (flavor, reason, pythons),
    };
    let cached = provision::folder(flavor)?;
    ui.status("Setting up", &format!("libtorch {LIBTORCH} ({}: {reason}) in {}", flavor.name(), cached.display()));
    let home = provision::provision(flavor, &pythons, ui)?;
    Ok(Choice { home, why: format!("fetched with pip ({}: {reason})", flavor.name()) })
}

/// As [`choose`], but fetches nothing: `None` if there is no libtorch yet.
///
/// # Errors
/// Those of [`choose`].
pub fn find(request: &Request, project: Option<&Path>, ui: &dyn Status) -> Result<Option<Choice>> {
    Ok(match look(request, project, ui)? {
        Look::Found(choice) => Some(choice),
        Look::Missing { .. } => None,
    })
}

enum Look {
    Found(Choice),
    Missing { flavor: Flavor, reason: &'static str, pythons: Vec<python::Python> },
}

fn look(request: &Request, project: Option<&Path>, ui: &dyn Status) -> Result<Look> {
    if let Some(path) = own_libtorch() {
        return own(&path, request).map(Look::Found);
    }
    let as_it_is = request.flavor.is_none() && request.python.is_none();
    if let Some(project) = project
        && let Ok(home) = Home::inspect(&project.join(LINK))
        && (as_it_is || request.python.is_none() && request.flavor == Some(home.flavor()))
    {
        return Ok(Look::Found(Choice { home, why: "the project is linked to it".into() }));
    }
    let flavor = request.flavor.unwrap_or_else(Flavor::of_this_machine);
    let reason = match (request.flavor, flavor) {
        (Some(_), _) => "as requested",
        (None, Flavor::Cuda) => "this machine has an NVIDIA driver",
        (None, Flavor::Cpu) => "this machine has no NVIDIA driver",
    };

    let pythons = python::candidates(request.python.as_deref())?;
    for python in &pythons {
        match python.torch() {
            Some(torch) if torch.version() == LIBTORCH => match view::of_python(&torch.site, flavor) {
                Ok(home) => {
                    let why = format!("{} has it ({}: {reason})", python.program.display(), flavor.name());
                    return Ok(Look::Found(Choice { home, why }));
                }
                Err(problem) => {
                    ui.status("Skipping", &format!("the torch of {}: {problem}", python.program.display()));
                }
            },
            Some(torch) => ui.status(
                "Skipping",
                &format!(
                    "the torch of {}: found {}, but {LIBTORCH} is required",
                    python.program.display(),
                    torch.full_version
                ),
            ),
            None => {}
        }
    }

    let cached = provision::folder(flavor)?;
    if let Ok(home) = Home::inspect(&cached) {
        let why = format!("it is in the cache ({}: {reason})", flavor.name());
        return Ok(Look::Found(Choice { home, why }));
    }
    Ok(Look::Missing { flavor, reason, pythons })
}

fn own(path: &Path, request: &Request) -> Result<Choice> {
    let bad = |problem: String| Error::BadLibtorch { path: path.to_owned(), problem };
    let home = Home::inspect(path).map_err(bad)?;
    if let Some(flavor) = request.flavor.filter(|flavor| *flavor != home.flavor()) {
        return Err(bad(format!("it is the {} libtorch, but the flag is --{}", home.flavor().name(), flavor.name())));
    }
    Ok(Choice { home, why: "LIBTORCH points to it".into() })
}
