//! Whether this machine is fit to train: what may be wrong before a first run, and what to do about it.
//!
//! | file | what it looks at |
//! |---|---|
//! | `machine` | the machine, as checks see it |
//! | `line` | what a check found |
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
mod line;
mod machine;
mod project;
mod shared;
mod toolchain;

pub use line::{Level, Line};
pub use machine::Machine;

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
