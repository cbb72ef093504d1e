//! Whether this machine is fit to train: what may be wrong before a first run, each with the way out.
//!
//! | file | what it looks at |
//! |---|---|
//! | `machine` | the machine, as checks see it |
//! | `toolchain` | cargo, rustc, the C++ compiler |
//! | `libtorch` | Python, the cache, libtorch, its headers and shared libraries |
//! | `shared` | the compiled dependencies that projects share |
//! | `project` | the built binary, room for snapshots, the clock |
//! | `gpu` | the NVIDIA driver, GPUs, and what this libtorch is built for |
//! | `limits` | /dev/shm, locked memory, ptrace |
//! | `editor` | debuggers and VS Code |
//! | `elf`, `fatbin` | what a shared library needs, and which GPUs it has code for |
//!
//! A check is a function from what is found to a [`Line`], so that broken set-ups can be tested.

mod editor;
mod elf;
mod fatbin;
mod gpu;
mod libtorch;
mod limits;
mod machine;
mod project;
mod shared;
mod toolchain;

use serde::Serialize;

pub use machine::Machine;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// As it should be.
    Ok,
    /// Training works, something else may not, or not well.
    Warning,
    /// Training will not work.
    Error,
}

impl Level {
    /// Its word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

/// What a check found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Line {
    /// What was looked at.
    pub check: &'static str,
    /// How bad it is.
    pub level: Level,
    /// What was found.
    pub says: String,
    /// The way out.
    pub hint: Option<String>,
}

impl Line {
    fn ok(check: &'static str, says: impl Into<String>) -> Self {
        Self { check, level: Level::Ok, says: says.into(), hint: None }
    }

    fn warning(check: &'static str, says: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { check, level: Level::Warning, says: says.into(), hint: Some(hint.into()) }
    }

    fn error(check: &'static str, says: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { check, level: Level::Error, says: says.into(), hint: Some(hint.into()) }
    }
}

/// All checks, in the order in which things are needed.
pub fn examine(machine: &Machine) -> Vec<Line> {
    let torch = libtorch::find(machine);
    let mut lines = toolchain::examine(machine);
    lines.extend(libtorch::examine(machine, &torch));
    lines.extend(gpu::examine(machine, torch.home()));
    lines.extend(shared::examine(machine));
    lines.extend(project::examine(machine));
    lines.extend(limits::examine(machine));
    lines.extend(editor::examine(machine));
    lines
}
