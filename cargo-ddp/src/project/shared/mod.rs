//! Built dependencies that the projects of a user share.
//!
//! A new project would compile libtorch's bindings, our C++ and 100 crates again. Instead, each build of `cargo ddp` leaves
//! its dependencies in the user's cache, and a project that lacks some gets them from there, before cargo looks. cargo then
//! checks them as it checks everything in `target/`: by its fingerprints. What is out of date is compiled as usual, so nothing
//! here decides that.
//!
//! | file | what it does |
//! |---|---|
//! | `store` | the folder in the cache: its key, its lock, pruning |
//! | `unit` | one crate or build script: its files in `target/`, and in the store |
//! | `compilation` | which units fit together |
//! | `packages` | which packages are shared: those whose code does not depend on the project |
//! | `place` | hard links and copies that keep their times |
//! | `age` | how long ago something was |
//!
//! Nothing in a project refers to the store: a project has files of its own, most of them hard links. So the store can be
//! deleted at any time, and `cargo clean` in one project does not affect another.
//!
//! The store only helps if all projects give torch-sys the same LIBTORCH; see `libtorch::config`.

mod age;
mod compilation;
mod packages;
mod place;
mod store;
mod unit;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cargo_metadata::{Artifact, BuildScript};

use super::cargo::Project;
use super::libtorch::{LINK, libtorch_for};
use age::is_within;
use compilation::{Compilation, Compiled, fitting};
use packages::{Locked, Package};
use store::{FORMAT, Store};
pub use store::{Summary, prune, summary};
use unit::Unit;

/// Set to `0`, it turns sharing off.
pub const VARIABLE: &str = "DDP_SHARED_BUILD";

/// In a profile's folder: what it shares, as of this file's time.
const STAMP: &str = ".ddp-shared";
/// How long the stamp is valid. After that, the units that the project uses are marked as used again.
const STAMP_AGE: Duration = Duration::from_secs(24 * 60 * 60);

/// Whether builds are shared at all.
pub fn is_on() -> bool {
    !std::env::var_os(VARIABLE).is_some_and(|value| is_off(&value))
}

/// Whether this value of [`VARIABLE`] turns sharing off.
pub(crate) fn is_off(value: &OsStr) -> bool {
    ["0", "false", "no", "off"].iter().any(|off| value == *off)
}

/// What a build of one profile of a project copies from the store and into it.
///
/// Sharing is an optimization: when something fails, it is logged, and cargo builds as usual.
#[derive(Debug)]
pub(super) struct Sharing<'a> {
    project: &'a Project,
    libtorch: OsString,
    /// The folder for intermediate files, which has the profiles' folders.
    base: PathBuf,
    /// Below it, those that the build uses: `debug`, and for a platform `x86_64-unknown-linux-gnu/debug`.
    profiles: Vec<PathBuf>,
    packages: BTreeMap<Package, BTreeSet<PathBuf>>,
    compiled: bool,
}

impl<'a> Sharing<'a> {
    /// `None` if sharing is off, or if LIBTORCH is a path of this project alone.
    pub(super) fn new(project: &'a Project, profile: Option<&str>, platforms: &[String]) -> Option<Self> {
        let libtorch = libtorch_for(&project.root);
        if !is_on() || Path::new(&libtorch).ends_with(LINK) {
            return None;
        }
        let profile = match profile.unwrap_or("dev") {
            "dev" | "test" => "debug",
            "bench" => "release",
            other => other,
        };
        let platforms = platforms.iter().map(|platform| Path::new(platform).join(profile));
        let profiles = std::iter::once(profile.into()).chain(platforms).collect();
        let base = project.build.clone();
        Some(Self { project, libtorch, base, profiles, packages: BTreeMap::new(), compiled: false })
    }

    /// Copies missing units into the project. Returns their number.
    pub(super) fn seed(&self) -> usize {
        if self.profiles.iter().all(|profile| self.is_current(profile)) {
            return 0;
        }
        self.try_seed().unwrap_or_else(|err| {
            tracing::debug!("can't reuse dependencies of earlier builds: {err}");
            0
        })
    }

    fn try_seed(&self) -> io::Result<usize> {
        let locked = Locked::read(&self.project.root)?;
        let Some(store) = Store::find(&self.project.root, &self.libtorch)? else { return Ok(0) };
        let _lock = store.lock_shared()?;
        let stored: Vec<_> = self.profiles.iter().map(|profile| store.units(profile)).collect();
        if stored.iter().all(Vec::is_empty) {
            return Ok(0);
        }
        make_target(&self.project.target)?;
        make_target(&self.base)?;
        let Some(_cargo) = self.lock_as_cargo()? else { return Ok(0) };
        let present = Compiled::read(&self.folders())?;
        let mut places = BTreeMap::new();
        let mut wanted = BTreeMap::new();
        for (profile, units) in self.profiles.iter().zip(stored) {
            for (unit, package) in units {
                let folder = store.folder_of(profile, &unit);
                if locked.has(&package)
                    && !present.times().contains_key(&unit)
                    && let Some(compilation) = Compilation::stored(&unit, &folder)
                {
                    places.insert(unit.clone(), (folder, self.base.join(profile)));
                    wanted.insert(unit, compilation);
                }
            }
        }
        let mut count = 0;
        for unit in fitting(wanted, present.times()).keys() {
            let (folder, profile) = &places[unit];
            match unit.copy_to(folder, profile) {
                Ok(()) => count += 1,
                Err(err) => tracing::debug!("{unit}: {err}"),
            }
        }
        tracing::debug!(count, store = %store.folder().display(), "reused dependencies of earlier builds");
        Ok(count)
    }

    /// Records what cargo has built or found up to date.
    pub(super) fn saw(&mut self, artifact: &Artifact) {
        let files = artifact.filenames.iter().map(|path| path.clone().into_std_path_buf());
        let is_shared = self.saw_files(&artifact.package_id.repr, files.collect());
        self.compiled |= is_shared && !artifact.fresh;
    }

    /// Records a build script that has run or was up to date.
    pub(super) fn saw_script(&mut self, script: &BuildScript) {
        self.saw_files(&script.package_id.repr, vec![script.out_dir.clone().into_std_path_buf()]);
    }

    fn saw_files(&mut self, id: &str, files: Vec<PathBuf>) -> bool {
        let Some(package) = Package::of_id(id).filter(|package| package.is_shared() && !self.project.has_member(id))
        else {
            return false;
        };
        self.packages.entry(package).or_default().extend(files);
        true
    }

    /// After a successful build: saves new units in the store, and marks the used ones.
    pub(super) fn store(&self) {
        if !self.compiled && self.profiles.iter().all(|profile| self.is_current(profile)) {
            return;
        }
        if let Err(err) = self.try_store() {
            tracing::debug!("can't save dependencies for later builds: {err}");
        }
    }

    fn try_store(&self) -> io::Result<()> {
        let Some(store) = Store::make(&self.project.root, &self.libtorch)? else { return Ok(()) };
        let _lock = store.lock()?;
        // If another cargo is building, the next build stores the units.
        let Some(_cargo) = self.lock_as_cargo()? else { return Ok(()) };
        let compiled = Compiled::read(&self.folders())?;
        let (mut new, mut places, mut present) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        for (profile, units) in &self.used() {
            for (unit, _) in store.units(profile) {
                if let Some(stored) = Compilation::stored(&unit, &store.folder_of(profile, &unit)) {
                    present.insert(unit, stored.time);
                }
            }
            let folder = self.base.join(profile);
            for (unit, package) in with_other_modes(&folder, units)? {
                let place = store.folder_of(profile, &unit);
                let Some(compilation) = compiled.compilation(&folder, &unit) else { continue };
                if present.get(&unit) >= Some(&compilation.time) {
                    unit::mark_used(&place);
                } else {
                    new.insert(unit.clone(), compilation);
                    places.insert(unit, (folder.clone(), place, package));
                }
            }
        }
        let mut files = BTreeMap::new();
        for (unit, compilation) in fitting(new, &present) {
            let (profile, place, package) = &places[&unit];
            if !files.contains_key(profile) {
                files.insert(profile, unit::files_by_hash(profile)?);
            }
            if let Err(err) = unit.store(profile, &files[profile], place, &package.to_string(), &compilation.list()) {
                tracing::debug!("{unit}: {err}");
            }
        }
        for folder in self.folders() {
            if folder.is_dir() {
                fs::write(folder.join(STAMP), self.stamp()?)?;
            }
        }
        store.prune_sometimes();
        Ok(())
    }

    /// The profiles' folders.
    fn folders(&self) -> Vec<PathBuf> {
        self.profiles.iter().map(|profile| self.base.join(profile)).collect()
    }

    /// The locks that cargo takes while it builds; `None` if a cargo has one of them.
    fn lock_as_cargo(&self) -> io::Result<Option<Vec<File>>> {
        let mut locks = Vec::new();
        for folder in self.folders() {
            let Some(more) = lock_as_cargo(&folder)? else {
                tracing::debug!("another cargo is building in {}", folder.display());
                return Ok(None);
            };
            locks.extend(more);
        }
        Ok(Some(locks))
    }

    /// The units of this build, by their profile's folder.
    fn used(&self) -> BTreeMap<PathBuf, BTreeMap<Unit, Package>> {
        let mut used: BTreeMap<PathBuf, BTreeMap<Unit, Package>> = BTreeMap::new();
        for (package, files) in &self.packages {
            for file in files {
                let Some((profile, hash)) = unit::profile_and_hash(&self.base, file) else { continue };
                used.entry(profile).or_default().insert(Unit::new(&package.name, &hash), package.clone());
            }
        }
        used
    }

    /// Whether nothing has changed since the last build that `cargo ddp` made.
    fn is_current(&self, profile: &Path) -> bool {
        let path = self.base.join(profile).join(STAMP);
        let is_recent =
            fs::metadata(&path).and_then(|stamp| stamp.modified()).is_ok_and(|time| is_within(time, STAMP_AGE));
        is_recent && self.stamp().is_ok_and(|stamp| fs::read_to_string(&path).is_ok_and(|text| text == stamp))
    }

    /// What decides which units the project uses, as far as it can change without `cargo ddp` seeing it.
    fn stamp(&self) -> io::Result<String> {
        let lock = fs::read(self.project.root.join("Cargo.lock"))?;
        Ok(format!("{FORMAT}\n{}\n{:08x}\n", self.libtorch.to_string_lossy(), crc32c::crc32c(&lock)))
    }
}

/// The units of a build, and those of the same packages that were made for `cargo check`, `cargo test` or rust-analyzer: a
/// build's messages do not list them. They are recognized by their names if the build uses one version of the package.
fn with_other_modes(folder: &Path, units: &BTreeMap<Unit, Package>) -> io::Result<BTreeMap<Unit, Package>> {
    let mut versions: BTreeMap<&str, BTreeSet<&Package>> = BTreeMap::new();
    for package in units.values() {
        versions.entry(&package.name).or_default().insert(package);
    }
    let mut all = units.clone();
    for unit in unit::all(folder)? {
        if let Some(packages) = versions.get(unit.package())
            && let (Some(package), 1) = (packages.first(), packages.len())
        {
            all.entry(unit).or_insert_with(|| (*package).clone());
        }
    }
    Ok(all)
}

/// Makes a folder for what is built, as cargo does: backups and searches skip it.
fn make_target(folder: &Path) -> io::Result<()> {
    if folder.exists() {
        return Ok(());
    }
    fs::create_dir_all(folder)?;
    let text = "Signature: 8a477f597d28d172789f06886806bc55\n\
        # This file is a cache directory tag created by cargo.\n\
        # For information about cache directory tags see https://bford.info/cachedir/\n";
    fs::write(folder.join("CACHEDIR.TAG"), text)
}

/// The lock that cargo takes while it builds in a profile's folder; `None` if a cargo has it.
fn lock_as_cargo(folder: &Path) -> io::Result<Option<Vec<File>>> {
    fs::create_dir_all(folder)?;
    let mut locks = Vec::new();
    // From 1.97 on, cargo has a second one.
    for (name, create) in [(".cargo-lock", true), (".cargo-build-lock", false)] {
        match File::options().read(true).write(true).create(create).open(folder.join(name)) {
            Ok(file) if file.try_lock().is_ok() => locks.push(file),
            Ok(_) => return Ok(None),
            Err(err) if err.kind() == io::ErrorKind::NotFound => {}
            Err(err) => return Err(err),
        }
    }
    Ok(Some(locks))
}
