//! A snapshot in another directory, for a run that must not write to the first one.

use std::fs;
use std::io;
use std::path::Path;

use ddp_contract::snapshot::{MANIFEST, ValidSnapshot};

/// Makes the directory `dir`, with `snapshot` in it if there is one. Its files are hard links to those of the original, which no
/// program changes in place; where these can't be, copies.
///
/// # Errors
/// The system's.
pub(crate) fn prepare(dir: &Path, snapshot: Option<&ValidSnapshot>) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    let Some(ValidSnapshot { folder, manifest, .. }) = snapshot else { return Ok(()) };
    let copy = dir.join(folder.file_name().unwrap_or_default());
    fs::create_dir(&copy)?;
    // The manifest last: a folder without one is not a snapshot.
    for name in manifest.files.keys().map(String::as_str).chain([MANIFEST]) {
        let from = fs::canonicalize(folder.join(name))?;
        let to = copy.join(name);
        fs::hard_link(&from, &to).or_else(|_| fs::copy(&from, &to).map(drop))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use ddp_contract::snapshot::{self, FileInfo, Manifest, manifest_text};

    #[test]
    fn scratch_directory_has_the_snapshot_and_leaves_the_original_unchanged() {
        let dir = tempfile::tempdir().unwrap();
        let original = dir.path().join("mine/step-00000040");
        fs::create_dir_all(&original).unwrap();
        fs::write(original.join("model.safetensors"), "weights").unwrap();
        fs::write(original.join("notes.txt"), "the user's own").unwrap();
        let manifest = Manifest {
            format_version: 1,
            epoch: 0,
            step: 40,
            world_size: 2,
            samples_in_epoch: 0,
            metric: None,
            states: Default::default(),
            non_finite: Default::default(),
            non_finite_since: None,
            bucket_order: vec![],
            files: [("model.safetensors".into(), FileInfo::read(&original.join("model.safetensors")).unwrap())].into(),
        };
        fs::write(original.join(MANIFEST), manifest_text(&manifest).unwrap()).unwrap();
        let valid = snapshot::valid(&original).unwrap().unwrap();
        let scratch = dir.path().join("runs/9/snapshots");
        prepare(&scratch, Some(&valid)).unwrap();
        let copy = scratch.join("step-00000040");
        assert_eq!(snapshot::verify(&copy).unwrap(), manifest);
        assert_eq!(fs::read_dir(&copy).unwrap().count(), 2);
        fs::remove_dir_all(&copy).unwrap();
        assert_eq!(snapshot::verify(&original).unwrap(), manifest);
        assert_eq!(fs::read_dir(&original).unwrap().count(), 3);

        prepare(&scratch, None).unwrap();
        assert_eq!(fs::read_dir(&scratch).unwrap().count(), 0);
    }
}
