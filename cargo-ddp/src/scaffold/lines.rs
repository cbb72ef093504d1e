//! Text that is edited as people edit it: line ends and a byte order mark stay as they are.

use similar::{Algorithm, DiffTag, capture_diff_slices};

const MARK: &str = "\u{feff}";

/// Without a byte order mark, and with `\n` at the end of each line: as parsers want it.
pub(super) fn plain(text: &str) -> String {
    text.strip_prefix(MARK).unwrap_or(text).replace("\r\n", "\n")
}

/// What ends the lines of a text.
pub(super) fn ending(text: &str) -> &'static str {
    if text.split_inclusive('\n').next().is_some_and(|line| line.ends_with("\r\n")) { "\r\n" } else { "\n" }
}

/// `after`, which was made from `plain(before)`, with what `before` had: each line that stays ends as it did, and new ones as
/// the first.
pub(super) fn as_before(before: &str, after: &str) -> String {
    let mark = if before.starts_with(MARK) { MARK } else { "" };
    let original: Vec<&str> = before.strip_prefix(MARK).unwrap_or(before).split_inclusive('\n').collect();
    let text = plain(before);
    let old: Vec<&str> = text.split_inclusive('\n').collect();
    let new: Vec<&str> = after.split_inclusive('\n').collect();
    let ending = ending(before);
    let mut out = mark.to_owned();
    for change in capture_diff_slices(Algorithm::Myers, &old, &new) {
        match change.tag() {
            DiffTag::Equal => original[change.old_range()].iter().for_each(|line| out += line),
            _ => new[change.new_range()].iter().for_each(|line| match line.strip_suffix('\n') {
                Some(line) => out += &format!("{line}{ending}"),
                None => out += line,
            }),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_ends_and_the_byte_order_mark_stay() {
        for (before, after) in [
            ("a\r\nb\r\n", "a\r\nnew\r\nb\r\n"),
            ("\u{feff}a\r\nb", "\u{feff}a\r\nnew\r\nb"),
            ("a\nb\r\nc\n", "a\nnew\nb\r\nc\n"),
            ("a\r\nb\n\r\n", "a\r\nnew\r\nb\n\r\n"),
        ] {
            let edited = plain(before).replacen('b', "new\nb", 1);
            assert_eq!(as_before(before, &edited), after);
        }
        assert_eq!(as_before("", "x\n"), "x\n");
    }
}
