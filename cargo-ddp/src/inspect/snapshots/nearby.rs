//! The default folders of snapshots.

use std::fs;
use std::path::{Path, PathBuf};

use ddp_contract::snapshot as format;

/// The usual name of a folder of snapshots, and the key in train.toml.
const USUAL: &str = "snapshots";
/// How deep below a folder to look for snapshots, and in how many folders.
const DEEPEST: usize = 4;
const MOST_FOLDERS: usize = 2000;
/// Folders of programs that save no snapshots.
const SKIPPED: [&str; 4] = ["target", "node_modules", "venv", "__pycache__"];

/// The folder of snapshots of the project around `here`: the one that train.toml names, or `snapshots`. In `here` itself it is
/// relative.
pub fn usual_folder(here: &Path) -> PathBuf {
    for folder in here.ancestors() {
        let base = if folder == here { Path::new("") } else { folder };
        let named = named_in_settings(&folder.join("train.toml")).unwrap_or_else(|| USUAL.into());
        if folder.join(&named).is_dir() {
            return base.join(named);
        }
        if folder.join("Cargo.toml").exists() {
            break;
        }
    }
    USUAL.into()
}

fn named_in_settings(path: &Path) -> Option<PathBuf> {
    let settings: toml::Table = fs::read_to_string(path).ok()?.parse().ok()?;
    let named = settings.get(USUAL)?.as_str()?;
    (!named.is_empty()).then(|| named.into())
}

/// Folders below `dir` that have snapshots, in the order of their names; as far as they are quickly found.
pub(crate) fn folders_below(dir: &Path) -> Vec<PathBuf> {
    let (mut found, mut left) = (vec![], MOST_FOLDERS);
    search(dir, DEEPEST, &mut left, &mut found);
    found.sort();
    found
}

fn search(dir: &Path, depth: usize, left: &mut usize, found: &mut Vec<PathBuf>) {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let folders = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    for folder in folders.map(|entry| entry.path()) {
        let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.starts_with('.') || SKIPPED.contains(&name.as_str()) || *left == 0 {
            continue;
        }
        *left -= 1;
        if format::list(&folder).is_ok_and(|snapshots| !snapshots.is_empty()) {
            found.push(folder);
        } else if depth > 1 {
            search(&folder, depth - 1, left, found);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(folder: &Path) {
        fs::create_dir_all(folder.join("step-00000001")).unwrap();
    }

    #[test]
    fn folders_with_snapshots_are_found_below() {
        let dir = tempfile::tempdir().unwrap();
        for folder in ["b/c", "a", "target/x", ".git/x", "1/2/3/4", "1/2/3/4b/5"] {
            snapshot(&dir.path().join(folder));
        }
        fs::create_dir_all(dir.path().join("empty")).unwrap();
        assert_eq!(folders_below(dir.path()), ["1/2/3/4", "a", "b/c"].map(|folder| dir.path().join(folder)));
        assert_eq!(folders_below(&dir.path().join("none")), [""; 0].map(PathBuf::from));
    }

    #[test]
    fn usual_folder_is_from_train_toml_or_the_enclosing_project() {
        let dir = tempfile::tempdir().unwrap();
        let (project, src) = (dir.path().join("p"), dir.path().join("p/src"));
        fs::create_dir_all(&src).unwrap();
        fs::write(project.join("Cargo.toml"), "").unwrap();
        assert_eq!(usual_folder(&src), Path::new("snapshots"));
        // Beyond the project's root there is another project.
        snapshot(&dir.path().join("snapshots"));
        assert_eq!(usual_folder(&src), Path::new("snapshots"));
        snapshot(&project.join("snapshots"));
        assert_eq!((usual_folder(&src), usual_folder(&project)), (project.join("snapshots"), "snapshots".into()));
        snapshot(&project.join("saved"));
        fs::write(project.join("train.toml"), "snapshots = \"saved\"\n").unwrap();
        assert_eq!((usual_folder(&src), usual_folder(&project)), (project.join("saved"), "saved".into()));
    }
}
