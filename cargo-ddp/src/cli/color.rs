//! Which colors are asked for: `--color`, then CARGO_TERM_COLOR, then NO_COLOR and the terminal, as with cargo.

use std::ffi::{OsStr, OsString};

use clap::ColorChoice;

use crate::ui::Color;
use crate::{Error, Result};

const VARIABLE: &str = "CARGO_TERM_COLOR";

/// What the words ask for, else CARGO_TERM_COLOR. The words need not be a valid command line: help and errors have colors, too.
///
/// # Errors
/// [`Error::BadVariable`]
pub(crate) fn choose(words: &[OsString]) -> Result<Color> {
    color_from(words, std::env::var_os(VARIABLE).as_deref())
}

fn color_from(words: &[OsString], variable: Option<&OsStr>) -> Result<Color> {
    let variable = variable.filter(|value| !value.is_empty()).map(OsStr::to_string_lossy);
    match (of_words(words), variable) {
        (Some(color), _) => Ok(color),
        (None, Some(value)) => value.parse().map_err(|problem| {
            let value = value.into_owned();
            Error::BadVariable { name: VARIABLE, value, problem }
        }),
        (None, None) => Ok(Color::Auto),
    }
}

/// Words after `--` belong to another program.
fn of_words(words: &[OsString]) -> Option<Color> {
    let own = words.split(|word| word == "--").next().unwrap_or_default();
    let after = own.windows(2).filter(|pair| pair[0] == "--color").filter_map(|pair| pair[1].to_str());
    let joined = own.iter().filter_map(|word| word.to_str()?.strip_prefix("--color="));
    after.chain(joined).last()?.parse().ok()
}

/// The flags for cargo, which inherits CARGO_TERM_COLOR anyway.
pub(crate) fn flags_for_cargo(color: Color) -> Vec<OsString> {
    match color {
        Color::Auto => vec![],
        Color::Always => vec!["--color".into(), "always".into()],
        Color::Never => vec!["--color".into(), "never".into()],
    }
}

/// For clap's own output.
pub(crate) fn for_clap(color: Color) -> ColorChoice {
    match color {
        Color::Auto => ColorChoice::Auto,
        Color::Always => ColorChoice::Always,
        Color::Never => ColorChoice::Never,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(words: &[&str]) -> Vec<OsString> {
        words.iter().map(OsString::from).collect()
    }

    #[test]
    fn color_flag_wins_over_the_variable() {
        let choose = |flags: &[&str], variable: &str| color_from(&words(flags), Some(variable.as_ref()));
        assert_eq!(choose(&["--color", "never"], "always").unwrap(), Color::Never);
        assert_eq!(choose(&[], "always").unwrap(), Color::Always);
        assert_eq!(choose(&[], "").unwrap(), Color::Auto);
        assert_eq!(color_from(&[], None).unwrap(), Color::Auto);
        let err = choose(&[], "blue").unwrap_err().to_string();
        assert!(err.contains("CARGO_TERM_COLOR") && err.ends_with("expected auto, always or never"), "{err}");
    }

    #[test]
    fn color_is_known_before_the_command_line_is_read() {
        let of = |list: &[&str]| of_words(&words(list));
        assert_eq!(of(&["cargo-ddp", "run", "--colour", "--color", "always"]), Some(Color::Always));
        assert_eq!(of(&["cargo-ddp", "--color=always", "x"]), Some(Color::Always));
        assert_eq!(of(&["cargo-ddp", "launch", "--", "x", "--color=always"]), None);
        assert_eq!(of(&["cargo-ddp", "--color", "blue"]), None);
    }
}
