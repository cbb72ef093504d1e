//! Checks of the project: whether its program starts, free disk space, and file times.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::{Line, Machine, elf, libtorch};

pub(super) fn examine(machine: &Machine) -> Vec<Line> {
    let here = machine.project.as_ref().map_or(&machine.here, |project| &project.root);
    vec![binary(machine), disk(here, free_bytes(here)), clock(machine, here, SystemTime::now())]
}

/// Whether what was built last starts: it finds libtorch through its run path, without LD_LIBRARY_PATH.
fn binary(machine: &Machine) -> Line {
    let check = "built binary";
    if let Some(problem) = &machine.broken {
        let first = problem.lines().next().unwrap_or_default();
        return Line::error(
            check,
            format!("cargo can't read this project: {first}"),
            "`cargo metadata` shows all of the error",
        );
    }
    let Some(project) = &machine.project else {
        let says = "there is no cargo project here";
        return Line::warning(check, says, "go into a project, or make one with `cargo ddp new my-model`");
    };
    let mut built: Vec<(SystemTime, PathBuf)> = Vec::new();
    for profile in ["debug", "release"] {
        let folders = project.output_folders();
        let names = project.binaries();
        let files = folders.iter().flat_map(|folder| names.iter().map(move |name| folder.join(profile).join(name)));
        built.extend(files.filter_map(|file| Some((fs::metadata(&file).ok()?.modified().ok()?, file))));
    }
    built.sort();
    let folders = libtorch::system_folders(machine);
    // The newest that uses libtorch at all.
    for (_, file) in built.iter().rev() {
        if let Some(line) = starts(file, &folders) {
            return line;
        }
    }
    Line::ok(check, "none yet that uses libtorch: `cargo ddp run` builds it")
}

fn starts(file: &Path, folders: &[PathBuf]) -> Option<Line> {
    let check = "built binary";
    let way = "build.rs must set the rpath (see a new project's), and libtorch be where it was: build again";
    let shown = file.display();
    let found = match elf::dynamic(file) {
        Ok(found) => found,
        Err(problem) => return Some(Line::error(check, format!("{shown} can't be read: {problem}"), way)),
    };
    if !found.needed.iter().any(|name| name.starts_with("libtorch")) {
        return None;
    }
    Some(match elf::missing(file, folders) {
        Ok(missing) => match missing.first() {
            None => Line::ok(check, format!("{shown} finds libtorch through its rpath")),
            Some((name, _)) if found.run_path.is_empty() => {
                Line::error(check, format!("{shown} has no rpath, and {name} is nowhere else"), way)
            }
            Some((name, _)) => Line::error(
                check,
                format!("{shown} does not find {name}; its rpath is {}", found.run_path.join(":")),
                way,
            ),
        },
        Err(problem) => Line::error(check, format!("what {shown} needs can't be read: {problem}"), way),
    })
}

fn free_bytes(folder: &Path) -> Option<u64> {
    let disk = rustix::fs::statvfs(folder).ok()?;
    Some(disk.f_bavail.saturating_mul(disk.f_frsize))
}

/// What holds a snapshot of a small model, and what holds a few of a large one.
const LITTLE: u64 = 200_000_000;
const ENOUGH: u64 = 5_000_000_000;

fn disk(folder: &Path, free: Option<u64>) -> Line {
    let check = "disk";
    let way = "make room, save snapshots elsewhere, or let fewer stay (`keep_last`, `cargo ddp snapshot prune`)";
    let Some(free) = free else { return Line::ok(check, "its free space can't be told") };
    let says = format!("{:.1} GB free in {} for snapshots", free as f64 / 1e9, folder.display());
    match free {
        0..LITTLE => Line::error(check, says, way),
        LITTLE..ENOUGH => Line::warning(check, says, way),
        _ => Line::ok(check, says),
    }
}

/// cargo decides by files' times what to build, and snapshots are sorted out by people.
fn clock(machine: &Machine, folder: &Path, now: SystemTime) -> Line {
    const TOLERATED: Duration = Duration::from_secs(2);
    let check = "clock";
    let way = "set the clock (`timedatectl set-ntp true`); cargo builds what is newer, by these times";
    let manifests = ["Cargo.toml", "Cargo.lock", "src/main.rs"];
    let ahead = manifests.iter().find_map(|name| {
        let time = fs::metadata(folder.join(name)).ok()?.modified().ok()?;
        time.duration_since(now).ok().filter(|ahead| *ahead > TOLERATED).map(|ahead| (name, ahead))
    });
    if let Some((name, ahead)) = ahead {
        return Line::warning(check, format!("{name} is {} s in the future", ahead.as_secs()), way);
    }
    // A network's disk has a clock of its own.
    let written = tempfile::NamedTempFile::new_in(folder).and_then(|file| file.as_file().metadata()?.modified());
    if let Ok(time) = written {
        let off = time.duration_since(now).unwrap_or_else(|early| early.duration());
        if off > TOLERATED {
            return Line::warning(check, format!("the disk's is {} s off this machine's", off.as_secs()), way);
        }
    }
    match machine.system_path("/run/systemd/timesync/synchronized").exists() {
        true => Line::ok(check, "set by NTP, and files have its time"),
        false => Line::ok(check, "files have its time; whether NTP sets it is not known"),
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::super::Level;
    use super::super::machine::tests::Bare;
    use super::*;

    #[test]
    fn binary_must_find_libtorch_without_ld_library_path() {
        let dir = tempfile::tempdir().unwrap();
        let cc = |args: &[&str]| {
            let built = Command::new("cc").current_dir(dir.path()).args(args).status().unwrap();
            assert!(built.success());
        };
        fs::create_dir(dir.path().join("lib")).unwrap();
        fs::write(dir.path().join("main.c"), "int main(void) { return 0; }").unwrap();
        cc(&["-shared", "-nostdlib", "-x", "c", "/dev/null", "-o", "lib/libtorch.so"]);
        let link = ["main.c", "-Llib", "-Wl,--no-as-needed", "-ltorch"];
        cc(&[&link[..], &["-o", "good", "-Wl,-rpath,$ORIGIN/lib"]].concat());
        cc(&[&link[..], &["-o", "bare"]].concat());
        cc(&["main.c", "-o", "other"]);
        let machine = Bare::new().machine;
        let system = libtorch::system_folders(&Machine { root: "/".into(), ..machine });
        let line = |name| starts(&dir.path().join(name), &system);
        assert_eq!(line("good").unwrap().level, Level::Ok);
        let bare = line("bare").unwrap();
        assert!(bare.level == Level::Error && bare.says.contains("has no rpath, and libtorch.so"), "{bare:?}");
        assert_eq!(line("other"), None);
        fs::remove_file(dir.path().join("lib/libtorch.so")).unwrap();
        assert!(line("good").unwrap().says.ends_with("does not find libtorch.so; its rpath is $ORIGIN/lib"));
        assert_eq!(line("main.c").unwrap().level, Level::Error);
    }

    #[test]
    fn disk_space_that_is_low_is_a_warning_and_none_is_an_error() {
        let level = |free| disk(Path::new("/x"), free).level;
        assert_eq!(
            [Some(10), Some(LITTLE), Some(ENOUGH), None].map(level),
            [Level::Error, Level::Warning, Level::Ok, Level::Ok]
        );
    }

    #[test]
    fn files_from_the_future_are_a_warning() {
        let bare = Bare::new();
        let manifest = bare.write("here/Cargo.toml", "");
        let line = |now| clock(&bare.machine, &bare.machine.here, now);
        assert_eq!(line(SystemTime::now()).level, Level::Ok);
        let day = Duration::from_secs(86400);
        fs::File::options().write(true).open(&manifest).unwrap().set_modified(SystemTime::now() + day).unwrap();
        assert!(line(SystemTime::now()).says.starts_with("Cargo.toml is 86"));
        fs::remove_file(manifest).unwrap();
        assert!(line(SystemTime::now() + day).says.starts_with("the disk's is 86"));
    }
}
