//! A JSONC file as VS Code reads it: with comments, trailing commas, perhaps a byte order mark.

use std::io;
use std::path::Path;

use ddp_contract::file;
use jsonc_parser::{CollectOptions, ParseOptions, ast};

use super::json::Style;
use crate::{Error, Result};

const BOM: char = '\u{feff}';

/// The text of a file, if there is one.
pub(super) fn read(path: &Path) -> Result<Option<String>> {
    let bytes = match file::read(path, file::SMALL) {
        Ok(bytes) => bytes,
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(err) => return Err(Error::system(format!("can't read {}", path.display()))(err)),
    };
    String::from_utf8(bytes).map(Some).map_err(|err| {
        let valid = String::from_utf8_lossy(&err.as_bytes()[..err.utf8_error().valid_up_to()]).into_owned();
        bad(path, &valid, valid.len(), "not UTF-8")
    })
}

/// A file's content, taken apart.
pub(super) struct Source<'a> {
    path: &'a Path,
    /// What was before the text: nothing, or a byte order mark.
    pub(super) mark: &'a str,
    pub(super) text: &'a str,
    /// `None` for a file without a value: an empty one, or one with comments only.
    pub(super) root: Option<ast::Object<'a>>,
    pub(super) style: Style,
}

impl<'a> Source<'a> {
    /// # Errors
    /// [`Error::BadJson`]: the file is not JSONC, or not an object.
    pub(super) fn parse(path: &'a Path, whole: &'a str) -> Result<Self> {
        let text = whole.strip_prefix(BOM).unwrap_or(whole);
        let mark = &whole[..whole.len() - text.len()];
        // VS Code's dialect: JSON with comments and trailing commas, and none of JSON5's other liberties.
        let options = ParseOptions {
            allow_comments: true,
            allow_loose_object_property_names: false,
            allow_trailing_commas: true,
            allow_missing_commas: false,
            allow_single_quoted_strings: false,
            allow_hexadecimal_numbers: false,
            allow_unary_plus_numbers: false,
            allow_bare_decimal_point_numbers: false,
            allow_non_finite_numbers: false,
            allow_extended_string_escapes: false,
        };
        let parsed = jsonc_parser::parse_to_ast(text, &CollectOptions::default(), &options).map_err(|err| {
            let problem = err.kind().to_string();
            let mut letters = problem.chars();
            let first = letters.next().map(|letter| letter.to_ascii_lowercase());
            let problem = first.into_iter().chain(letters).collect::<String>();
            bad(path, text, err.range().start, &problem)
        })?;
        let root = match parsed.value {
            None => None,
            Some(ast::Value::Object(object)) => Some(object),
            Some(other) => return Err(bad(path, text, start_of(&other), "expected an object")),
        };
        let style = style_of(text, root.as_ref());
        Ok(Self { path, mark, text, root, style })
    }

    /// A list at the top of the file. `None` when there is none.
    ///
    /// # Errors
    /// [`Error::BadJson`] if the value of `key` is not a list.
    pub(super) fn list(&self, key: &str) -> Result<Option<&ast::Array<'a>>> {
        let properties = self.root.iter().flat_map(|root| &root.properties);
        // Of several, VS Code takes the last.
        match properties.rev().find(|property| property.name.as_str() == key).map(|property| &property.value) {
            None => Ok(None),
            Some(ast::Value::Array(array)) => Ok(Some(array)),
            Some(other) => Err(bad(self.path, self.text, start_of(other), &format!("`{key}` is not a list"))),
        }
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.root.as_ref().is_some_and(|root| root.properties.iter().any(|property| property.name.as_str() == key))
    }
}

fn start_of(value: &ast::Value) -> usize {
    use jsonc_parser::common::Ranged;
    value.range().start
}

fn bad(path: &Path, text: &str, at: usize, problem: &str) -> Error {
    let before = &text[..at.min(text.len())];
    // As editors count: a line ends with \n, \r or both.
    let lines = before.replace("\r\n", "\n").replace('\r', "\n");
    let last = lines.rsplit('\n').next().unwrap_or_default();
    let (line, column) = (lines.matches('\n').count() + 1, last.chars().count() + 1);
    Error::BadJson { path: path.to_owned(), line, column, problem: problem.to_owned() }
}

fn style_of(text: &str, root: Option<&ast::Object>) -> Style {
    let eol = match text.find('\n') {
        Some(at) if text[..at].ends_with('\r') => "\r\n",
        _ => "\n",
    };
    let first = root.and_then(|root| root.properties.first());
    let indent = first.and_then(|property| super::edit::own_line_indent(text, property.range.start));
    let unit = indent.filter(|indent| !indent.is_empty()).map_or_else(|| Style::default().unit, str::to_owned);
    Style { eol, unit }
}
