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
/// Dependencies of every template: cargo refuses a package that depends on its namesake.
const DEPENDENCIES: &[&str] = &["anyhow", "clap", "ddp-runtime", "tch"];

/// Refuses what `cargo new --bin` refuses, before anything is written.
pub(super) fn check(name: &str) -> Result<()> {
    let bad = |problem: &str| Err(Error::BadName { name: name.to_owned(), problem: problem.to_owned() });
    let Some(first) = name.chars().next() else { return bad("it is empty") };
    if first.is_ascii_digit() {
        return bad("it starts with a digit");
    }
    if !(first.is_ascii_alphabetic() || first == '_') {
        return bad("it must start with a letter or _");
    }
    if !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_') {
        return bad("only letters, digits, - and _ can be in it");
    }
    if name.chars().all(|c| c == '_') {
        return bad("it has no letter");
    }
    if REFUSED.contains(&name) {
        return bad("it is a keyword of Rust");
    }
    if TAKEN.contains(&name) {
        return bad("cargo keeps it for itself");
    }
    if DEPENDENCIES.contains(&name) {
        return bad("the project depends on a package of that name");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cargos_rules_hold() {
        for good in ["my-model", "mlp_2", "_x", "Net"] {
            assert!(check(good).is_ok(), "{good}");
        }
        for bad in ["", "2fast", "a b", "a/b", "modèle", "-x", ".", "..", "fn", "test", "tch", "ddp-runtime", "_"] {
            assert!(check(bad).is_err(), "{bad}");
        }
    }
}
