//! Editing JSONC by replacing parts of its text: what an edit does not name stays unchanged, to the byte.

use jsonc_parser::ast;
use jsonc_parser::common::{Range, Ranged};

use super::json::{Json, Style, quoted};

/// What becomes of an element of a list.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Change {
    Keep,
    Set(Json),
    Remove,
}

/// Collects edits of one text.
pub(super) struct Editor<'a> {
    text: &'a str,
    style: &'a Style,
    edits: Vec<Edit>,
}

#[derive(Debug)]
struct Edit {
    start: usize,
    end: usize,
    with: String,
}

/// What is between two elements: white space, comments, at most one comma.
struct Gap {
    comma: Option<usize>,
    /// Where its last comment or comma ends; its start when there is none.
    content_end: usize,
    comments: bool,
    ends_in_line_comment: bool,
}

/// A new element of a list, or with a key, a new property of an object.
struct Piece<'a> {
    key: Option<&'a str>,
    value: &'a Json,
}

impl<'a> Editor<'a> {
    pub(super) fn new(text: &'a str, style: &'a Style) -> Self {
        Self { text, style, edits: vec![] }
    }

    /// The text with all edits made.
    pub(super) fn finish(mut self) -> String {
        // Stable: of two insertions at one place, the first stays the first.
        self.edits.sort_by_key(|edit| (edit.start, edit.end));
        let mut out = String::new();
        let mut done = 0;
        for edit in &self.edits {
            out.push_str(&self.text[done..edit.start]);
            out.push_str(&edit.with);
            done = edit.end;
        }
        out + &self.text[done..]
    }

    /// Makes `old` say `new`, touching only what differs.
    pub(super) fn set(&mut self, old: &ast::Value, new: &Json) {
        if Json::from_ast(old) == *new {
            return;
        }
        match (old, new) {
            (ast::Value::Array(array), Json::List(values)) => {
                let changes = (0..array.elements.len()).map(|at| match values.get(at) {
                    Some(value) => Change::Set(value.clone()),
                    None => Change::Remove,
                });
                let more = values.get(array.elements.len()..).unwrap_or_default();
                self.list(array, &changes.collect::<Vec<_>>(), more);
            }
            (ast::Value::Object(object), Json::Object(pairs)) => self.object(object, pairs),
            _ => {
                let range = old.range();
                let with = new.print(line_indent(self.text, range.start), self.style);
                self.replace(range.start, range.end, with);
            }
        }
    }

    /// Changes the elements of a list one by one, and adds `more` at its end.
    pub(super) fn list(&mut self, array: &ast::Array, changes: &[Change], more: &[Json]) {
        for (element, change) in array.elements.iter().zip(changes) {
            if let Change::Set(value) = change {
                self.set(element, value);
            }
        }
        let ranges: Vec<Range> = array.elements.iter().map(Ranged::range).collect();
        let removed: Vec<bool> = changes.iter().map(|change| *change == Change::Remove).collect();
        let pieces: Vec<_> = more.iter().map(|value| Piece { key: None, value }).collect();
        self.sequence(array.range, &ranges, &removed, &pieces);
    }

    /// Makes an object have these properties and no others. New ones come last.
    fn object(&mut self, object: &ast::Object, wanted: &[(String, Json)]) {
        let is = |property: &ast::ObjectProp, key: &str| property.name.as_str() == key;
        let mut pieces = vec![];
        for (key, value) in wanted {
            match object.properties.iter().rev().find(|property| is(property, key)) {
                Some(property) => self.set(&property.value, value),
                None => pieces.push(Piece { key: Some(key), value }),
            }
        }
        let unwanted = |property| !wanted.iter().any(|(key, _)| is(property, key));
        let removed: Vec<bool> = object.properties.iter().map(unwanted).collect();
        let ranges: Vec<Range> = object.properties.iter().map(Ranged::range).collect();
        self.sequence(object.range, &ranges, &removed, &pieces);
    }

    /// Adds properties at an object's end.
    pub(super) fn add(&mut self, object: &ast::Object, more: &[(&str, Json)]) {
        let ranges: Vec<Range> = object.properties.iter().map(Ranged::range).collect();
        let pieces: Vec<_> = more.iter().map(|(key, value)| Piece { key: Some(key), value }).collect();
        self.sequence(object.range, &ranges, &vec![false; ranges.len()], &pieces);
    }

    fn replace(&mut self, start: usize, end: usize, with: impl Into<String>) {
        self.edits.push(Edit { start, end, with: with.into() });
    }

    /// Removes items from a list or an object, and adds others at its end, with the commas that this takes.
    fn sequence(&mut self, container: Range, items: &[Range], removed: &[bool], more: &[Piece]) {
        let (open, close) = (container.start + 1, container.end - 1);
        let before = |at: usize| if at == 0 { open } else { items[at - 1].end };
        let gaps: Vec<Gap> =
            (0..=items.len()).map(|at| self.gap(before(at), items.get(at).map_or(close, |item| item.start))).collect();
        let nothing_stays = removed.iter().all(|gone| *gone) && !gaps.iter().any(|gap| gap.comments);
        if nothing_stays && more.is_empty() {
            if !items.is_empty() {
                self.replace(open, close, "");
            }
            return;
        }
        // The comment before lost its line end, because another one follows the item.
        let mut owed = false;
        for (at, item) in items.iter().enumerate() {
            if !removed[at] {
                owed = false;
                continue;
            }
            let after = item.end + usize::from(gaps[at + 1].comma == Some(item.end));
            let line_ends = self.text[after..].trim_start_matches([' ', '\t']).starts_with(['\n', '\r']);
            let in_comment = gaps[at].ends_in_line_comment || owed && !gaps[at].comments;
            // What follows must not slip into a comment that ends with its line.
            let start = if in_comment && !line_ends { item.start } else { gaps[at].content_end };
            owed = in_comment && line_ends;
            self.replace(start, item.end, "");
            if let Some(comma) = gaps[at + 1].comma {
                self.replace(comma, comma + 1, "");
            }
        }
        let last_kept = removed.iter().rposition(|gone| !gone);
        let last = &gaps[items.len()];
        let trailing_comma = last.comma.is_some();
        if more.is_empty() {
            if let Some(comma) = last_kept.filter(|at| at + 1 < items.len()).and_then(|at| gaps[at + 1].comma)
                && !trailing_comma
            {
                self.replace(comma, comma + 1, "");
            }
            return;
        }
        if last_kept.is_some_and(|at| at + 1 == items.len()) && !trailing_comma {
            self.replace(items[items.len() - 1].end, items[items.len() - 1].end, ",");
        }
        self.append(container, items, more, last.content_end, trailing_comma);
    }

    fn append(&mut self, container: Range, items: &[Range], more: &[Piece], at: usize, trailing_comma: bool) {
        let text = self.text;
        let on_one_line = !items.is_empty()
            && !text[container.start..container.end].contains(['\n', '\r'])
            && more.iter().all(|piece| piece.value.is_scalar());
        let outer = line_indent(text, container.start);
        let own_line = items.iter().find_map(|item| own_line_indent(text, item.start));
        let inner = own_line.map_or_else(|| format!("{outer}{}", self.style.unit), str::to_owned);
        let mut with = String::new();
        for (index, piece) in more.iter().enumerate() {
            with.push_str(if index == 0 { "" } else { "," });
            with.push_str(if on_one_line { " " } else { self.style.eol });
            with.push_str(if on_one_line { "" } else { &inner });
            if let Some(key) = piece.key {
                with.push_str(&quoted(key));
                with.push_str(": ");
            }
            with.push_str(&piece.value.print(&inner, self.style));
        }
        with.push_str(if trailing_comma { "," } else { "" });
        if !on_one_line && !text[at..container.end - 1].contains(['\n', '\r']) {
            with.push_str(self.style.eol);
            with.push_str(outer);
        }
        self.replace(at, at, with);
    }

    fn gap(&self, start: usize, end: usize) -> Gap {
        let mut gap = Gap { comma: None, content_end: start, comments: false, ends_in_line_comment: false };
        let mut at = start;
        while at < end {
            let rest = &self.text[at..end];
            let (length, line_comment) = if rest.starts_with("//") {
                (rest.find(['\n', '\r']).unwrap_or(rest.len()), true)
            } else if let Some(inside) = rest.strip_prefix("/*") {
                (inside.find("*/").map_or(rest.len(), |close| close + 4), false)
            } else if rest.starts_with(',') {
                gap.comma = Some(at);
                (1, false)
            } else {
                at += rest.chars().next().map_or(1, char::len_utf8);
                continue;
            };
            gap.comments |= length > 1;
            at += length;
            (gap.content_end, gap.ends_in_line_comment) = (at, line_comment);
        }
        gap
    }
}

/// The white space that a line begins with.
fn line_indent(text: &str, at: usize) -> &str {
    let line = &text[line_start(text, at)..];
    &line[..line.len() - line.trim_start_matches([' ', '\t']).len()]
}

/// What is before a place, when that is only white space of its line.
pub(super) fn own_line_indent(text: &str, at: usize) -> Option<&str> {
    // Not from the line's start: a line may be long, and hold many things.
    let start = text[..at].trim_end_matches([' ', '\t']).len();
    text[..start].ends_with(['\n', '\r']).then(|| &text[start..at])
}

fn line_start(text: &str, at: usize) -> usize {
    text[..at].rfind(['\n', '\r']).map_or(0, |end| end + 1)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::editor::vscode::source::Source;

    #[test]
    fn comment_does_not_swallow_the_entry_after_a_removed_one() {
        for text in
            ["{\"l\": [1, // one\n2,\n3,4]}", "{\"l\": [1, // one\n2,\n\n3\n,4]}", "{\"l\": [1, // one\n2, 3,\n4]}"]
        {
            let source = Source::parse(Path::new("x"), text).unwrap();
            let list = source.list("l").unwrap().unwrap();
            let mut editor = Editor::new(text, &source.style);
            editor.list(list, &[Change::Keep, Change::Remove, Change::Remove, Change::Keep], &[]);
            let after = editor.finish();
            let source = Source::parse(Path::new("x"), &after).unwrap();
            assert_eq!(source.list("l").unwrap().unwrap().elements.len(), 2, "{after}");
            assert!(after.contains("// one\n"), "{after}");
        }
    }
}
