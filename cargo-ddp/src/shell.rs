//! Commands that are printed for people to copy.

use std::path::Path;

/// As one word of a POSIX shell.
pub(crate) fn quote(text: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "/._-+:@%,=".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

/// A path as one word that no program takes for an option.
pub(crate) fn quote_path(path: &Path) -> String {
    let text = quote(&path.to_string_lossy());
    match path.to_string_lossy().starts_with('-') {
        true => format!("./{text}"),
        false => text,
    }
}

/// A command line.
pub(crate) fn join(words: &[impl AsRef<str>]) -> String {
    words.iter().map(|word| quote(word.as_ref())).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shell_words_are_quoted() {
        let words =
            ["/plain/path-2.0", "/with space", "it's $HOME `x` \"y\"", "", "modèle", "a\nb", "~", "--x=1,2", "*"];
        for text in words {
            let script = format!("printf %s {}", quote(text));
            let output = std::process::Command::new("sh").args(["-c", &script]).output().unwrap();
            assert_eq!(String::from_utf8(output.stdout).unwrap(), text);
        }
        assert_eq!(quote_path(Path::new("-n $x")), "./'-n $x'");
        assert_eq!(join(&["a b", "c"]), "'a b' c");
    }
}
