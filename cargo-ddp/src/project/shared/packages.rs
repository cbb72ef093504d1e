//! Which packages are shared.

use std::fmt;
use std::fs;
use std::io;
use std::path::Path;

use toml::{Table, Value};

/// Packages that a project of a clone depends on by path. Any other path dependency is the user's own code, which may change
/// in ways that cargo does not see in a new `target/` (an older file that is moved into place).
const OURS: [&str; 3] = ["ddp-runtime", "ddp-contract", "ddp-build"];

/// A version of a package.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Package {
    pub(super) name: String,
    version: String,
    /// It is neither from a registry nor from a git repository.
    is_path: bool,
}

impl Package {
    /// From cargo's ID of a package: `registry+https://…#name@1.2.3`, `path+file:///a/name#1.2.3`.
    /// <https://doc.rust-lang.org/cargo/reference/pkgid-spec.html>
    pub(super) fn of_id(id: &str) -> Option<Self> {
        let (source, fragment) = id.split_once('#')?;
        let (name, version) = match fragment.split_once('@') {
            Some((name, version)) => (name, version),
            None => (source.split('?').next()?.rsplit('/').next()?, fragment),
        };
        let is_path = source.starts_with("path+") || source.starts_with("file:");
        Some(Self { name: name.to_owned(), version: version.to_owned(), is_path })
    }

    /// Whether its code is the same in every project.
    pub(super) fn is_shared(&self) -> bool {
        !self.is_path || OURS.contains(&self.name.as_str())
    }

    /// From its text in the store.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut words = text.split_whitespace();
        let (name, version) = (words.next()?.to_owned(), words.next()?.to_owned());
        Some(Self { name, version, is_path: words.next() == Some("path") })
    }
}

impl fmt::Display for Package {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}{}", self.name, self.version, if self.is_path { " path" } else { "" })
    }
}

/// The packages in a project's Cargo.lock. Without one, cargo chooses versions when it builds, and may choose any.
#[derive(Debug)]
pub(super) struct Locked(Option<Vec<Package>>);

impl Locked {
    /// Of the workspace in `root`.
    pub(super) fn read(root: &Path) -> io::Result<Self> {
        let text = match fs::read_to_string(root.join("Cargo.lock")) {
            Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(Self(None)),
            text => text?,
        };
        let lock: Table = text.parse().map_err(|err: toml::de::Error| io::Error::other(err.message().to_owned()))?;
        let packages = lock.get("package").and_then(Value::as_array).into_iter().flatten();
        let package = |package: &Value| {
            let text = |key: &str| Some(package.get(key)?.as_str()?.to_owned());
            Some(Package { name: text("name")?, version: text("version")?, is_path: package.get("source").is_none() })
        };
        Ok(Self(Some(packages.filter_map(package).collect())))
    }

    /// Whether a build of the project may use this package.
    pub(super) fn has(&self, package: &Package) -> bool {
        self.0.as_ref().is_none_or(|locked| locked.contains(package))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn package_ids_are_read() {
        for (id, text, is_shared) in [
            ("registry+https://github.com/rust-lang/crates.io-index#serde@1.0.229", "serde 1.0.229", true),
            ("git+https://github.com/a/tch-rs?branch=x#tch@0.26.0", "tch 0.26.0", true),
            ("git+https://github.com/a/half?rev=1#2.0.0", "half 2.0.0", true),
            ("path+file:///a/clone/ddp-runtime#0.1.0", "ddp-runtime 0.1.0 path", true),
            ("path+file:///a/clone/ddp-runtime/contract#ddp-contract@0.1.0", "ddp-contract 0.1.0 path", true),
            ("path+file:///a/my-layers#0.1.0", "my-layers 0.1.0 path", false),
        ] {
            let package = Package::of_id(id).unwrap();
            assert_eq!((package.to_string().as_str(), package.is_shared()), (text, is_shared));
            assert_eq!(Package::parse(text), Some(package));
        }
        assert_eq!(Package::of_id("serde 1.0.229"), None);
    }

    #[test]
    fn locked_packages_are_distinguished_by_version_and_source() {
        let dir = tempfile::tempdir().unwrap();
        let text = "version = 4\n[[package]]\nname = \"a\"\nversion = \"1.0.0\"\nsource = \"registry+x\"\n\
            [[package]]\nname = \"ddp-runtime\"\nversion = \"0.1.0\"\n";
        fs::write(dir.path().join("Cargo.lock"), text).unwrap();
        let locked = Locked::read(dir.path()).unwrap();
        let has = |text| locked.has(&Package::parse(text).unwrap());
        assert!(has("a 1.0.0") && has("ddp-runtime 0.1.0 path"));
        assert!(!has("a 1.0.1") && !has("a 1.0.0 path") && !has("ddp-runtime 0.1.0"));
        fs::write(dir.path().join("Cargo.lock"), "[").unwrap();
        assert!(Locked::read(dir.path()).is_err());
        fs::remove_file(dir.path().join("Cargo.lock")).unwrap();
        assert!(Locked::read(dir.path()).unwrap().has(&Package::parse("a 2.0.0").unwrap()));
    }
}
