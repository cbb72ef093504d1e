//! Where a new project gets ddp-runtime from.

use std::path::{Path, PathBuf};

use crate::project::cargo;

/// Where a clone has ddp-runtime, and the library for build scripts.
pub(super) const RUNTIME: &str = "ddp-runtime";
pub(super) const BUILD: &str = "ddp-runtime/ddp-build";

/// Decided by how this program was built: from a clone that is still there (`cargo ddp` through its alias, or
/// `cargo install --path cargo-ddp`), a project depends on the clone by path, as the two must be of one version; else
/// (installed from a registry, or the clone is gone) on the release with this program's version.
pub(super) enum RuntimeSource {
    Release,
    Clone { root: PathBuf },
}

impl RuntimeSource {
    pub(super) fn of_this_program() -> Self {
        Self::built_in(Path::new(env!("CARGO_MANIFEST_DIR")))
    }

    fn built_in(manifest_dir: &Path) -> Self {
        let root = manifest_dir.parent().unwrap_or(manifest_dir);
        // A package from a registry is unpacked among others, without our workspace around it.
        let is_clone = root.join("Cargo.toml").exists() && root.join("ddp-runtime/Cargo.toml").exists();
        if is_clone { Self::Clone { root: root.to_owned() } } else { Self::Release }
    }

    /// The value in Cargo.toml of a dependency on the package that a clone has in `folder`.
    pub(super) fn dependency(&self, folder: &str) -> String {
        match self {
            Self::Release => format!("{:?}", env!("CARGO_PKG_VERSION")),
            Self::Clone { .. } => format!("{{ {} }}", self.key(folder)),
        }
    }

    /// The same as a key of a table: `version = "…"` or `path = "…"`.
    pub(super) fn key(&self, folder: &str) -> String {
        match self {
            Self::Release => format!("version = {:?}", env!("CARGO_PKG_VERSION")),
            Self::Clone { root } => format!("path = {:?}", root.join(folder).display().to_string()),
        }
    }

    /// The value of an alias `ddp` that runs the clone's `cargo-ddp`, as TOML; where it is installed, cargo finds it without
    /// (and warns of an alias with a command's name).
    pub(super) fn alias(&self) -> Option<String> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let home = cargo::home(Path::new(""), |name| std::env::var_os(name));
        let folders = home.map(|home| home.join("bin")).into_iter().chain(std::env::split_paths(&path));
        self.alias_beside(folders)
    }

    /// The same; cargo looks for subcommands in `folders`.
    fn alias_beside(&self, mut folders: impl Iterator<Item = PathBuf>) -> Option<String> {
        let Self::Clone { root } = self else { return None };
        if folders.any(|folder| folder.join("cargo-ddp").is_file()) {
            return None;
        }
        let manifest = root.join("cargo-ddp/Cargo.toml").display().to_string();
        // cargo splits a string at spaces; but only a string overrides the clone's own alias, in a project inside of it.
        Some(if manifest.contains(char::is_whitespace) {
            format!(r#"["run", "-q", "--manifest-path", {manifest:?}, "--"]"#)
        } else {
            format!("{:?}", format!("run -q --manifest-path {manifest} --"))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn clone_is_used_by_path_and_a_package_by_version() {
        let dir = tempfile::tempdir().unwrap();
        let manifest_dir = dir.path().join("cargo-ddp");
        assert_eq!(
            RuntimeSource::built_in(&manifest_dir).dependency(RUNTIME),
            format!("\"{}\"", env!("CARGO_PKG_VERSION"))
        );
        assert_eq!(RuntimeSource::built_in(&manifest_dir).alias_beside(std::iter::empty()), None);

        fs::create_dir(dir.path().join("ddp-runtime")).unwrap();
        fs::write(dir.path().join("ddp-runtime/Cargo.toml"), "").unwrap();
        fs::write(dir.path().join("Cargo.toml"), "").unwrap();
        let path = dir.path().join("ddp-runtime").display().to_string();
        assert_eq!(RuntimeSource::built_in(&manifest_dir).dependency(RUNTIME), format!("{{ path = {path:?} }}"));
    }

    #[test]
    fn alias_is_omitted_where_cargo_ddp_is_installed() {
        let dir = tempfile::tempdir().unwrap();
        let clone = RuntimeSource::Clone { root: "/a clone".into() };
        let folders = || [dir.path().join("no"), dir.path().to_owned()].into_iter();
        let alias = r#"["run", "-q", "--manifest-path", "/a clone/cargo-ddp/Cargo.toml", "--"]"#;
        assert_eq!(clone.alias_beside(folders()).as_deref(), Some(alias));
        fs::write(dir.path().join("cargo-ddp"), "").unwrap();
        assert_eq!(clone.alias_beside(folders()), None);
    }
}
