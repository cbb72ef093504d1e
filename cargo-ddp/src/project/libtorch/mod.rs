//! The libtorch that everything builds against: found, or provisioned into the user's cache, and linked to from the
//! project as `.ddp/libtorch`.

mod config;
mod home;
mod link;
mod provision;
mod python;
mod view;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

pub(crate) use config::libtorch as configured;
pub use config::{FILE, INCLUDED, VARIABLE, is_included};
pub use home::Home;
pub(crate) use home::text_of;
pub use link::{LINK, link};
pub(crate) use provision::space_needed_gb;

pub(crate) use crate::machine::cache::dir as cache_dir;
use crate::machine::gpus as gpu;
use crate::progress::Progress;
pub use crate::version::LIBTORCH as VERSION;
use crate::{Error, Result};

/// The CUDA that its wheels are built with (`cu130`).
pub(crate) const CUDA: (u32, u32) = (13, 0);

/// With or without CUDA.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flavor {
    /// Without CUDA: a quarter of the size, and faster to load.
    Cpu,
    /// With CUDA and NCCL.
    Cuda,
}

impl Flavor {
    /// What this machine wants: CUDA where there is an NVIDIA driver.
    pub fn of_this_machine() -> Self {
        if gpu::driver_present() { Self::Cuda } else { Self::Cpu }
    }

    /// `cpu` or `cuda`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Cuda => "cuda",
        }
    }
}

/// What the user asked of set-up.
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
/// Each names the way out; see [`Error::hint`].
pub fn choose(request: &Request, project: Option<&Path>, ui: &dyn Progress) -> Result<Choice> {
    let (flavor, reason, pythons) = match look(request, project, ui)? {
        Look::Found(choice) => return Ok(choice),
        Look::Missing { flavor, reason, pythons } => (flavor, reason, pythons),
    };
    let cached = provision::folder(flavor)?;
    ui.status("Setting up", &format!("libtorch {VERSION} ({}: {reason}) in {}", flavor.name(), cached.display()));
    let home = provision::provision(flavor, &pythons, ui)?;
    Ok(Choice { home, why: format!("fetched with pip ({}: {reason})", flavor.name()) })
}

/// As [`choose`], but fetches nothing: `None` if there is no libtorch yet.
///
/// # Errors
/// Those of [`choose`].
pub fn find(request: &Request, project: Option<&Path>, ui: &dyn Progress) -> Result<Option<Choice>> {
    Ok(match look(request, project, ui)? {
        Look::Found(choice) => Some(choice),
        Look::Missing { .. } => None,
    })
}

enum Look {
    Found(Choice),
    Missing { flavor: Flavor, reason: &'static str, pythons: Vec<python::Python> },
}

fn look(request: &Request, project: Option<&Path>, ui: &dyn Progress) -> Result<Look> {
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
        (Some(_), _) => "as asked for",
        (None, Flavor::Cuda) => "this machine has an NVIDIA driver",
        (None, Flavor::Cpu) => "this machine has no NVIDIA driver",
    };

    let pythons = python::candidates(request.python.as_deref())?;
    for python in &pythons {
        match python.torch() {
            Some(torch) if torch.version() == VERSION => match view::of_python(&torch.site, flavor) {
                Ok(home) => {
                    let why = format!("{} has it ({}: {reason})", python.program.display(), flavor.name());
                    return Ok(Look::Found(Choice { home, why }));
                }
                Err(problem) => {
                    ui.status("Passed over", &format!("the torch of {}: {problem}", python.program.display()));
                }
            },
            Some(torch) => ui.status(
                "Passed over",
                &format!(
                    "the torch of {}: it is {}, and {VERSION} is needed",
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
        return Err(bad(format!("it is the {} one, and --{} was asked for", home.flavor().name(), flavor.name())));
    }
    Ok(Choice { home, why: "LIBTORCH leads to it".into() })
}

/// The value of LIBTORCH for commands in `project`: the user's own, or the one in the project's configuration, spelled as it
/// is there, so that cargo sees no change between ways of building.
pub fn libtorch_for(project: &Path) -> std::ffi::OsString {
    let configured = || config::libtorch(project).unwrap_or_else(|| project.join(LINK));
    own_libtorch().unwrap_or_else(configured).into_os_string()
}

/// Where set-up keeps a libtorch of this flavor, or would.
pub(crate) fn cached(flavor: Flavor) -> Result<PathBuf> {
    provision::folder(flavor)
}

/// A Python 3 that works.
#[derive(Clone, Debug)]
pub(crate) struct Interpreter {
    pub(crate) program: PathBuf,
    pub(crate) version: String,
    /// Whether it has pip, or can make a virtual environment that has.
    pub(crate) fetches: bool,
}

/// The Pythons that set-up would look at, best first.
pub(crate) fn interpreters() -> Result<Vec<Interpreter>> {
    let pythons = python::candidates(None)?;
    let interpreter = |python: python::Python| Interpreter {
        fetches: python.has_pip() || python.has_venv(),
        program: python.program,
        version: python.version,
    };
    Ok(pythons.into_iter().map(interpreter).collect())
}

fn is_shared_library(name: &OsStr) -> bool {
    let name = name.to_string_lossy();
    name.ends_with(".so") || name.contains(".so.")
}
