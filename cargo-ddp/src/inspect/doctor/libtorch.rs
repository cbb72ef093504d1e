//! Checks of libtorch, of the Python that would install it, of the cache, and of NCCL's headers.

use std::fs;
use std::path::{Path, PathBuf};

use super::{Line, Machine, elf};
use crate::project::libtorch::{self as torch, Flavor, Home, Interpreter, LINK};

/// The libtorch that a build would use.
#[derive(Debug)]
pub(super) enum Found {
    /// None yet.
    Nothing,
    /// One that can't be used.
    Bad { place: String, path: PathBuf, problem: String, own: bool },
    /// One that can.
    Good { place: String, home: Home },
}

impl Found {
    pub(super) fn home(&self) -> Option<&Home> {
        if let Self::Good { home, .. } = self { Some(home) } else { None }
    }
}

/// Searches in the order of `cargo ddp setup`, and changes nothing.
pub(super) fn find(machine: &Machine) -> Found {
    let look = |place: &str, path: PathBuf, own| match Home::inspect(&path) {
        Ok(home) => Found::Good { place: place.into(), home },
        Err(problem) => Found::Bad { place: place.into(), path, problem, own },
    };
    let own = |path: PathBuf| torch::is_own(path, machine.variable(torch::VARIABLE));
    if let Some(path) = machine.variable("LIBTORCH").map(PathBuf::from).and_then(own) {
        return look("LIBTORCH points to it", path, true);
    }
    if let Some(link) = machine.project.as_ref().map(|project| project.root.join(LINK))
        && link.symlink_metadata().is_ok()
    {
        return look("the project is linked to it", link, false);
    }
    for flavor in [Flavor::of_this_machine(), Flavor::Cuda, Flavor::Cpu] {
        let Ok(folder) = torch::cached(flavor) else { continue };
        if folder.symlink_metadata().is_ok_and(|metadata| metadata.is_dir()) {
            return look("it is in the cache", folder, false);
        }
    }
    Found::Nothing
}

pub(super) fn examine(machine: &Machine, torch: &Found) -> Vec<Line> {
    let pythons = torch::interpreters().unwrap_or_default();
    let mut lines = vec![python(&pythons, torch.home().is_some()), cache(torch.home().is_some()), version(torch)];
    if let Some(home) = torch.home() {
        lines.push(libraries(home.path(), &system_folders(machine)));
        if home.flavor() == Flavor::Cuda {
            lines.push(nccl(home.path()));
        }
    }
    lines
}

/// Python is needed only to fetch libtorch with pip.
fn python(pythons: &[Interpreter], have_torch: bool) -> Line {
    let check = "Python";
    let way = "install Python 3.10 to 3.14 with pip, for example `apt-get install python3-pip`";
    let problem = match pythons {
        [] => "no Python 3 found, so libtorch can't be fetched".to_owned(),
        [first, ..] => {
            let named = |python: &Interpreter| format!("{} ({})", python.version, python.program.display());
            match pythons.iter().find(|python| python.fetches) {
                Some(python) => return Line::ok(check, format!("{}, with pip", named(python))),
                None => format!("{} has neither pip nor venv, so libtorch can't be fetched", named(first)),
            }
        }
    };
    if have_torch {
        Line::warning(check, format!("{problem} (libtorch is already installed)"), way)
    } else {
        Line::error(check, problem, way)
    }
}

fn cache(have_torch: bool) -> Line {
    let check = "cache";
    let folder = match crate::machine::cache::dir() {
        Ok(folder) => folder,
        Err(err) => return Line::error(check, err.to_string(), err.hint().unwrap_or_default()),
    };
    cache_at(&folder, have_torch, Flavor::of_this_machine())
}

fn cache_at(folder: &Path, have_torch: bool, flavor: Flavor) -> Line {
    let check = "cache";
    let way = "make it a writable folder, or set XDG_CACHE_HOME to one";
    let shown = folder.display();
    // A folder that does not exist yet will be created in the nearest one that does.
    let Some(nearest) = folder.ancestors().find(|path| path.symlink_metadata().is_ok()) else {
        return Line::error(check, format!("can't create {shown}"), way);
    };
    if !nearest.is_dir() {
        return Line::error(check, format!("can't use {shown}: {} is not a folder", nearest.display()), way);
    }
    let access = rustix::fs::Access::READ_OK | rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK;
    if let Err(err) = rustix::fs::access(nearest, access) {
        return Line::error(check, format!("can't use {shown}: {}: {err}", nearest.display()), way);
    }
    let Ok(disk) = rustix::fs::statvfs(nearest) else { return Line::ok(check, shown.to_string()) };
    let free_gb = disk.f_bavail as f64 * disk.f_frsize as f64 / 1e9;
    let needed_gb = torch::space_needed_gb(flavor);
    if !have_torch && free_gb < needed_gb {
        let says =
            format!("not enough space in {shown}: {free_gb:.1} GB free, {needed_gb:.0} GB needed to set up libtorch");
        return Line::error(check, says, "free space, or set XDG_CACHE_HOME to a folder on a larger disk");
    }
    Line::ok(check, format!("{shown}, {free_gb:.0} GB free"))
}

fn version(torch: &Found) -> Line {
    let check = "libtorch";
    let needed = torch::VERSION;
    match torch {
        Found::Nothing => Line::warning(
            check,
            format!("{needed} not found"),
            "`cargo ddp setup` fetches it, and so does the first `cargo ddp run`",
        ),
        Found::Bad { place, path, problem, own } => {
            let way = if *own {
                format!("set LIBTORCH to a libtorch {needed}, or unset it to let `cargo ddp setup` find or fetch one")
            } else {
                "`cargo ddp setup` finds or fetches another one".to_owned()
            };
            Line::error(check, format!("{}: {problem} ({place})", path.display()), way)
        }
        Found::Good { place, home } => {
            let (flavor, path) = (home.flavor().name(), home.path().display());
            Line::ok(check, format!("{needed} ({flavor}) in {path}: {place}"))
        }
    }
}

/// Whether the dynamic linker will find all that libtorch needs.
fn libraries(home: &Path, folders: &[PathBuf]) -> Line {
    let check = "shared libraries";
    let way = "run `cargo ddp setup` for a complete libtorch, and install the package of a missing system library";
    let mut folders = folders.to_vec();
    // Through the rpath that a project's build script sets.
    folders.insert(0, home.join("lib"));
    match elf::missing(&home.join("lib/libtorch.so"), &folders) {
        Ok(missing) => match missing.first() {
            None => Line::ok(check, "libtorch finds all of them"),
            Some((name, by)) => {
                let by = by.file_name().unwrap_or_default().to_string_lossy();
                let more = if missing.len() > 1 { format!(", and {} more", missing.len() - 1) } else { String::new() };
                Line::error(check, format!("{name} is missing, which {by} needs{more}"), way)
            }
        },
        Err(problem) => Line::error(check, format!("can't read libtorch: {problem}"), way),
    }
}

/// The dynamic linker's system folders.
pub(super) fn system_folders(machine: &Machine) -> Vec<PathBuf> {
    let variable = machine.variable("LD_LIBRARY_PATH").unwrap_or_default();
    let mut folders: Vec<PathBuf> = std::env::split_paths(&variable).filter(|path| path.is_absolute()).collect();
    let mut configs = vec![machine.system_path("/etc/ld.so.conf")];
    let more = fs::read_dir(machine.system_path("/etc/ld.so.conf.d")).into_iter().flatten().flatten();
    configs.extend(more.map(|entry| entry.path()));
    for config in configs {
        let text = torch::text_of(&config);
        folders.extend(text.lines().map(str::trim).filter(|line| line.starts_with('/')).map(PathBuf::from));
    }
    let usual = ["/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu", "/lib64", "/usr/lib64", "/lib", "/usr/lib"];
    folders.extend(usual.iter().map(|folder| machine.system_path(folder)));
    folders
}

/// What our C++ includes for NCCL, and the version that libtorch was built with.
fn nccl(home: &Path) -> Line {
    let check = "NCCL";
    let way = "`cargo ddp setup --cuda` fetches them";
    let needed = [
        "nccl-include/nccl.h",
        "cuda-include/cuda_runtime.h",
        "cuda-include/crt/host_config.h",
        "cuda-include/nv/target",
    ];
    if let Some(missing) = needed.iter().find(|name| !home.join(name).exists()) {
        return Line::error(check, format!("incomplete headers: {missing} is missing"), way);
    }
    match nccl_version(&torch::text_of(&home.join(needed[0]))) {
        Some(version) => Line::ok(check, format!("{version}, with its headers")),
        None => Line::warning(check, "headers of an unknown version", way),
    }
}

fn nccl_version(header: &str) -> Option<String> {
    let number = |name: &str| {
        let line = header.lines().find(|line| line.starts_with(&format!("#define NCCL_{name} ")))?;
        line.split_whitespace().nth(2)?.parse::<u32>().ok()
    };
    Some(format!("{}.{}.{}", number("MAJOR")?, number("MINOR")?, number("PATCH")?))
}

#[cfg(test)]
mod tests {
    use super::super::Level;
    use super::super::line::text;
    use super::*;
    use crate::snap::assert_text;

    fn interpreter(fetches: bool) -> Interpreter {
        Interpreter { program: "/usr/bin/python3".into(), version: "3.11.7".into(), fetches }
    }

    #[test]
    fn python_is_needed_until_libtorch_is_installed() {
        assert_eq!(python(&[], false).level, Level::Error);
        assert_eq!(python(&[], true).level, Level::Warning);
        assert_eq!(
            python(&[interpreter(false)], false).says,
            "3.11.7 (/usr/bin/python3) has neither pip nor venv, so libtorch can't be fetched"
        );
        assert_eq!(python(&[interpreter(false), interpreter(true)], false).level, Level::Ok);
    }

    #[test]
    fn cache_must_be_a_writable_folder() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(cache_at(&dir.path().join("a/b"), true, Flavor::Cpu).level, Level::Ok);
        fs::write(dir.path().join("a"), "").unwrap();
        let line = cache_at(&dir.path().join("a/b"), true, Flavor::Cpu);
        assert!(line.level == Level::Error && line.says.ends_with("/a is not a folder"), "{line:?}");
        std::os::unix::fs::symlink("nowhere", dir.path().join("link")).unwrap();
        assert_eq!(cache_at(&dir.path().join("link"), true, Flavor::Cpu).level, Level::Error);
    }

    #[test]
    fn nccl_headers_are_checked_one_by_one() {
        let dir = tempfile::tempdir().unwrap();
        for name in [
            "nccl-include/nccl.h",
            "cuda-include/cuda_runtime.h",
            "cuda-include/crt/host_config.h",
            "cuda-include/nv/target",
        ] {
            let line = nccl(dir.path());
            assert!(line.level == Level::Error && line.says.contains(name), "{line:?}");
            fs::create_dir_all(dir.path().join(name).parent().unwrap()).unwrap();
            fs::write(dir.path().join(name), "#define NCCL_MAJOR 2\n#define NCCL_MINOR 29\n#define NCCL_PATCH 7\n")
                .unwrap();
        }
        assert_eq!(nccl(dir.path()), Line::ok("NCCL", "2.29.7, with its headers"));
        let header = dir.path().join("nccl-include/nccl.h");
        fs::remove_file(&header).unwrap();
        let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        rustix::fs::mknodat(rustix::fs::CWD, &header, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        assert_eq!(nccl(dir.path()).level, Level::Warning, "a FIFO is not waited for");
    }

    #[test]
    fn libtorch_lines_match_their_snapshot() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("file"), "").unwrap();
        let bad = |own, place: &str| Found::Bad {
            place: place.into(),
            path: "/opt/libtorch".into(),
            problem: "lib/libtorch.so is missing".into(),
            own,
        };
        let mut lines = vec![
            python(&[], false),
            python(&[interpreter(false)], true),
            python(&[interpreter(true)], false),
            cache_at(&dir.path().join("file/cache"), true, Flavor::Cpu),
            version(&Found::Nothing),
            version(&bad(true, "LIBTORCH points to it")),
            version(&bad(false, "the project is linked to it")),
            libraries(dir.path(), &[]),
            nccl(dir.path()),
        ];
        for name in [
            "nccl-include/nccl.h",
            "cuda-include/cuda_runtime.h",
            "cuda-include/crt/host_config.h",
            "cuda-include/nv/target",
        ] {
            fs::create_dir_all(dir.path().join(name).parent().unwrap()).unwrap();
            fs::write(dir.path().join(name), "").unwrap();
        }
        lines.push(nccl(dir.path()));
        let header = "#define NCCL_MAJOR 2\n#define NCCL_MINOR 29\n#define NCCL_PATCH 7\n";
        fs::write(dir.path().join("nccl-include/nccl.h"), header).unwrap();
        lines.push(nccl(dir.path()));
        assert_text!("libtorch", text(&lines, dir.path()));
    }
}
