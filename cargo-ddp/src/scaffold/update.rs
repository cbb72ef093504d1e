//! What this version's template would change in a project that an older one made.

use std::fs;
use std::path::{Path, PathBuf};

use cargo_metadata::semver::Version;
use similar::TextDiff;

use super::generated::{Generated, generate};
use super::record::{self, Record, checksum};
use super::{files, template};
use crate::{Error, Result};

const OWN: &str = env!("CARGO_PKG_VERSION");

/// A file that would be new, changed or removed.
#[derive(Debug)]
pub struct Change {
    /// Its path in the project.
    pub path: String,
    /// What it is now, if it is there.
    before: Option<Vec<u8>>,
    /// What it would be; `None`: the template no longer has it.
    after: Option<Vec<u8>>,
}

/// What is to be done to a project, and what is left alone.
#[derive(Debug)]
pub struct Update {
    folder: PathBuf,
    record: Record,
    generated: Generated,
    /// The version of cargo-ddp that the project's files are from.
    pub from: String,
    /// Unedited files that differ from the template.
    pub changes: Vec<Change>,
    /// Edited or removed files that differ from the template: they stay unchanged.
    pub kept: Vec<String>,
    /// Files that the template no longer has, but that edited code may need.
    held: Vec<String>,
}

impl Update {
    /// Compares the project in `folder` with its template as this version has it. Changes nothing.
    ///
    /// # Errors
    /// [`Error::NoRecord`](crate::Error::NoRecord), [`Error::BadRecord`](crate::Error::BadRecord),
    /// [`Error::NoTemplate`](crate::Error::NoTemplate), [`Error::System`](crate::Error::System).
    pub fn find(folder: &Path) -> Result<Self> {
        let record = Record::read(folder)?;
        let newer =
            |version: &str| Version::parse(version).is_ok_and(|it| Version::parse(OWN).is_ok_and(|own| it > own));
        if newer(&record.version) {
            return Err(Error::MadeByNewer { version: record.version });
        }
        let generated = generate(template::find(&record.template)?, &record.name, record.standalone)?;
        let (mut changes, mut kept) = (Vec::new(), Vec::new());
        for (path, after) in &generated {
            let (recorded, new) = (record.files.get(path), checksum(after));
            let before = files::read(&folder.join(path))?;
            let now = before.as_deref().map(checksum);
            if recorded == Some(&new) || now.as_ref() == Some(&new) {
                continue; // the template has not changed, or the file is already so
            }
            // An unedited file may change, and so may a path that is new in the template.
            if now.as_ref() == recorded {
                changes.push(Change { path: path.clone(), before, after: Some(after.clone()) });
            } else {
                kept.push(path.clone());
            }
        }
        // A file that the template no longer has is removed if it is unedited, unless edited code may need it.
        let needed = kept.iter().any(|path| path.ends_with(".rs"));
        for (path, recorded) in record.files.iter().filter(|(path, _)| !needed && !generated.contains_key(*path)) {
            let before = files::read(&folder.join(path))?;
            if before.as_deref().map(checksum).as_ref() == Some(recorded) {
                changes.push(Change { path: path.clone(), before, after: None });
            }
        }
        let held: Vec<String> =
            record.files.keys().filter(|path| needed && !generated.contains_key(*path)).cloned().collect();
        Ok(Self { held, folder: folder.to_owned(), from: record.version.clone(), record, generated, changes, kept })
    }

    /// Writes the changes, and the record of what the files are now.
    ///
    /// # Errors
    /// [`Error::System`](crate::Error::System); run again, it continues.
    pub fn apply(&self) -> Result<()> {
        for change in &self.changes {
            let path = self.folder.join(&change.path);
            match &change.after {
                Some(after) => files::write(&path, after)?,
                None => fs::remove_file(&path).map_err(Error::system(format!("can't remove {}", path.display())))?,
            }
        }
        let mut record = Record::new(&self.record.template, &self.record.name, self.record.standalone, &self.generated);
        // A file that was edited is still one that was made from what is recorded.
        for path in self.kept.iter().chain(&self.held) {
            match self.record.files.get(path) {
                Some(checksum) => record.files.insert(path.clone(), checksum.clone()),
                None => record.files.remove(path),
            };
        }
        if record == self.record {
            return Ok(());
        }
        files::write(&self.folder.join(record::FILE), record.to_toml().as_bytes())
    }
}

impl Change {
    /// A unified diff, or one line for a binary file.
    pub fn diff(&self) -> String {
        let before = self.before.as_deref().unwrap_or_default();
        let after = self.after.as_deref().unwrap_or_default();
        let (Ok(before), Ok(after)) = (str::from_utf8(before), str::from_utf8(after)) else {
            return format!("the binary file {} differs\n", self.path);
        };
        let old = if self.before.is_some() { format!("a/{}", self.path) } else { "/dev/null".into() };
        let new = if self.after.is_some() { format!("b/{}", self.path) } else { "/dev/null".into() };
        TextDiff::from_lines(before, after).unified_diff().header(&old, &new).to_string()
    }
}
