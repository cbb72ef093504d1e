//! What a project was made from: `.ddp-template.toml`, for `cargo ddp update`.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::files;
use super::generated::Generated;
use crate::{Error, Result};

/// The file's name.
pub(super) const FILE: &str = ".ddp-template.toml";
/// The format that this version writes, and the newest that it reads.
const FORMAT: u32 = 1;
const HEAD: &str = "# The template of this project, for `cargo ddp update`: keep this file with the project.\n";

#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Record {
    format: u32,
    /// The template's name.
    pub(super) template: String,
    /// The version of cargo-ddp that the files are from.
    pub(super) version: String,
    /// The package's name.
    pub(super) name: String,
    pub(super) standalone: bool,
    /// The checksum of each file, by its path.
    pub(super) files: BTreeMap<String, String>,
}

impl Record {
    pub(super) fn new(template: &str, name: &str, standalone: bool, generated: &Generated) -> Self {
        let files = generated.iter().map(|(path, content)| (path.clone(), checksum(content))).collect();
        let version = env!("CARGO_PKG_VERSION").to_owned();
        Self { format: FORMAT, template: template.to_owned(), version, name: name.to_owned(), standalone, files }
    }

    pub(super) fn to_toml(&self) -> String {
        HEAD.to_owned() + &toml_edit::ser::to_string_pretty(self).unwrap_or_default()
    }

    /// The record of the project in `folder`.
    pub(super) fn read(folder: &Path) -> Result<Self> {
        let path = folder.join(FILE);
        let bad = |problem: String| Error::BadRecord { path: path.clone(), problem };
        let content = files::read(&path)?.ok_or_else(|| Error::NoRecord(folder.to_owned()))?;
        let text = String::from_utf8(content).map_err(|err| bad(err.to_string()))?;
        #[derive(Deserialize)]
        struct Format {
            format: u32,
        }
        let parse_error = |err: toml_edit::de::Error| bad(err.message().to_owned());
        let Format { format } = toml_edit::de::from_str(&text).map_err(parse_error)?;
        if format > FORMAT {
            return Err(bad(format!("unknown format {format} (this version reads up to {FORMAT})")));
        }
        toml_edit::de::from_str(&text).map_err(parse_error)
    }
}

/// `<bytes>-<CRC-32C>`: enough to tell whether a file was edited.
pub(super) fn checksum(content: &[u8]) -> String {
    format!("{}-{:08x}", content.len(), crc32c::crc32c(content))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn record_is_read_as_it_was_written_and_a_newer_one_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let generated = Generated::from([("src/main.rs".to_owned(), b"fn main() {}".to_vec())]);
        let record = Record::new("bare", "m", true, &generated);
        fs::write(dir.path().join(FILE), record.to_toml()).unwrap();
        assert_eq!(Record::read(dir.path()).unwrap(), record);
        fs::write(dir.path().join(FILE), "format = 2\nelse = 1\n").unwrap();
        assert!(Record::read(dir.path()).unwrap_err().to_string().contains("unknown format 2 "));
        fs::remove_file(dir.path().join(FILE)).unwrap();
        assert!(matches!(Record::read(dir.path()), Err(Error::NoRecord(_))));
    }

    #[test]
    fn format_1_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let text = "format = 1\ntemplate = \"bare\"\nversion = \"0.1.0\"\nname = \"m\"\nstandalone = false\n\n\
            [files]\n\"src/main.rs\" = \"12-6ab8b8d9\"\n";
        fs::write(dir.path().join(FILE), text).unwrap();
        let record = Record::read(dir.path()).unwrap();
        assert_eq!((record.template.as_str(), record.files.len()), ("bare", 1));
    }
}
