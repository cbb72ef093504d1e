//! Units of cargo's: a crate, or a run of a build script, compiled for one set of features, flags and dependencies. cargo
//! names their files by a hash of all that, so that those of different projects can stand next to each other.
//!
//! In the store, a unit is a folder with its files where they are in `target/debug`:
//!
//! ```text
//! serde-0123456789abcdef/
//!     package                               its name and version; the time is when it was used last
//!     dependencies                          the compilations of other units that it was compiled against
//!     .fingerprint/serde-0123456789abcdef/
//!     build/serde-0123456789abcdef/         of a build script
//!     deps/libserde-0123456789abcdef.rlib
//! ```

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::place::place;

const FINGERPRINTS: &str = ".fingerprint";
const BUILD: &str = "build";
const DEPS: &str = "deps";
/// In a unit's folder in the store.
const PACKAGE: &str = "package";
/// In a unit's folder in the store.
const DEPENDENCIES: &str = "dependencies";
/// In a fingerprint's folder: its time is when cargo began to compile the unit.
const TIME: &str = "invoked.timestamp";

/// `serde-0123456789abcdef`
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Unit(String);

impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Unit {
    pub(super) fn new(package: &str, hash: &str) -> Self {
        Self(format!("{package}-{hash}"))
    }

    /// From a folder's name.
    pub(super) fn of_name(name: &str) -> Option<Self> {
        split(name).map(|_| Self(name.to_owned()))
    }

    /// The package's name.
    pub(super) fn package(&self) -> &str {
        split(&self.0).map_or("", |(package, _)| package)
    }

    fn hash(&self) -> &str {
        split(&self.0).map_or("", |(_, hash)| hash)
    }

    /// Its fingerprint's folder, in a profile's folder or its own in the store.
    pub(super) fn fingerprint(&self, profile: &Path) -> PathBuf {
        profile.join(FINGERPRINTS).join(&self.0)
    }

    /// Copies it from the store's `folder` into a profile's. The fingerprint is copied last, so that cargo sees complete units only.
    pub(super) fn copy_to(&self, folder: &Path, profile: &Path) -> io::Result<()> {
        for part in [DEPS, BUILD] {
            let from = folder.join(part);
            if from.is_dir() {
                place_all(&from, &profile.join(part))?;
            }
        }
        let staging = profile.join(FINGERPRINTS).join(format!(".{}.{}", self.0, std::process::id()));
        fs::create_dir_all(&staging)?;
        let copied = place(&self.fingerprint(folder), &staging, false)
            .and_then(|()| fs::rename(&staging, self.fingerprint(profile)));
        if copied.is_err() {
            let _ = fs::remove_dir_all(&staging);
        }
        mark_used(folder);
        copied
    }

    /// Copies it from a profile's folder into the store's `folder`, with the texts of the files `package` and `dependencies`.
    /// `files`: those in the profile's `deps`, by their hash.
    pub(super) fn store(
        &self,
        profile: &Path,
        files: &BTreeMap<String, Vec<String>>,
        folder: &Path,
        package: &str,
        dependencies: &str,
    ) -> io::Result<()> {
        // A name that `of_name` does not accept.
        let staging = folder.with_file_name(format!(".{}.partial", self.0));
        let _ = fs::remove_dir_all(&staging);
        let stored = self.store_in(profile, files, &staging).and_then(|()| {
            fs::write(staging.join(DEPENDENCIES), dependencies)?;
            fs::write(staging.join(PACKAGE), package)?;
            match fs::remove_dir_all(folder) {
                Err(err) if err.kind() != io::ErrorKind::NotFound => return Err(err),
                _ => {}
            }
            fs::rename(&staging, folder)
        });
        if stored.is_err() {
            let _ = fs::remove_dir_all(&staging);
        }
        stored
    }

    fn store_in(&self, profile: &Path, files: &BTreeMap<String, Vec<String>>, staging: &Path) -> io::Result<()> {
        fs::create_dir_all(staging)?;
        let build = profile.join(BUILD).join(&self.0);
        if build.is_dir() {
            fs::create_dir_all(staging.join(BUILD).join(&self.0))?;
            place_all(&profile.join(BUILD).join(&self.0), &staging.join(BUILD).join(&self.0))?;
        }
        for name in files.get(self.hash()).into_iter().flatten() {
            fs::create_dir_all(staging.join(DEPS))?;
            place(&profile.join(DEPS).join(name), &staging.join(DEPS).join(name), is_replaced_whole(name))?;
        }
        fs::create_dir_all(staging.join(FINGERPRINTS))?;
        place(&self.fingerprint(profile), &self.fingerprint(staging), false)
    }
}

/// Places the files of `deps`, or the folders of `build`.
fn place_all(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let (entry, name) = entry.map(|entry| (entry.path(), entry.file_name()))?;
        let to = to.join(&name);
        // A build script's folder: its program, and what it wrote.
        if entry.is_dir() && split(&name.to_string_lossy()).is_some() {
            place_all(&entry, &to)?;
        } else {
            place(&entry, &to, entry.is_file() && is_replaced_whole(&name.to_string_lossy()))?;
        }
    }
    Ok(())
}

/// Whether a file of this name is never written to in place. See [`place`].
fn is_replaced_whole(name: &str) -> bool {
    name.ends_with(".rlib")
        || name.ends_with(".rmeta")
        || name == "build-script-build"
        || name.strip_prefix("build_script_").is_some_and(|rest| split(rest).is_some())
}

/// Marks the unit in the store's `folder` as used.
pub(super) fn mark_used(folder: &Path) {
    let marked = File::open(folder.join(PACKAGE)).and_then(|file| file.set_modified(SystemTime::now()));
    if let Err(err) = marked {
        tracing::debug!("{}: {err}", folder.display());
    }
}

/// What the store says about the unit in `folder`: its package, and when it was used last.
pub(super) fn about(folder: &Path) -> io::Result<(String, SystemTime)> {
    let path = folder.join(PACKAGE);
    Ok((fs::read_to_string(&path)?, fs::metadata(&path)?.modified()?))
}

/// What the store says about the dependencies of the unit in `folder`.
pub(super) fn dependencies(folder: &Path) -> io::Result<String> {
    fs::read_to_string(folder.join(DEPENDENCIES))
}

/// When cargo compiled it. What was built later is newer in all of its files.
pub(super) fn time(fingerprint: &Path) -> Option<SystemTime> {
    let newest = |path: &Path| fs::metadata(path)?.modified();
    newest(&fingerprint.join(TIME)).or_else(|_| newest_in(fingerprint)).ok()
}

/// The run of a build script has no time stamp.
fn newest_in(folder: &Path) -> io::Result<SystemTime> {
    let times = fs::read_dir(folder)?.map(|entry| entry?.metadata()?.modified());
    times.collect::<io::Result<Vec<_>>>()?.into_iter().max().ok_or(io::ErrorKind::NotFound.into())
}

/// Whether cargo has finished it: each `NAME.json` has a `NAME` with a hash, which is written when all is well.
pub(super) fn is_complete(fingerprint: &Path) -> io::Result<bool> {
    let mut found = false;
    for entry in fs::read_dir(fingerprint)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "json") {
            found = true;
            if !fs::metadata(path.with_extension("")).is_ok_and(|hash| hash.len() == 16) {
                return Ok(false);
            }
        }
    }
    Ok(found)
}

/// All units of a profile's folder.
pub(super) fn all(profile: &Path) -> io::Result<Vec<Unit>> {
    let entries = match fs::read_dir(profile.join(FINGERPRINTS)) {
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(vec![]),
        entries => entries?,
    };
    let names = entries.flatten().map(|entry| entry.file_name());
    Ok(names.filter_map(|name| Unit::of_name(&name.to_string_lossy())).collect())
}

/// The names of the files in a profile's `deps`, by the hash in them.
pub(super) fn files_by_hash(profile: &Path) -> io::Result<BTreeMap<String, Vec<String>>> {
    let mut files: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for entry in fs::read_dir(profile.join(DEPS))? {
        let Ok(name) = entry?.file_name().into_string() else { continue };
        if let Some((_, hash)) = split(name.split('.').next().unwrap_or_default()) {
            files.entry(hash.to_owned()).or_default().push(name);
        }
    }
    Ok(files)
}

/// The profile's folder, and the hash, of a file that cargo names: `BASE/PROFILE/deps/libserde-HASH.rlib`, or
/// `BASE/PROFILE/build/serde-HASH/out`.
pub(super) fn profile_and_hash(base: &Path, file: &Path) -> Option<(PathBuf, String)> {
    let below = file.strip_prefix(base).ok()?;
    let names: Vec<&str> = below.iter().map(|name| name.to_str()).collect::<Option<_>>()?;
    let at = names.iter().rposition(|name| [DEPS, BUILD].contains(name))?;
    let (_, hash) = split(names.get(at + 1)?.split('.').next()?)?;
    Some((names[..at].iter().collect(), hash.to_owned()))
}

/// `serde-0123456789abcdef`: the name and the hash.
fn split(name: &str) -> Option<(&str, &str)> {
    let is_hash = |hash: &str| hash.len() == 16 && hash.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    name.rsplit_once('-').filter(|(name, hash)| !name.is_empty() && !name.starts_with('.') && is_hash(hash))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    const HASH: &str = "0123456789abcdef";

    fn write(path: PathBuf, text: &str) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// A library and a build script's run, as cargo leaves them.
    fn build(profile: &Path) {
        let unit = |name: &str| profile.join(format!("{name}-{HASH}"));
        write(unit(".fingerprint/md-5").join("lib-md5"), HASH);
        write(unit(".fingerprint/md-5").join("lib-md5.json"), "{\"deps\":[]}");
        write(unit(".fingerprint/md-5").join(TIME), "");
        write(profile.join(format!("deps/libmd5-{HASH}.rlib")), "library");
        write(profile.join(format!("deps/md5-{HASH}.d")), "");
        write(unit("build/md-5").join("out/generated.rs"), "generated");
        write(unit("build/md-5").join("build-script-build"), "program");
    }

    fn store(unit: &Unit, profile: &Path, folder: &Path) {
        unit.store(profile, &files_by_hash(profile).unwrap(), folder, "md-5 1.0.0", "serde-0123456789abcdef 1 0\n")
            .unwrap();
    }

    #[test]
    fn unit_is_stored_and_copied_with_all_its_files() {
        let dir = tempfile::tempdir().unwrap();
        let [one, two, stored] = ["one", "two", "stored"].map(|name| dir.path().join(name));
        build(&one);
        let unit = all(&one).unwrap().remove(0);
        assert_eq!((unit.package(), unit.hash()), ("md-5", HASH));
        store(&unit, &one, &stored);
        unit.copy_to(&stored, &two).unwrap();
        assert_eq!(all(&two).unwrap(), std::slice::from_ref(&unit));
        for file in [
            format!(".fingerprint/md-5-{HASH}/lib-md5"),
            format!("deps/libmd5-{HASH}.rlib"),
            format!("deps/md5-{HASH}.d"),
            format!("build/md-5-{HASH}/out/generated.rs"),
            format!("build/md-5-{HASH}/build-script-build"),
        ] {
            let [one, two] = [&one, &two].map(|profile| fs::metadata(profile.join(&file)).unwrap());
            assert_eq!(one.modified().unwrap(), two.modified().unwrap(), "{file}");
            let links = file.ends_with(".rlib") || file.ends_with("build-script-build");
            assert_eq!(one.ino() == two.ino(), links, "{file}");
        }
        assert_eq!(about(&stored).unwrap().0, "md-5 1.0.0");
        assert_eq!(dependencies(&stored).unwrap(), "serde-0123456789abcdef 1 0\n");
    }

    #[test]
    fn unit_is_complete_once_cargo_has_written_its_hash() {
        let dir = tempfile::tempdir().unwrap();
        build(dir.path());
        let unit = Unit::new("md-5", HASH);
        let fingerprint = unit.fingerprint(dir.path());
        assert!(is_complete(&fingerprint).unwrap());
        fs::write(fingerprint.join("lib-md5"), "").unwrap();
        assert!(!is_complete(&fingerprint).unwrap());
    }

    #[test]
    fn unit_replaces_the_stored_one() {
        let dir = tempfile::tempdir().unwrap();
        let [profile, stored] = ["one", "stored"].map(|name| dir.path().join(name));
        build(&profile);
        let unit = Unit::new("md-5", HASH);
        store(&unit, &profile, &stored);
        let library = format!("deps/libmd5-{HASH}.rlib");
        fs::remove_file(profile.join(&library)).unwrap();
        fs::write(profile.join(&library), "another").unwrap();
        store(&unit, &profile, &stored);
        assert_eq!(fs::read_to_string(stored.join(&library)).unwrap(), "another");
    }

    #[test]
    fn unit_names_are_split_at_the_hash() {
        assert_eq!(split("rmp-serde-0123456789abcdef"), Some(("rmp-serde", HASH)));
        for name in ["serde", "-0123456789abcdef", "serde-0123", "serde-0123456789ABCDEF", ".serde-0123456789abcdef"] {
            assert_eq!(split(name), None, "{name}");
        }
        let of = |file: &str| profile_and_hash(Path::new("/t"), Path::new(file));
        let debug = Some((PathBuf::from("debug"), HASH.to_owned()));
        assert_eq!(of("/t/debug/deps/libserde-0123456789abcdef.rlib"), debug);
        assert_eq!(of("/t/debug/build/serde-0123456789abcdef/out"), debug);
        let platform = Some((PathBuf::from("x86/debug"), HASH.to_owned()));
        assert_eq!(of("/t/x86/debug/build/serde-0123456789abcdef/build-script-build"), platform);
        assert_eq!(of("/t/debug/serde"), None);
        assert_eq!(of("/other/debug/deps/libserde-0123456789abcdef.rlib"), None);
    }
}
