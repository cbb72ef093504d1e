//! Python interpreters: their torch, and their pip.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde::Deserialize;

use crate::{Error, Result};

/// Prints what torch there is without importing it (which takes seconds).
const PROBE: &str = r#"
import importlib.metadata, importlib.util, json, sys
version = site = None
try:
    version = importlib.metadata.version("torch")
    site = list(importlib.util.find_spec("torch").submodule_search_locations)[0]
except Exception:
    pass
print(json.dumps({"python": sys.version.split()[0], "version": version, "folder": site}))
"#;

/// A Python 3 that starts.
#[derive(Clone, Debug)]
pub(super) struct Python {
    pub(super) program: PathBuf,
    pub(super) version: String,
    torch: Option<Torch>,
}

/// The torch package of a Python.
#[derive(Clone, Debug)]
pub(super) struct Torch {
    /// As installed, with what follows the number: `2.13.0+cu130`.
    pub(super) full_version: String,
    /// The site-packages folder that holds `torch/` and `nvidia/`.
    pub(super) site: PathBuf,
}

impl Torch {
    pub(super) fn version(&self) -> &str {
        self.full_version.split('+').next().unwrap_or_default()
    }
}

impl Python {
    /// Runs the interpreter to find its version and its torch.
    fn probe(program: &Path) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Answer {
            python: String,
            version: Option<String>,
            folder: Option<PathBuf>,
        }
        let output = run(program, &["-c", PROBE]).map_err(|err| err.to_string())?;
        if !output.status.success() {
            return Err(last_line(&output.stderr).unwrap_or_else(|| output.status.to_string()));
        }
        let answer: Answer = serde_json::from_slice(&output.stdout).map_err(|_| "unexpected output".to_owned())?;
        if !answer.python.starts_with("3.") {
            return Err(format!("found Python {}", answer.python));
        }
        let torch = answer
            .version
            .zip(answer.folder)
            .and_then(|(full_version, folder)| Some(Torch { full_version, site: folder.parent()?.to_owned() }));
        Ok(Self { program: program.to_owned(), version: answer.python, torch })
    }

    pub(super) fn torch(&self) -> Option<&Torch> {
        self.torch.as_ref()
    }

    pub(super) fn has_pip(&self) -> bool {
        run(&self.program, &["-m", "pip", "--version"]).is_ok_and(|output| output.status.success())
    }

    /// Whether it can create a virtual environment that has pip.
    pub(super) fn has_venv(&self) -> bool {
        run(&self.program, &["-c", "import venv, ensurepip"]).is_ok_and(|output| output.status.success())
    }

    /// Makes a virtual environment in `folder`, and gives its interpreter, which has a pip.
    pub(super) fn venv(&self, folder: &Path) -> Option<PathBuf> {
        let made = run(&self.program, &["-m", "venv", &folder.to_string_lossy()]).ok()?;
        made.status.success().then(|| folder.join("bin/python"))
    }
}

/// The interpreters to look at, best first: the one asked for and no other, or else the active environment's and those
/// on PATH.
pub(super) fn candidates(asked: Option<&Path>) -> Result<Vec<Python>> {
    if let Some(asked) = asked {
        let program = which::which(asked).map_err(|err| bad(asked, err.to_string()))?;
        return Ok(vec![Python::probe(&program).map_err(|problem| bad(asked, problem))?]);
    }
    let environments = ["VIRTUAL_ENV", "CONDA_PREFIX"].iter().filter_map(std::env::var_os);
    let mut programs: Vec<PathBuf> = environments.map(|dir| Path::new(&dir).join("bin/python")).collect();
    programs.extend(["python3", "python"].iter().filter_map(|name| which::which(name).ok()));
    let mut found: Vec<Python> = Vec::new();
    for program in programs {
        if found.iter().all(|python| python.program != program) {
            found.extend(Python::probe(&program).ok());
        }
    }
    Ok(found)
}

fn bad(python: &Path, problem: String) -> Error {
    Error::BadPython { python: python.to_owned(), problem }
}

fn run(program: &Path, args: &[&str]) -> std::io::Result<Output> {
    Command::new(program).args(args).stdin(Stdio::null()).output()
}

fn last_line(bytes: &[u8]) -> Option<String> {
    String::from_utf8_lossy(bytes).lines().map(str::trim).rfind(|line| !line.is_empty()).map(str::to_owned)
}
