//! Which compilations of units fit together.
//!
//! cargo names a unit's files by what it is compiled from. Two projects that compile the same unit get files with the same names
//! but not the same content: serde's library, for example, contains the path of a file that its build script has written. rustc
//! refuses a crate that was compiled against another compilation of its dependency ("can't find crate"), and cargo, which looks
//! at the times of files, may not notice. So the store lists, for each unit, the compilations that it was compiled against. Only
//! units that fit together are copied into the store or into a project.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::Value;

use super::unit::{self, Unit};

/// When cargo compiled a unit, in seconds and nanoseconds. Copies and hard links keep it, so it identifies the compilation.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Time(u64, u32);

impl Time {
    fn new(time: SystemTime) -> Self {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        Self(since.as_secs(), since.subsec_nanos())
    }
}

/// A unit as it was compiled once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Compilation {
    pub(super) time: Time,
    /// The compilations of other units that it was compiled against.
    against: BTreeMap<Unit, Time>,
}

impl Compilation {
    /// Of a unit in the store's `folder`; `None` if that can't be read.
    pub(super) fn stored(unit: &Unit, folder: &Path) -> Option<Self> {
        Self::parse(&unit.fingerprint(folder), &unit::dependencies(folder).ok()?)
    }

    /// From the folder of its fingerprint, and its [list](Self::list).
    fn parse(fingerprint: &Path, list: &str) -> Option<Self> {
        let line = |line: &str| {
            let mut words = line.split(' ');
            let unit = Unit::of_name(words.next()?)?;
            Some((unit, Time(words.next()?.parse().ok()?, words.next()?.parse().ok()?)))
        };
        let against = list.lines().map(line).collect::<Option<_>>()?;
        Some(Self { time: Time::new(unit::time(fingerprint)?), against })
    }

    /// The list of its dependencies, for the store.
    pub(super) fn list(&self) -> String {
        self.against
            .iter()
            .map(|(unit, Time(seconds, nanoseconds))| format!("{unit} {seconds} {nanoseconds}\n"))
            .collect()
    }
}

/// The units that a project has compiled, or got from the store.
#[derive(Debug, Default)]
pub(super) struct Compiled {
    times: BTreeMap<Unit, Time>,
    /// By the hash with which cargo names a dependency in a fingerprint.
    by_hash: BTreeMap<String, Unit>,
}

impl Compiled {
    /// Those in the folders of some profiles.
    pub(super) fn read(profiles: &[PathBuf]) -> io::Result<Self> {
        let mut compiled = Self::default();
        for profile in profiles {
            for unit in unit::all(profile)? {
                let fingerprint = unit.fingerprint(profile);
                for json in fingerprints(&fingerprint)? {
                    if let Ok(hash) = fs::read_to_string(json.with_extension("")) {
                        compiled.by_hash.insert(hash, unit.clone());
                    }
                }
                if let Some(time) = unit::time(&fingerprint) {
                    compiled.times.insert(unit, Time::new(time));
                }
            }
        }
        Ok(compiled)
    }

    pub(super) fn times(&self) -> &BTreeMap<Unit, Time> {
        &self.times
    }

    /// A unit with its dependencies. `None` if cargo has not finished it, or if a dependency is unknown, as after
    /// `cargo clean -p`, or newer than the unit.
    pub(super) fn compilation(&self, profile: &Path, unit: &Unit) -> Option<Compilation> {
        let time = self.times.get(unit)?;
        let fingerprint = unit.fingerprint(profile);
        if !unit::is_complete(&fingerprint).ok()? {
            return None;
        }
        let mut against = BTreeMap::new();
        for json in fingerprints(&fingerprint).ok()? {
            let json: Value = serde_json::from_slice(&fs::read(json).ok()?).ok()?;
            // Each is a list: the package's hash, the crate's name, whether it is public, the fingerprint's hash.
            for dependency in json["deps"].as_array()? {
                let hash = dependency.get(3)?.as_u64()?.to_le_bytes();
                let hash: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
                let dependency = self.by_hash.get(&hash)?;
                let compiled = self.times.get(dependency).filter(|compiled| *compiled <= time)?;
                against.insert(dependency.clone(), compiled.clone());
            }
        }
        Some(Compilation { time: time.clone(), against })
    }
}

/// The descriptions in a fingerprint's folder.
fn fingerprints(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let paths = fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?;
    Ok(paths.into_iter().filter(|path| path.extension().is_some_and(|extension| extension == "json")).collect())
}

/// The compilations in `new` that fit each other and the `present` ones, among which they are about to be put. They replace
/// units of the same name.
pub(super) fn fitting(
    mut new: BTreeMap<Unit, Compilation>,
    present: &BTreeMap<Unit, Time>,
) -> BTreeMap<Unit, Compilation> {
    loop {
        let time_of = |unit: &Unit| new.get(unit).map(|compilation| &compilation.time).or_else(|| present.get(unit));
        let fits = |one: &Compilation| one.against.iter().all(|(unit, time)| time_of(unit) == Some(time));
        let misfits: Vec<Unit> = new.iter().filter(|(_, one)| !fits(one)).map(|(unit, _)| unit.clone()).collect();
        if misfits.is_empty() {
            return new;
        }
        misfits.iter().for_each(|unit| drop(new.remove(unit)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit(name: &str) -> Unit {
        Unit::new(name, "0123456789abcdef")
    }

    fn compilation(time: u64, against: &[(&str, u64)]) -> Compilation {
        let against = against.iter().map(|(name, time)| (unit(name), Time(*time, 0))).collect();
        Compilation { time: Time(time, 0), against }
    }

    #[track_caller]
    fn assert_fitting(new: &[(&str, Compilation)], present: &[(&str, u64)], expected: &[&str]) {
        let new = new.iter().map(|(name, compilation)| (unit(name), compilation.clone())).collect();
        let present = present.iter().map(|(name, time)| (unit(name), Time(*time, 0))).collect();
        let fitting: Vec<_> = fitting(new, &present).keys().map(|unit| unit.package().to_owned()).collect();
        assert_eq!(fitting, expected);
    }

    #[test]
    fn units_fit_if_they_were_compiled_against_each_other() {
        let [a, b, c] = [compilation(1, &[]), compilation(2, &[("a", 1)]), compilation(3, &[("b", 2)])];
        assert_fitting(&[("a", a.clone()), ("b", b.clone()), ("c", c.clone())], &[], &["a", "b", "c"]);
        // Against one that is already present.
        assert_fitting(&[("b", b.clone()), ("c", c.clone())], &[("a", 1)], &["b", "c"]);
        // With another compilation of `a`, older or newer, `b` does not fit, and so neither does `c`.
        for time in [0, 5] {
            assert_fitting(&[("b", b.clone()), ("c", c.clone())], &[("a", time)], &[]);
            assert_fitting(&[("a", compilation(time, &[])), ("b", b.clone()), ("c", c.clone())], &[], &["a"]);
        }
        // One that replaces an older one.
        assert_fitting(&[("a", a), ("b", b)], &[("a", 0)], &["a", "b"]);
        // The new `b` does not fit, so `c` must fit the present one.
        let [b, c] = [compilation(4, &[("a", 9)]), compilation(5, &[("b", 2)])];
        assert_fitting(&[("b", b), ("c", c)], &[("a", 1), ("b", 2)], &[]);
    }

    #[test]
    fn dependencies_are_read_from_fingerprints() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, hash: &str, deps: &str| {
            let folder = unit(name).fingerprint(dir.path());
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join("invoked.timestamp"), "").unwrap();
            fs::write(folder.join(format!("lib-{name}")), hash).unwrap();
            fs::write(folder.join(format!("lib-{name}.json")), format!("{{\"deps\":[{deps}]}}")).unwrap();
        };
        write("serde", "1f0a000000000000", "");
        write("model", "2000000000000000", "[17,\"serde\",false,2591]");
        write("other", "3000000000000000", "[17,\"unknown\",false,7]");
        write("unfinished", "", "");
        let compiled = Compiled::read(&[dir.path().to_owned()]).unwrap();
        let model = compiled.compilation(dir.path(), &unit("model")).unwrap();
        assert_eq!(model.against, BTreeMap::from([(unit("serde"), compiled.times()[&unit("serde")].clone())]));
        assert_eq!(compiled.compilation(dir.path(), &unit("other")), None);
        assert_eq!(compiled.compilation(dir.path(), &unit("unfinished")), None);
        // `serde` is compiled again.
        let timestamp =
            fs::File::options().write(true).open(unit("serde").fingerprint(dir.path()).join("invoked.timestamp"));
        timestamp.unwrap().set_modified(SystemTime::now() + std::time::Duration::from_secs(10)).unwrap();
        let later = Compiled::read(&[dir.path().to_owned()]).unwrap();
        assert_eq!(later.compilation(dir.path(), &unit("model")), None);
        // In the store it is a list.
        let parse = |list: &str| Compilation::parse(&unit("model").fingerprint(dir.path()), list);
        assert_eq!(parse(&model.list()), Some(model));
        assert_eq!(parse("serde 1"), None);
    }
}
