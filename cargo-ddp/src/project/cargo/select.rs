//! Which binary a selection means, known before anything is built: by the rules of `cargo run`.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

use cargo_metadata::{CrateType, Package, PackageId, Target, TargetKind};

use super::project::{Project, Selection};
use crate::{Error, Result};

/// The one program of a selection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::project) struct Chosen {
    pub(in crate::project) package: PackageId,
    pub(in crate::project) name: String,
    pub(in crate::project) example: bool,
}

impl Selection {
    /// Refuses patterns, as `cargo run` does: only one program can run. (`cargo build` accepts them.)
    pub(super) fn check_names(&self) -> Result<()> {
        let kind = if self.example { "example" } else { "bin" };
        for (option, name) in [("package", &self.package), (kind, &self.target)] {
            if let Some(name) = name.as_ref().filter(|name| name.contains(['*', '?', '[', ']'])) {
                let problem = format!("`{name}` is a pattern, but only one program can run: pass its full name");
                return Err(Error::BadOption { option, problem });
            }
        }
        Ok(())
    }
}

impl Project {
    /// What `cargo run` would run. `None` for a package, binary or example that does not exist: cargo reports it better.
    ///
    /// # Errors
    /// [`Error::NoBinary`], and [`Error::ManyBinaries`] with all that could be meant.
    pub(in crate::project) fn choose(&self, selection: &Selection) -> Result<Option<Chosen>> {
        let packages = self.selected(selection);
        if packages.is_empty() {
            return Ok(None);
        }
        let of = |wanted: &dyn Fn(&Package, &Target) -> bool| -> Vec<(&Package, &Target)> {
            let targets =
                packages.iter().flat_map(|&package| package.targets.iter().map(move |target| (package, target)));
            targets.filter(|(package, target)| wanted(package, target)).collect()
        };
        let kind = if selection.example { TargetKind::Example } else { TargetKind::Bin };
        let found = match &selection.target {
            Some(name) => of(&|_, target| target.name == *name && target.is_kind(kind.clone())),
            None => {
                let defaults =
                    of(&|package, target| target.is_bin() && package.default_run.as_ref() == Some(&target.name));
                if defaults.len() == 1 { defaults } else { of(&|_, target| target.is_bin()) }
            }
        };
        match found.as_slice() {
            [] if selection.target.is_some() => Ok(None),
            [] => Err(Error::NoBinary),
            [(package, target)] => Ok(Some(Chosen {
                package: package.id.clone(),
                name: target.name.clone(),
                example: target.is_example(),
            })),
            many => {
                let is_unique = |name: &str| many.iter().filter(|(_, target)| target.name == name).count() == 1;
                let mut names: Vec<_> = many
                    .iter()
                    .map(|(package, target)| match is_unique(&target.name) {
                        true => target.name.clone(),
                        false => format!("{} (package {})", target.name, package.name),
                    })
                    .collect();
                names.sort_unstable();
                Err(Error::ManyBinaries(names.join(", ")))
            }
        }
    }

    /// The name of the program that the selection runs. `None` if there is no such program: cargo reports it.
    ///
    /// # Errors
    /// [`Error::NoBinary`] and [`Error::ManyBinaries`].
    pub fn program_of(&self, selection: &Selection) -> Result<Option<String>> {
        Ok(self.choose(selection)?.map(|chosen| chosen.name))
    }

    /// Whether the workspace has a binary of this name, or an example.
    pub fn has_program(&self, name: &str, example: bool) -> bool {
        let targets = self.metadata.workspace_packages().into_iter().flat_map(|package| &package.targets);
        targets.filter(|target| is_program(target)).any(|target| target.name == name && target.is_example() == example)
    }

    /// The packages that cargo builds for a selection: the one of `-p`; else the one of the manifest, or the workspace's
    /// default members.
    fn selected(&self, selection: &Selection) -> Vec<&Package> {
        let members = self.metadata.workspace_packages();
        match &selection.package {
            Some(spec) => members.into_iter().filter(|package| is_meant(package, spec)).collect(),
            None if self.metadata.workspace_default_members.is_available() => {
                self.metadata.workspace_default_packages()
            }
            None => members,
        }
    }

    /// The package that the selection runs. Where that is not clear: the only package that could be meant.
    pub(super) fn package_of(&self, selection: &Selection) -> Option<&Package> {
        if let Ok(Some(chosen)) = self.choose(selection)
            && let Some(package) = self.metadata.packages.iter().find(|package| package.id == chosen.package)
        {
            return Some(package);
        }
        match self.selected(selection).as_slice() {
            [one] => Some(one),
            _ => None,
        }
    }
}

/// Whether a package ID specification (`name`, `name@1.2`, `path+file:///folder#name@1.2.3`) is this package's:
/// <https://doc.rust-lang.org/cargo/reference/pkgid-spec.html>
fn is_meant(package: &Package, spec: &str) -> bool {
    if let Some((url, fragment)) = spec.split_once("://").map(|(_, url)| url.split_once('#').unwrap_or((url, ""))) {
        let folder = package.manifest_path.parent().map_or(Path::new("/"), |folder| folder.as_std_path());
        return folder == Path::new(&decoded(url)) && (fragment.is_empty() || is_named(package, fragment));
    }
    is_named(package, spec)
}

/// A URL's path: a blank in it is `%20`, and so on.
fn decoded(url: &str) -> OsString {
    let (mut bytes, mut rest) = (Vec::new(), url.as_bytes());
    while let Some((&first, tail)) = rest.split_first() {
        let digits = tail.get(..2).filter(|_| first == b'%').and_then(|digits| str::from_utf8(digits).ok());
        let byte = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        bytes.push(byte.unwrap_or(first));
        rest = if byte.is_some() { &tail[2..] } else { tail };
    }
    OsString::from_vec(bytes)
}

/// `name`, `name@version` or `version`; the version may be a part of it.
fn is_named(package: &Package, spec: &str) -> bool {
    let version = package.version.to_string();
    let is_version =
        |part: &str| version == part || version.strip_prefix(part).is_some_and(|rest| rest.starts_with('.'));
    match spec.split_once(['@', ':']) {
        Some((name, part)) => package.name == name && is_version(part),
        None if spec.starts_with(|c: char| c.is_ascii_digit()) => is_version(spec),
        None => package.name == spec,
    }
}

/// The features that a target needs and that its package does not turn on by default.
pub(super) fn features_to_turn_on(package: &Package, target: &Target) -> Vec<String> {
    let mut on = vec!["default".to_owned()];
    let mut at = 0;
    while let Some(feature) = on.get(at).cloned() {
        for other in package.features.get(&feature).into_iter().flatten() {
            if !on.contains(other) {
                on.push(other.clone());
            }
        }
        at += 1;
    }
    target.required_features.iter().filter(|feature| !on.contains(feature)).cloned().collect()
}

/// Whether a target is a program: an example can be a library, too.
pub(super) fn is_program(target: &Target) -> bool {
    (target.is_bin() || target.is_example()) && target.crate_types.contains(&CrateType::Bin)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn package_id_urls_are_decoded() {
        for (url, path) in [
            ("/a/b", "/a/b"),
            ("/a%20b/%C3%A9", "/a b/é"),
            ("/%", "/%"),
            ("/%2", "/%2"),
            ("/%zz%41", "/%zzA"),
            ("/é%2", "/é%2"),
        ] {
            assert_eq!(decoded(url), path);
        }
    }

    #[test]
    fn selection_patterns_are_refused() {
        let selection = |package: Option<&str>, target: Option<&str>, example| Selection {
            package: package.map(str::to_owned),
            target: target.map(str::to_owned),
            example,
            ..Selection::default()
        };
        let problem = |selection: Selection| selection.check_names().unwrap_err().to_string();
        assert!(problem(selection(Some("sec*"), None, false)).starts_with("--package: `sec*` is a pattern"));
        assert!(problem(selection(None, Some("t?"), false)).starts_with("--bin: "));
        assert!(problem(selection(None, Some("[ab]"), true)).starts_with("--example: "));
        assert!(selection(Some("path+file:///a%20b#0.1.0"), Some("train"), false).check_names().is_ok());
    }
}
