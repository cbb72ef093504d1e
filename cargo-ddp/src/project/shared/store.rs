//! The folder in the user's cache that has the built dependencies.
//!
//! ```text
//! ~/.cache/cargo-ddp/builds/
//!     lock                          shared while a project takes units; exclusive while one leaves some, and in pruning
//!     pruned                        its time is when units that nobody uses were removed last
//!     0123456789abcdef/             one for each rustc, cargo, C++ compiler and libtorch
//!         key                       what they are
//!         debug/serde-…/            a unit; `x86_64-unknown-linux-gnu+debug` has those built for a platform
//! ```
//!
//! The key separates what cargo's own fingerprints do not: they look neither at the C++ compiler nor behind LIBTORCH.

use std::ffi::OsStr;
use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use sha2::{Digest, Sha256};

use super::age::is_within;
use super::packages::Package;
use super::unit::{self, Unit};
use crate::machine::cache;
use crate::os::private;
use crate::project::cargo;

/// The first line of a key and of a stamp: another layout has another.
pub(super) const FORMAT: &str = "2";
/// Units that no build has used for this long are removed.
const UNUSED: Duration = Duration::from_secs(30 * 24 * 60 * 60);
const PRUNE_EVERY: Duration = Duration::from_secs(24 * 60 * 60);
/// How long to wait for another process, which takes a fraction of a second. Without the lock, cargo builds as usual.
const PATIENCE: Duration = Duration::from_secs(5);

/// The part of the store that has one key.
#[derive(Debug)]
pub(super) struct Store {
    folder: PathBuf,
}

impl Store {
    /// The one for a project, if it has been made.
    pub(super) fn find(root: &Path, libtorch: &OsStr) -> io::Result<Option<Self>> {
        let builds = builds()?;
        if !builds.is_dir() {
            return Ok(None);
        }
        let Some(key) = key(root, Path::new(libtorch)) else { return Ok(None) };
        let folder = builds.join(name_of(&key));
        let found = fs::read_to_string(folder.join("key")).is_ok_and(|text| text == key);
        Ok(found.then_some(Self { folder }))
    }

    /// The one for a project; made, if it is not there.
    pub(super) fn make(root: &Path, libtorch: &OsStr) -> io::Result<Option<Self>> {
        let Some(key) = key(root, Path::new(libtorch)) else { return Ok(None) };
        let folder = builds()?.join(name_of(&key));
        private::create_dir_all(&folder)?;
        if !fs::read_to_string(folder.join("key")).is_ok_and(|text| text == key) {
            fs::write(folder.join("key"), key)?;
        }
        Ok(Some(Self { folder }))
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Where a unit of a profile is, or will be.
    pub(super) fn folder_of(&self, profile: &Path, unit: &Unit) -> PathBuf {
        self.profile(profile).join(unit.to_string())
    }

    fn profile(&self, profile: &Path) -> PathBuf {
        self.folder.join(profile.to_string_lossy().replace('/', "+"))
    }

    /// The units of a profile, and their packages.
    pub(super) fn units(&self, profile: &Path) -> Vec<(Unit, Package)> {
        let folder = self.profile(profile);
        let named = units_in(&folder);
        let known = named.filter_map(|unit| {
            let (package, _) = unit::about(&folder.join(unit.to_string())).ok()?;
            Some((unit, Package::parse(&package)?))
        });
        known.collect()
    }

    pub(super) fn lock(&self) -> io::Result<File> {
        lock(&builds()?)
    }

    pub(super) fn lock_shared(&self) -> io::Result<File> {
        let file = private::open_lock(&builds()?.join("lock"))?;
        lock_soon(&file, File::try_lock_shared)?;
        Ok(file)
    }

    /// Prunes if the last time was long ago. This process holds the lock.
    pub(super) fn prune_sometimes(&self) {
        let pruned = builds().map(|builds| (builds.join("pruned"), builds));
        if let Ok((marker, builds)) = pruned
            && !fs::metadata(&marker)
                .and_then(|marker| marker.modified())
                .is_ok_and(|time| is_within(time, PRUNE_EVERY))
        {
            let freed = prune_locked(&builds, SystemTime::now());
            tracing::debug!(freed, "pruned builds");
            let _ = fs::write(marker, "");
        }
    }
}

/// What the store holds.
#[derive(Debug, Default)]
pub struct Summary {
    /// Its folder.
    pub folder: PathBuf,
    /// The number of units: crates, build scripts and their runs.
    pub units: usize,
    /// On disk, projects' own hard links to the same files included.
    pub bytes: u64,
}

/// What the store holds; `None` if there is none.
pub fn summary() -> Option<Summary> {
    let folder = builds().ok().filter(|folder| folder.is_dir())?;
    let units: Vec<PathBuf> = all_units(&folder);
    let bytes = units.iter().map(|unit| bytes_of(unit, &|_| true)).sum();
    Some(Summary { units: units.len(), bytes, folder })
}

/// Removes units that no build has used for 30 days. Gives the bytes that this freed.
///
/// # Errors
/// The system's.
pub fn prune() -> io::Result<u64> {
    let builds = builds()?;
    if !builds.is_dir() {
        return Ok(0);
    }
    let _lock = lock(&builds)?;
    Ok(prune_locked(&builds, SystemTime::now()))
}

fn prune_locked(builds: &Path, now: SystemTime) -> u64 {
    let mut freed = 0;
    for key in folders(builds) {
        for profile in folders(&key) {
            for unit in folders(&profile) {
                let name = unit.file_name().unwrap_or_default().to_string_lossy();
                // Incomplete, and abandoned: this process holds the lock.
                let is_complete = Unit::of_name(&name).is_some();
                let is_used = unit::about(&unit)
                    .is_ok_and(|(_, used)| now.duration_since(used).is_ok_and(|unused| unused < UNUSED) || used > now);
                if !is_complete || !is_used {
                    // A file that a project links to stays on disk.
                    freed += bytes_of(&unit, &|metadata| metadata.nlink() == 1);
                    let _ = fs::remove_dir_all(&unit);
                }
            }
            let _ = fs::remove_dir(&profile);
        }
        if folders(&key).is_empty() {
            let _ = fs::remove_dir_all(&key);
        }
    }
    freed
}

fn all_units(builds: &Path) -> Vec<PathBuf> {
    folders(builds).iter().flat_map(|key| folders(key)).flat_map(|profile| folders(&profile)).collect()
}

fn units_in(profile: &Path) -> impl Iterator<Item = Unit> + use<> {
    let names = fs::read_dir(profile).into_iter().flatten().flatten().map(|entry| entry.file_name());
    names.filter_map(|name| Unit::of_name(&name.to_string_lossy()))
}

fn folders(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path()).collect()
}

fn bytes_of(folder: &Path, counts: &dyn Fn(&fs::Metadata) -> bool) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let bytes = entries.filter_map(|entry| {
        let metadata = entry.metadata().ok()?;
        Some(match metadata.is_dir() {
            true => bytes_of(&entry.path(), counts),
            false if counts(&metadata) => metadata.blocks() * 512,
            false => 0,
        })
    });
    bytes.sum()
}

fn builds() -> io::Result<PathBuf> {
    cache::dir().map(|cache| cache.join("builds")).map_err(|err| io::Error::other(err.to_string()))
}

fn lock(builds: &Path) -> io::Result<File> {
    let file = private::open_lock(&builds.join("lock"))?;
    lock_soon(&file, File::try_lock)?;
    Ok(file)
}

/// Waits for a lock, but not for one that is never released.
fn lock_soon(file: &File, attempt: fn(&File) -> Result<(), TryLockError>) -> io::Result<()> {
    let start = Instant::now();
    loop {
        match attempt(file) {
            Ok(()) => return Ok(()),
            Err(TryLockError::WouldBlock) if start.elapsed() < PATIENCE => {
                std::thread::sleep(Duration::from_millis(10))
            }
            Err(TryLockError::WouldBlock) => return Err(io::Error::other("another process has locked the store")),
            Err(TryLockError::Error(err)) => return Err(err),
        }
    }
}

fn name_of(key: &str) -> String {
    let digest = Sha256::digest(key);
    digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

/// What the built dependencies depend on, besides what cargo's fingerprints look at. `None` without a rustc or a libtorch.
fn key(root: &Path, libtorch: &Path) -> Option<String> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let rustc = version(root, &rustc, &["-vV"])?;
    let cargo = version(root, &cargo::program(), &["-V"])?;
    let compiler = std::env::var("CXX").ok().filter(|compiler| !compiler.trim().is_empty());
    let compiler = compiler.unwrap_or_else(|| "c++".into());
    let mut words = compiler.split_whitespace();
    let first = words.next().unwrap_or_default();
    let args: Vec<_> = words.chain(["--version"]).collect();
    let compiler_version = version(root, first.as_ref(), &args).unwrap_or_default();
    let compiler_version = compiler_version.lines().next().unwrap_or_default().to_owned();
    let libraries = libraries(libtorch)?;
    Some(format!(
        "{FORMAT}\n{rustc}\n{cargo}\n{compiler}: {compiler_version}\nLIBTORCH={}\n{libraries}\n",
        libtorch.display()
    ))
}

/// Identifies a libtorch that may be replaced in place.
fn libraries(libtorch: &Path) -> Option<String> {
    let library = |name: &str| {
        let metadata = fs::metadata(libtorch.join("lib").join(name)).ok()?;
        Some(format!("{name}: {} bytes, {}.{:09}", metadata.len(), metadata.mtime(), metadata.mtime_nsec()))
    };
    let names = ["libc10.so", "libtorch_cpu.so", "libtorch_cuda.so"];
    let found: Vec<String> = names.into_iter().filter_map(library).collect();
    (!found.is_empty()).then(|| found.join("\n"))
}

/// What a program prints about itself in the project's folder, where rustup may choose another.
fn version(root: &Path, program: &OsStr, args: &[&str]) -> Option<String> {
    let mut command = Command::new(program);
    command.args(args).current_dir(root).stdin(Stdio::null()).stderr(Stdio::null());
    let output = command.output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn libtorch(folder: &Path, cuda: bool) {
        fs::create_dir_all(folder.join("lib")).unwrap();
        fs::write(folder.join("lib/libtorch_cpu.so"), "").unwrap();
        if cuda {
            fs::write(folder.join("lib/libtorch_cuda.so"), "").unwrap();
        }
    }

    #[test]
    fn key_depends_on_the_libtorch_and_its_files() {
        let dir = tempfile::tempdir().unwrap();
        let [cpu, cuda] = ["cpu", "cuda"].map(|name| dir.path().join(name));
        libtorch(&cpu, false);
        libtorch(&cuda, true);
        let key = |path: &Path| key(dir.path(), path);
        let first = key(&cpu).unwrap();
        assert!(first.contains("rustc ") && first.contains("cargo ") && first.contains("c++"), "{first}");
        assert_eq!(key(&cpu).unwrap(), first);
        assert_ne!(key(&cuda).unwrap(), first);
        assert_ne!(name_of(&key(&cuda).unwrap()), name_of(&first));
        // Replaced where it is.
        fs::write(cpu.join("lib/libtorch_cpu.so"), "another").unwrap();
        assert_ne!(key(&cpu).unwrap(), first);
        assert_eq!(key(&dir.path().join("none")), None);
    }

    #[test]
    fn unused_and_unfinished_units_are_pruned() {
        let dir = tempfile::tempdir().unwrap();
        let now = SystemTime::now();
        let unit = |name: &str| dir.path().join("key-1/debug").join(name);
        let make = |name: &str, age: Duration| {
            fs::create_dir_all(unit(name)).unwrap();
            fs::write(unit(name).join("package"), "a 1.0.0").unwrap();
            fs::write(unit(name).join("library"), vec![1; 10_000]).unwrap();
            File::options().write(true).open(unit(name).join("package")).unwrap().set_modified(now - age).unwrap();
        };
        let (used, unused, partial) = ("a-0123456789abcdef", "b-0123456789abcdef", ".c-0123456789abcdef.partial");
        make(used, UNUSED / 2);
        make(unused, UNUSED * 2);
        make(partial, Duration::ZERO);
        fs::hard_link(unit(unused).join("library"), dir.path().join("project")).unwrap();
        let freed = prune_locked(dir.path(), now);
        assert!(unit(used).exists() && !unit(unused).exists() && !unit(partial).exists());
        assert!((10_000..30_000).contains(&freed), "the project still has one of the two libraries: {freed}");
        // When all are gone, so is the folder of the key.
        prune_locked(dir.path(), now + UNUSED);
        assert!(!dir.path().join("key-1").exists());
    }

    #[test]
    fn lock_that_is_never_released_is_not_waited_for_forever() {
        let dir = tempfile::tempdir().unwrap();
        let held = lock(dir.path()).unwrap();
        let other = private::open_lock(&dir.path().join("lock")).unwrap();
        let start = Instant::now();
        assert!(lock_soon(&other, File::try_lock_shared).is_err());
        assert!(start.elapsed() >= PATIENCE);
        drop(held);
        lock_soon(&other, File::try_lock_shared).unwrap();
    }
}
