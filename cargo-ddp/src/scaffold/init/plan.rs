//! What `cargo ddp init` is to write, and how it edits TOML.

use std::path::{Path, PathBuf};

use toml_edit::{DocumentMut, Item, Table};

use crate::scaffold::lines;
use crate::{Error, Result};

/// Everything is planned before anything is written.
#[derive(Default)]
pub(super) struct Plan {
    pub(super) writes: Vec<(PathBuf, Vec<u8>, String)>,
    pub(super) notes: Vec<String>,
}

impl Plan {
    pub(super) fn write(&mut self, path: PathBuf, content: impl Into<Vec<u8>>, what: impl Into<String>) {
        self.writes.push((path, content.into(), what.into()));
    }

    /// A file that was parsed and edited: its line ends and its byte order mark stay.
    pub(super) fn edit(&mut self, path: PathBuf, before: &[u8], after: &str, what: impl Into<String>) {
        self.write(path, lines::as_before(&String::from_utf8_lossy(before), after), what);
    }
}

/// A TOML file, which stays byte for byte where nothing is edited.
pub(super) fn parse(path: &Path, text: &[u8]) -> Result<DocumentMut> {
    let bad = |problem: String| Error::BadManifest { path: path.to_owned(), problem };
    let text = str::from_utf8(text).map_err(|err| bad(err.to_string()))?;
    lines::plain(text).parse().map_err(|err: toml_edit::TomlError| bad(err.message().to_owned()))
}

/// The value of a key, or a new table at the end of the file, after any comments there.
pub(super) fn table_in<'a>(document: &'a mut DocumentMut, key: &str) -> &'a mut Item {
    if !document.contains_key(key) {
        let mut table = Table::new();
        let trailing = document.trailing().as_str().unwrap_or_default().trim_end_matches('\n').to_owned();
        if !trailing.trim().is_empty() {
            table.decor_mut().set_prefix(format!("{trailing}\n\n"));
            document.set_trailing("");
        }
        document.insert(key, Item::Table(table));
    }
    &mut document[key]
}
