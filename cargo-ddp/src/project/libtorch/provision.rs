//! Fetches a libtorch with pip into the user's cache.
//!
//! Everything happens in a staging folder that is renamed when it is complete, under a lock: an interrupted set-up is never
//! taken for a finished one, and two at the same time fetch it once.

use std::fs::{self, File, TryLockError};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use super::flavor::Flavor;
use super::home::Home;
use super::python::Python;
use super::view;
use crate::error::PipFault;
use crate::machine::cache;
use crate::os::child;
use crate::os::private;
use crate::status::Status;
use crate::version::LIBTORCH;
use crate::{Error, Result};

/// Where the provisioned libtorch of a flavor is, or will be.
pub(super) fn folder(flavor: Flavor) -> Result<PathBuf> {
    Ok(cache::dir()?.join(format!("libtorch-{LIBTORCH}-{}", flavor.name())))
}

/// What pip is to install, with the hash of every file: no index and no proxy can slip in something else. (Versions as in
/// torch 2.13.0's own requirements; `requirements.py` writes them.)
fn requirements(flavor: Flavor) -> &'static str {
    match flavor {
        Flavor::Cpu => include_str!("requirements-cpu.txt"),
        // With NumPy and safetensors, its Python can compare results with PyTorch.
        Flavor::Cuda => include_str!("requirements-cuda.txt"),
    }
}

/// Room needed while fetching and unpacking, in 10^9 bytes (measured: 1.2 and 4.7 GB installed, plus the packages).
pub(crate) fn space_needed_gb(flavor: Flavor) -> f64 {
    match flavor {
        Flavor::Cpu => 3.0,
        Flavor::Cuda => 9.0,
    }
}

pub(super) fn provision(flavor: Flavor, pythons: &[Python], ui: &dyn Status) -> Result<Home> {
    let cache = cache::dir()?;
    let folder = folder(flavor)?;
    private::create_dir_all(&cache).map_err(Error::system(format!("can't create {}", cache.display())))?;
    let _lock = lock(&cache, ui)?;
    if let Ok(home) = Home::inspect(&folder) {
        return Ok(home); // another setup was faster
    }
    remove_leftovers(&cache);
    check_space(&cache, flavor)?;
    if pythons.is_empty() {
        return Err(Error::NoPython);
    }

    let staging = cache.join(format!(".{}-{}.partial", flavor.name(), std::process::id()));
    let done = fetch(&staging, flavor, pythons, ui).and_then(|()| publish(&staging, &folder));
    // Frees the space after any failure. (After a kill, the next setup does.)
    let _ = fs::remove_dir_all(&staging);
    done
}

fn fetch(staging: &Path, flavor: Flavor, pythons: &[Python], ui: &dyn Status) -> Result<()> {
    let scratch = staging.join("tmp");
    fs::create_dir_all(&scratch).map_err(Error::system(format!("can't create {}", scratch.display())))?;
    let pip = pip(staging, pythons)?;
    let site = staging.join("site");

    let mut install = Command::new(&pip);
    install.args([
        "-m",
        "pip",
        "install",
        "--no-input",
        "--no-cache-dir",
        "--no-compile",
        "--disable-pip-version-check",
    ]);
    install.args(["--root-user-action=ignore", "--no-warn-script-location", "--progress-bar=off"]);
    // A source package would run its own code to be built. The list is complete, so dependencies need no look-up.
    install.args(["--require-hashes", "--only-binary=:all:", "--no-deps", "--target"]).arg(&site);
    let list = staging.join("requirements.txt");
    fs::write(&list, requirements(flavor)).map_err(Error::system(format!("can't write {}", list.display())))?;
    install.arg("--requirement").arg(&list);
    // So that the complete download is in the staging folder, and nothing is left in /tmp.
    install.env("TMPDIR", &scratch).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    child::dies_with_parent(&mut install);
    tracing::debug!(command = ?install, "fetching");
    run_pip(install, staging, ui)?;

    let _ = fs::remove_dir_all(&scratch);
    let _ = fs::remove_file(&list);
    let _ = fs::remove_dir_all(staging.join("venv"));
    view::missing_for(&site, flavor).map_err(Error::Incomplete)?;
    view::fill(staging, &site, flavor).map_err(Error::system("can't link libtorch"))?;
    Home::inspect(staging).map(|_| ()).map_err(Error::Incomplete)
}

/// An interpreter with a pip: the first of `pythons` that has one, or a virtual environment of one that has venv.
fn pip(staging: &Path, pythons: &[Python]) -> Result<PathBuf> {
    if let Some(python) = pythons.iter().find(|python| python.has_pip()) {
        tracing::debug!(python = %python.program.display(), version = python.version, "fetching with this Python's pip");
        return Ok(python.program.clone());
    }
    let venv = staging.join("venv");
    let made = pythons.iter().find_map(|python| python.venv(&venv));
    made.ok_or_else(|| Error::NoPip { python: pythons[0].program.clone() })
}

/// Runs pip, with its lines and the growth of `staging` as progress.
fn run_pip(mut install: Command, staging: &Path, ui: &dyn Status) -> Result<()> {
    let program = PathBuf::from(install.get_program());
    let mut child = install.spawn().map_err(|source| Error::Start { program, source })?;
    let (sender, lines) = mpsc::channel();
    let streams: [Option<Box<dyn std::io::Read + Send>>; 2] =
        [child.stdout.take().map(|s| Box::new(s) as _), child.stderr.take().map(|s| Box::new(s) as _)];
    for stream in streams.into_iter().flatten() {
        let sender = sender.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(stream).split(b'\n').map_while(|line| line.ok()) {
                let _ = sender.send(String::from_utf8_lossy(&line).trim_end().to_owned());
            }
        });
    }
    drop(sender);

    let work = ui.begin("fetching");
    let (start, mut reported) = (Instant::now(), Instant::now());
    let mut errors = Vec::new();
    loop {
        match lines.recv_timeout(Duration::from_secs(1)) {
            Ok(line) => {
                if is_error(&line) {
                    errors.push(line.clone());
                }
                if line.starts_with("Collecting") || line.starts_with("Installing") || is_error(&line) {
                    work.status("pip", line.split(" (from ").next().unwrap_or(&line));
                }
            }
            Err(mpsc::RecvTimeoutError::Timeout) => {}
            Err(mpsc::RecvTimeoutError::Disconnected) => break,
        }
        let message = || format!("{:.0} MB", size_of(staging) as f64 / 1e6);
        if work.is_visible() {
            work.set(&message());
        } else if reported.elapsed() > Duration::from_secs(10) {
            reported = Instant::now();
            ui.status("Fetching", &format!("{} in {} s", message(), start.elapsed().as_secs()));
        }
    }
    drop(work);
    let status = child.wait().map_err(Error::system("can't wait for pip"))?;
    if status.success() {
        return Ok(());
    }
    let text = errors.join("\n");
    let line = errors.into_iter().rfind(|line| line.starts_with("ERROR")).unwrap_or_else(|| status.to_string());
    Err(Error::Pip { line, fault: classify(&text) })
}

fn is_error(line: &str) -> bool {
    line.starts_with("ERROR") || line.starts_with("WARNING: Retrying") || line.contains("No space left on device")
}

fn classify(text: &str) -> PipFault {
    let has = |words: &[&str]| words.iter().any(|word| text.contains(word));
    if has(&["No space left on device"]) {
        PipFault::Disk
    } else if has(&["DO NOT MATCH THE HASHES"]) {
        PipFault::Hash
    } else if has(&["Retrying", "Connection", "Max retries", "timed out", "Temporary failure", "SSLError"]) {
        PipFault::Network
    } else if has(&["No matching distribution", "Could not find a version"]) {
        PipFault::NoWheel
    } else {
        PipFault::Other
    }
}

/// Moves the staging folder into place, after everything in it is synced to disk.
fn publish(staging: &Path, folder: &Path) -> Result<Home> {
    rustix::fs::sync();
    match fs::remove_dir_all(folder) {
        Err(err) if err.kind() != std::io::ErrorKind::NotFound => {
            return Err(Error::system(format!("can't replace {}", folder.display()))(err));
        }
        _ => {}
    }
    fs::rename(staging, folder).map_err(Error::system(format!("can't create {}", folder.display())))?;
    Home::inspect(folder).map_err(Error::Incomplete)
}

/// One setup at a time. The kernel releases the lock when the process ends.
fn lock(cache: &Path, ui: &dyn Status) -> Result<File> {
    let path = cache.join("lock");
    let cant = || Error::system(format!("can't lock {}", path.display()));
    let file = private::open_lock(&path).map_err(cant())?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            ui.status("Waiting", "for another setup to finish");
            file.lock().map_err(cant())?;
        }
        Err(TryLockError::Error(err)) => return Err(cant()(err)),
    }
    Ok(file)
}

/// Removes what killed setups left behind. This process holds the lock, so no other setup is running.
fn remove_leftovers(cache: &Path) {
    for entry in fs::read_dir(cache).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with('.') && name.ends_with(".partial") {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

fn check_space(cache: &Path, flavor: Flavor) -> Result<()> {
    let Ok(disk) = rustix::fs::statvfs(cache) else { return Ok(()) };
    let free_gb = disk.f_bavail as f64 * disk.f_frsize as f64 / 1e9;
    let needed_gb = space_needed_gb(flavor);
    if free_gb < needed_gb {
        return Err(Error::NoSpace { path: cache.to_owned(), free_gb, needed_gb });
    }
    Ok(())
}

/// Bytes in all files below `folder`. Files that vanish meanwhile count as nothing.
fn size_of(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| {
            let metadata = entry.metadata().ok()?;
            Some(if metadata.is_dir() { size_of(&entry.path()) } else { metadata.len() })
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requirements_pin_versions_and_hashes() {
        for flavor in [Flavor::Cpu, Flavor::Cuda] {
            let text = requirements(flavor).replace("\\\n", "");
            let packages: Vec<_> = text.lines().filter(|line| !line.starts_with('#')).collect();
            assert!(packages.iter().all(|line| line.contains("==") && line.contains("--hash=sha256:")), "{text}");
            assert!(packages.iter().any(|line| line.starts_with(&format!("torch=={LIBTORCH} "))));
        }
    }

    #[test]
    fn pip_errors_are_classified() {
        for (text, fault) in [
            ("ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device", PipFault::Disk),
            (
                "WARNING: Retrying (Retry(total=4)) after connection broken by 'NewConnectionError'\nERROR: No matching distribution found for torch==2.13.0",
                PipFault::Network,
            ),
            (
                "ERROR: Could not find a version that satisfies the requirement torch==2.13.0 (from versions: 2.2.0)",
                PipFault::NoWheel,
            ),
            (
                "ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE. If you have updated …",
                PipFault::Hash,
            ),
            ("ERROR: something else", PipFault::Other),
        ] {
            assert_eq!(classify(text), fault, "{text}");
        }
    }
}
