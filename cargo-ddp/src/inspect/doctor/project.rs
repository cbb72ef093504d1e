//! Checks of the project: whether its program starts, free disk space, and file times.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::{Line, Machine, elf, libtorch};

pub(super) fn examine(machine: &Machine) -> Vec<Line> {
    let here = machine.project.as_ref().map_or(&machine.here, |project| &project.root);
    vec![binary(machine), disk(here, free_bytes(here)), clock(machine, here, SystemTime::now())]
}

/// Whether the newest binary finds libtorch through its rpath, without LD_LIBRARY_PATH.
fn binary(machine: &Machine) -> Line {
    let check = "built binary";
    if let Some(problem) = &machine.broken {
        let first = problem.lines().next().unwrap_or_default();
        return Line::error(
            check,
            format!("cargo can't read this project: {first}"),
            "`cargo metadata` prints the complete error",
        );
    }
    let Some(project) = &machine.project else {
        let says = "no cargo project here";
        return Line::warning(
            check,
            says,
            "change to a project's folder, or create a project with `cargo ddp new my-model`",
        );
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
    Line::ok(check, "none uses libtorch yet: `cargo ddp run` builds one")
}

fn starts(file: &Path, folders: &[PathBuf]) -> Option<Line> {
    let check = "built binary";
    let way = "build again; build.rs must set the rpath, as in a project of `cargo ddp new`";
    let shown = file.display();
    let found = match elf::dynamic(file) {
        Ok(found) => found,
        Err(problem) => return Some(Line::error(check, format!("can't read {shown}: {problem}"), way)),
    };
    if !found.needed.iter().any(|name| name.starts_with("libtorch")) {
        return None;
    }
    Some(match elf::missing(file, folders) {
        Ok(missing) => match missing.first() {
            None => Line::ok(check, format!("{shown} finds libtorch through its rpath")),
            Some((name, _)) if found.run_path.is_empty() => {
                Line::error(check, format!("{shown} has no rpath, so {name} is not found"), way)
            }
            Some((name, _)) => Line::error(
                check,
                format!("{shown} does not find {name}; its rpath is {}", found.run_path.join(":")),
                way,
            ),
        },
        Err(problem) => Line::error(check, format!("can't read the dependencies of {shown}: {problem}"), way),
    })
}

fn free_bytes(folder: &Path) -> Option<u64> {
    let disk = rustix::fs::statvfs(folder).ok()?;
    Some(disk.f_bavail.saturating_mul(disk.f_frsize))
}

/// Enough for a snapshot of a small model, and for a few of a large one.
const LITTLE: u64 = 200_000_000;
const ENOUGH: u64 = 5_000_000_000;

fn disk(folder: &Path, free: Option<u64>) -> Line {
    let check = "disk";
    let way = "free space, save snapshots elsewhere, or keep fewer (`keep_last`, `cargo ddp snapshot prune`)";
    let Some(free) = free else { return Line::ok(check, "unknown free space") };
    let says = format!("{:.1} GB free in {} for snapshots", free as f64 / 1e9, folder.display());
    match free {
        0..LITTLE => Line::error(check, says, way),
        LITTLE..ENOUGH => Line::warning(check, says, way),
        _ => Line::ok(check, says),
    }
}

/// cargo decides by file times what to build, and people tell snapshots apart by their times.
fn clock(machine: &Machine, folder: &Path, now: SystemTime) -> Line {
    const TOLERATED: Duration = Duration::from_secs(2);
    let check = "clock";
    let way = "set the clock (`timedatectl set-ntp true`): cargo decides by file times what to build";
    let manifests = ["Cargo.toml", "Cargo.lock", "src/main.rs"];
    let ahead = manifests.iter().find_map(|name| {
        let time = fs::metadata(folder.join(name)).ok()?.modified().ok()?;
        time.duration_since(now).ok().filter(|ahead| *ahead > TOLERATED).map(|ahead| (name, ahead))
    });
    if let Some((name, ahead)) = ahead {
        return Line::warning(check, format!("{name} is {} s in the future", ahead.as_secs()), way);
    }
    // A network file system has its own clock.
    let written = tempfile::NamedTempFile::new_in(folder).and_then(|file| file.as_file().metadata()?.modified());
    if let Ok(time) = written {
        let off = time.duration_since(now).unwrap_or_else(|early| early.duration());
        if off > TOLERATED {
            return Line::warning(check, format!("the file system's clock is {} s off", off.as_secs()), way);
        }
    }
    match machine.system_path("/run/systemd/timesync/synchronized").exists() {
        true => Line::ok(check, "set by NTP, and matches file times"),
        false => Line::ok(check, "matches file times; NTP status unknown"),
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::super::Level;
    use super::super::line::text;
    use super::super::machine::tests::Bare;
    use super::*;
    use crate::snap::assert_text;

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
        assert!(bare.level == Level::Error && bare.says.contains("has no rpath, so libtorch.so"), "{bare:?}");
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
        assert!(line(SystemTime::now() + day).says.starts_with("the file system's clock is 86"));
    }

    #[test]
    fn project_lines_match_their_snapshot() {
        let bare = Bare::new();
        let folder = &bare.machine.here;
        let day = Duration::from_secs(86_400);
        let mut lines = vec![binary(&bare.machine)];
        lines.extend(starts(&bare.write("here/text", "not ELF"), &[]));
        lines.extend([Some(10), Some(LITTLE), Some(ENOUGH), None].map(|free| disk(Path::new("/me/m"), free)));
        lines.push(clock(&bare.machine, folder, SystemTime::now()));
        bare.write("run/systemd/timesync/synchronized", "");
        lines.push(clock(&bare.machine, folder, SystemTime::now()));
        lines.push(clock(&bare.machine, folder, SystemTime::now() + day));
        let manifest = bare.write("here/Cargo.toml", "");
        fs::File::options().write(true).open(&manifest).unwrap().set_modified(SystemTime::now() + day).unwrap();
        lines.push(clock(&bare.machine, folder, SystemTime::now()));
        let broken = Machine { broken: Some("failed to parse manifest\nand more".into()), ..bare.machine };
        lines.push(binary(&broken));
        let mut lines = text(&lines, bare.dir.path());
        // A day, less the time that this takes.
        for seconds in 86_390..86_400 {
            lines = lines.replace(&format!("{seconds} s"), "86400 s");
        }
        assert_text!("project", lines);
    }
}
