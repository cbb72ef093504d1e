//! Which names and folders a new project may have.

use std::fs;
use std::path::Path;

use super::template::Template;
use crate::{Error, Result};

/// Words that cargo refuses as the name of a binary package: Rust's keywords, names of its crates, and of folders of
/// `target/` (cargo's `restricted_names.rs`).
const REFUSED: &[&str] = &[
    "Self", "abstract", "as", "async", "await", "become", "box", "break", "const", "continue", "crate", "do", "dyn",
    "else", "enum", "extern", "false", "final", "fn", "for", "if", "impl", "in", "let", "loop", "macro", "match",
    "mod", "move", "mut", "override", "priv", "pub", "ref", "return", "self", "static", "struct", "super", "trait",
    "true", "try", "type", "typeof", "unsafe", "unsized", "use", "virtual", "where", "while", "yield", "gen",
];
const TAKEN: &[&str] =
    &["test", "core", "std", "alloc", "proc_macro", "proc-macro", "deps", "examples", "build", "incremental"];
/// Packages behind every template's dependencies, whose crates a debugger and cargo's flags would confuse with the project's.
const BEHIND: &[&str] = &["ddp-contract", "torch-sys"];

/// Refuses what `cargo new --bin` refuses or warns of, before anything is written.
pub(super) fn check(name: &str, template: &Template) -> Result<()> {
    let bad = |problem: &str| {
        let (name, problem, suggestion) = (name.to_owned(), problem.to_owned(), suggestion(name));
        Err(Error::BadName { name, problem, suggestion })
    };
    let Some(first) = name.chars().next() else { return bad("it is empty") };
    if name.chars().any(|c| c.is_alphanumeric() && !c.is_ascii()) {
        return bad("a crate name has only ASCII letters");
    }
    if first.is_ascii_digit() {
        return bad("it starts with a digit");
    }
    if !(first.is_ascii_alphabetic() || first == '_') {
        return bad("it must start with a letter or `_`");
    }
    if !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_') {
        return bad("only letters, digits, `-` and `_` are allowed");
    }
    if name.chars().all(|c| c == '_' || c == '-') {
        return bad("it has no letter");
    }
    if REFUSED.contains(&name) {
        return bad("it is a Rust keyword");
    }
    if TAKEN.contains(&name) {
        return bad("cargo reserves this name");
    }
    // To Rust, `-` and `_` are the same.
    let is = |other: &str| other.replace('-', "_") == name.replace('-', "_");
    if BEHIND.iter().copied().chain(template.dependencies()).any(is) {
        return bad("the project depends on a package with this name");
    }
    if template.other_binaries().any(|other| other == name) {
        return bad("the template has another binary with this name");
    }
    Ok(())
}

/// A name like this one that [`check`] takes.
pub(crate) fn suggestion(name: &str) -> String {
    const PLAIN: [(&str, char); 9] = [
        ("àáâãäåÀÁÂÃÄÅ", 'a'),
        ("çÇ", 'c'),
        ("èéêëÈÉÊË", 'e'),
        ("ìíîïÌÍÎÏ", 'i'),
        ("ñÑ", 'n'),
        ("òóôõöøÒÓÔÕÖØ", 'o'),
        ("ùúûüÙÚÛÜ", 'u'),
        ("ýÿÝ", 'y'),
        ("ßẞ", 's'),
    ];
    let plain = |c: char| PLAIN.iter().find(|(letters, _)| letters.contains(c)).map_or(c, |(_, plain)| *plain);
    let word =
        |c: char| if c.is_ascii_alphanumeric() || c == '_' { Some(c) } else { (!c.is_alphabetic()).then_some('-') };
    let text: String = name.chars().map(plain).filter_map(word).collect();
    let text = text.trim_matches('-');
    // A name without ASCII letters has no useful remainder, and a reserved word needs a prefix.
    match text.chars().next() {
        Some(first) if text != name && first.is_ascii_alphabetic() && text.len() > 1 => text.to_owned(),
        Some(_) if text.len() > 1 && text.chars().any(|c| c.is_ascii_alphabetic()) => format!("my-{text}"),
        _ => "my-model".to_owned(),
    }
}

/// Refuses a folder that cargo can't build in. It need not exist yet.
pub(super) fn check_folder(path: &Path) -> Result<()> {
    // In a folder behind a link, cargo sees the path without links.
    let real = |above| Some(fs::canonicalize(above).ok()?.join(path.strip_prefix(above).ok()?));
    let real = path.ancestors().find_map(real);
    for path in [Some(path), real.as_deref()].into_iter().flatten() {
        let bad = |problem| Err(Error::BadFolder { path: path.to_owned(), problem });
        match path.to_str() {
            None => return bad("the path is not valid UTF-8"),
            // rustc and build scripts get its subfolders in LD_LIBRARY_PATH, which colons divide.
            Some(text) if text.contains(':') => return bad("the path contains a `:`"),
            Some(_) => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scaffold::template::{TEMPLATES, find};

    #[test]
    fn package_name_follows_cargos_rules() {
        for template in TEMPLATES {
            for good in ["my-model", "mlp_2", "_x", "Net"] {
                assert!(check(good, template).is_ok(), "{good}");
            }
            for bad in [
                "",
                "2fast",
                "a b",
                "a/b",
                "a:b",
                "modèle",
                "-x",
                ".",
                "..",
                "fn",
                "test",
                "std",
                "core",
                "tch",
                "torch-sys",
                "torch_sys",
                "ddp-runtime",
                "ddp_runtime",
                "ddp-contract",
                "_",
                "模型",
            ] {
                let err = check(bad, template).unwrap_err();
                assert!(check(&suggestion(bad), template).is_ok(), "{err}: {}", suggestion(bad));
            }
        }
    }

    #[test]
    fn folder_is_checked_behind_links() {
        let dir = tempfile::tempdir().unwrap();
        let (colon, link) = (dir.path().join("a:b"), dir.path().join("link"));
        fs::create_dir(&colon).unwrap();
        std::os::unix::fs::symlink(&colon, &link).unwrap();
        for path in [&colon, &link, &link.join("new"), &link.join("new/er"), &dir.path().join("c:d/new")] {
            let err = check_folder(path).unwrap_err().to_string();
            assert!(err.contains("the path contains a `:`"), "{err}");
        }
        assert!(check_folder(&dir.path().join("new")).is_ok());
    }

    #[test]
    fn package_name_of_a_template_dependency_is_refused() {
        let problem = |name, template| check(name, find(template).unwrap()).unwrap_err().to_string();
        for name in ["anyhow", "clap", "ddp-runtime", "serde"] {
            assert!(problem(name, "mingpt").contains("depends on a package with this name"), "{name}");
        }
        assert!(problem("sample", "mingpt").contains("another binary with this name"));
        assert!(check("sample", find("linear").unwrap()).is_ok());
        assert!(problem("émile", "linear").contains("only ASCII letters"));
        assert_eq!(suggestion("modèle"), "modele");
        assert_eq!(suggestion("2fast"), "my-2fast");
        assert_eq!(suggestion("模型"), "my-model");
    }
}
