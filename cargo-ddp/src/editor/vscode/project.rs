//! What there is to debug.

use std::path::{Path, PathBuf};

/// A binary, or an example, that trains: its package depends on ddp-runtime.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trainable {
    /// Its name, as cargo has it.
    pub name: String,
    /// What its entries call it: its name, unless another binary or example has the same.
    pub label: String,
    /// It is an example.
    pub example: bool,
    /// It gets configurations only once it was asked for: an example, or of a package with `vscode = false` in
    /// `[package.metadata.ddp]`.
    pub on_request: bool,
    /// Its package, where cargo must be told.
    pub package: Option<String>,
    /// Features that it needs, and that are not on by default.
    pub features: Vec<String>,
    /// All features that its package has.
    pub package_features: Vec<String>,
    /// How many workers its package has in `[package.metadata.ddp]`.
    pub workers: Option<Workers>,
}

/// What to generate for.
#[derive(Clone, Debug)]
pub struct Project {
    /// What is built, as a configuration names it: `${workspaceFolder}/target`.
    pub target: String,
    /// The platform that it is built for, if cargo is to be told.
    pub platform: Option<String>,
    /// Everything that could be debugged.
    pub trainable: Vec<Trainable>,
}

/// A number of workers, and the option that gives it to `cargo ddp run`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workers {
    /// How many.
    pub count: usize,
    /// The list of `--gpus`; without it, `--nproc`.
    pub gpus: Option<String>,
}

impl Workers {
    /// `--nproc COUNT`.
    pub fn nproc(count: usize) -> Self {
        Self { count, gpus: None }
    }

    pub(super) fn args(&self) -> [String; 2] {
        match &self.gpus {
            Some(list) => ["--gpus".into(), list.clone()],
            None => ["--nproc".into(), self.count.to_string()],
        }
    }
}

impl Trainable {
    /// The flags that choose it.
    pub(super) fn selection(&self) -> Vec<String> {
        let package = self.package.iter().flat_map(|name| ["--package".to_owned(), name.clone()]);
        let flag = if self.example { "--example" } else { "--bin" };
        let features = (!self.features.is_empty()).then(|| ["--features".to_owned(), self.features.join(",")]);
        package.chain([flag.to_owned(), self.name.clone()]).chain(features.into_iter().flatten()).collect()
    }

    /// The program, below a folder of a profile.
    pub(super) fn program(&self, target: &str, profile: &str) -> String {
        let examples = if self.example { "examples/" } else { "" };
        format!("{target}/{profile}/{examples}{}", self.name)
    }
}

/// `target`, as a configuration of a workspace in `root` names it. Only what holds for other clones is named: the path from
/// one to the other.
pub fn target_folder(root: &Path, target: &Path) -> String {
    let shared = root.components().zip(target.components()).take_while(|(a, b)| a == b).count();
    let up = std::iter::repeat_n("..".to_owned(), root.components().count() - shared);
    let down = target.components().skip(shared).map(|part| part.as_os_str().to_string_lossy().into_owned());
    std::iter::once("${workspaceFolder}".to_owned()).chain(up).chain(down).collect::<Vec<_>>().join("/")
}

/// The path that a configuration of a workspace in `root` names.
pub fn path_named(root: &Path, name: &str) -> PathBuf {
    match name.strip_prefix("${workspaceFolder}") {
        Some(rest) => root.join(rest.trim_start_matches('/')),
        None => root.join(name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_target_folder_is_named_from_the_workspace() {
        let folder = |target: &str| target_folder(Path::new("/a/ws"), Path::new(target));
        assert_eq!(folder("/a/ws/target"), "${workspaceFolder}/target");
        assert_eq!(folder("/a/shared"), "${workspaceFolder}/../shared");
        assert_eq!(path_named(Path::new("/a/ws"), &folder("/a/ws/target")), Path::new("/a/ws/target"));
        assert_eq!(path_named(Path::new("/a/ws"), &folder("/a/ws")), Path::new("/a/ws"));
    }

    #[test]
    fn cargo_is_told_what_it_can_not_know() {
        let one = Trainable {
            name: "m".into(),
            label: "m (example)".into(),
            example: true,
            on_request: true,
            package: Some("p".into()),
            features: vec![],
            package_features: vec![],
            workers: None,
        };
        assert_eq!(one.selection().join(" "), "--package p --example m");
        let features = vec!["a".to_owned(), "b/c".to_owned()];
        let needy = Trainable { features, ..one.clone() };
        assert_eq!(needy.selection().join(" "), "--package p --example m --features a,b/c");
        assert_eq!(one.program("t", "debug"), "t/debug/examples/m");
    }
}
