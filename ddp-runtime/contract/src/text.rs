//! Text from peers and files on a terminal.
//!
//! A host name, a tensor's name or an error message can hold control sequences. A terminal obeys them: they move the
//! cursor, change its title, hide text, or make it type.

use std::borrow::Cow;
use std::fmt::Write;
use std::path::{Path, PathBuf};

use serde::{Serialize, Serializer};

/// `text` with every control character escaped, as in `\u{1b}[31m`, except for line ends and tabs.
///
/// Characters that reorder text (bidirectional controls) are escaped as well.
pub fn printable(text: &str) -> Cow<'_, str> {
    escaped(text, |c| is_unsafe(c) && !matches!(c, '\n' | '\t'))
}

/// As [`printable`], for text that belongs on one line: line ends and tabs are escaped, too.
pub fn printable_line(text: &str) -> Cow<'_, str> {
    escaped(text, is_unsafe)
}

/// For serde: a path as text. What is not UTF-8 in it becomes U+FFFD, where JSON would refuse the path.
///
/// # Errors
/// The serializer's.
pub fn lossy<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&path.to_string_lossy())
}

/// As [`lossy`], for a path that may be missing.
///
/// # Errors
/// The serializer's.
pub fn lossy_option<S: Serializer>(path: &Option<PathBuf>, serializer: S) -> Result<S::Ok, S::Error> {
    path.as_ref().map(|path| path.to_string_lossy()).serialize(serializer)
}

/// JSON with the characters escaped that a terminal obeys and that JSON allows in strings.
pub fn printable_json(json: &str) -> Cow<'_, str> {
    // Outside of strings JSON has no other control characters than line ends and tabs.
    if !json.contains(|c| is_unsafe(c) && !c.is_ascii_control() || c == '\u{7f}') {
        return Cow::Borrowed(json);
    }
    let mut out = String::with_capacity(json.len() + 16);
    for c in json.chars() {
        match c {
            '\n' | '\t' | '\r' => out.push(c),
            c if is_unsafe(c) => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    Cow::Owned(out)
}

fn escaped(text: &str, unsafe_here: impl Fn(char) -> bool) -> Cow<'_, str> {
    if !text.contains(&unsafe_here) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if unsafe_here(c) { out.extend(c.escape_default()) } else { out.push(c) }
    }
    Cow::Owned(out)
}

fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}' | '\u{2029}')
        || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_sequences_are_escaped_and_other_text_is_not() {
        for plain in ["", "conv1.weight", "größe 重み 🙂", "back\\slash"] {
            assert!(matches!(printable_line(plain), Cow::Borrowed(text) if text == plain));
        }
        assert_eq!(printable_line("a\x1b]0;x\x07b\r\n"), r"a\u{1b}]0;x\u{7}b\r\n");
        assert_eq!(printable("one\n\ttwo\r\u{9b}2J"), "one\n\ttwo\\r\\u{9b}2J");
        assert_eq!(printable("\u{202e}gnp.exe"), r"\u{202e}gnp.exe");
    }

    #[test]
    fn json_stays_the_same_value() {
        let text = "{\n\t\"a\u{9b}\": \"\u{202e}\u{7f}ok\"\n}";
        let escaped = printable_json(text);
        assert_eq!(escaped, "{\n\t\"a\\u009b\": \"\\u202e\\u007fok\"\n}");
        let value = |text: &str| serde_json::from_str::<serde_json::Value>(text).expect("it is JSON");
        assert_eq!(value(text), value(&escaped));
    }
}
