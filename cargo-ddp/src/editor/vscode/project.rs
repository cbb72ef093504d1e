//! What there is to debug.

use std::path::{Path, PathBuf};

use crate::project::trainable::Trainable;

/// What to generate for.
#[derive(Clone, Debug)]
pub struct Project {
    /// What is built, as a configuration names it: `${workspaceFolder}/target`.
    pub target: String,
    /// The platform that it is built for, if cargo needs `--target`.
    pub platform: Option<String>,
    /// Everything that could be debugged.
    pub trainable: Vec<Trainable>,
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
    fn target_folder_is_relative_to_the_workspace() {
        let folder = |target: &str| target_folder(Path::new("/a/ws"), Path::new(target));
        assert_eq!(folder("/a/ws/target"), "${workspaceFolder}/target");
        assert_eq!(folder("/a/shared"), "${workspaceFolder}/../shared");
        assert_eq!(path_named(Path::new("/a/ws"), &folder("/a/ws/target")), Path::new("/a/ws/target"));
        assert_eq!(path_named(Path::new("/a/ws"), &folder("/a/ws")), Path::new("/a/ws"));
    }
}
