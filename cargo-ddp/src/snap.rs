//! Text snapshots of unit tests, in `snapshots/` next to the test. CONTRIBUTING.md describes how to accept changes.

/// Compares a text with the file `snapshots/NAME.snap`.
macro_rules! assert_text {
    ($name:expr, $text:expr) => {
        insta::with_settings!({ prepend_module_to_snapshot => false, omit_expression => true }, {
            insta::assert_snapshot!($name, $text);
        })
    };
}

pub(crate) use assert_text;
