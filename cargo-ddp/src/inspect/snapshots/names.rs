//! The table that renames tensors on import and export (`--names`).

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;

use ddp_contract::file;
use serde_json::Value;

use crate::{Error, Result};

/// From one program's names of tensors to another's: exact names, and patterns with one `*`. Names that nothing is said
/// about stay.
#[derive(Clone, Debug, Default)]
pub struct Names {
    /// From, to; an empty `to` leaves the tensor out.
    rules: BTreeMap<String, String>,
}

impl Names {
    /// Reads a JSON object or a TOML table (by the file's ending) of `"from" = "to"`. In TOML, dots in a bare key are part
    /// of the name.
    ///
    /// # Errors
    /// [`Error::System`], [`Error::BadNames`].
    pub fn read(path: &Path) -> Result<Self> {
        let bad = |problem: String| Error::BadNames { path: path.to_owned(), problem };
        let is_json = match path.extension().and_then(|ending| ending.to_str()) {
            Some("json") => true,
            Some("toml") => false,
            _ => return Err(bad("expected a .json or .toml file".into())),
        };
        let text = file::read(path, file::SMALL).and_then(|text| String::from_utf8(text).map_err(io::Error::other));
        let text = text.map_err(Error::system(format!("can't read {}", path.display())))?;
        let table: Value = match is_json {
            true => serde_json::from_str(&text).map_err(|err| bad(err.to_string()))?,
            false => toml::from_str(&text).map_err(|err| bad(err.message().to_owned()))?,
        };
        let mut rules = BTreeMap::new();
        flatten(None, &table, &mut rules).map_err(bad)?;
        for (from, to) in &rules {
            let stars = |text: &str| text.matches('*').count();
            if stars(from) > 1 || stars(to) > stars(from) {
                return Err(bad(format!(
                    "{from:?} to {to:?}: expected at most one `*` in the pattern and in the new name"
                )));
            }
        }
        Ok(Self { rules })
    }

    /// The new name of every tensor, in order; `None` for those left out.
    ///
    /// # Errors
    /// What is wrong with the rules for these names: one that fits none, or two tensors with one name.
    pub fn apply<'a>(&self, names: impl IntoIterator<Item = &'a str>) -> Result<Vec<Option<String>>, String> {
        let mut unused: BTreeSet<&str> = self.rules.keys().map(String::as_str).collect();
        let mut taken: BTreeMap<String, &str> = BTreeMap::new();
        let mut renamed = Vec::new();
        for name in names {
            let new = match self.rule_for(name) {
                Some((rule, new)) => {
                    unused.remove(rule);
                    if new.is_empty() {
                        renamed.push(None);
                        continue;
                    }
                    new
                }
                None => name.to_owned(),
            };
            if let Some(other) = taken.insert(new.clone(), name) {
                return Err(format!("{other:?} and {name:?} would both be named {new:?}"));
            }
            renamed.push(Some(new));
        }
        match unused.first() {
            Some(rule) => Err(format!("no tensor is named {rule:?}")),
            None => Ok(renamed),
        }
    }

    /// Whether a rule is about tensors whose names have this in them.
    pub fn mention(&self, part: &str) -> bool {
        self.rules.keys().any(|from| from.contains(part))
    }

    /// The rule that fits best, and what it makes of the name: the name itself, or the longest pattern.
    fn rule_for(&self, name: &str) -> Option<(&str, String)> {
        if let Some((rule, new)) = self.rules.get_key_value(name) {
            return Some((rule, new.clone()));
        }
        let fitting = self.rules.iter().filter_map(|(rule, new)| {
            let (before, after) = rule.split_once('*')?;
            let middle = name.strip_prefix(before)?.strip_suffix(after)?;
            Some((rule.as_str(), new.replacen('*', middle, 1)))
        });
        fitting.max_by_key(|(rule, _)| rule.len())
    }
}

fn flatten(prefix: Option<&str>, value: &Value, rules: &mut BTreeMap<String, String>) -> Result<(), String> {
    match (value, prefix) {
        (Value::Object(table), _) => {
            for (key, value) in table {
                let name = prefix.map_or_else(|| key.clone(), |prefix| format!("{prefix}.{key}"));
                flatten(Some(&name), value, rules)?;
            }
            Ok(())
        }
        (Value::String(to), Some(name)) => {
            rules.insert(name.to_owned(), to.clone());
            Ok(())
        }
        (_, None) => Err("expected a table of names".into()),
        (_, Some(name)) => Err(format!("{name:?}: expected a string (empty to leave the tensor out)")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(ending: &str, text: &str) -> Result<Names> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(format!("names.{ending}"));
        std::fs::write(&path, text).unwrap();
        Names::read(&path)
    }

    #[test]
    fn name_table_is_read_from_regular_files_only() {
        use rustix::fs::{CWD, FileType, Mode, mknodat};
        let dir = tempfile::tempdir().unwrap();
        let (fifo, zeros) = (dir.path().join("fifo.json"), dir.path().join("zeros.toml"));
        mknodat(CWD, &fifo, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        std::os::unix::fs::symlink("/dev/zero", &zeros).unwrap();
        for (path, kind) in [(fifo, "a FIFO"), (zeros, "a device")] {
            let problem = Names::read(&path).unwrap_err().to_string();
            assert!(problem.ends_with(&format!("it is {kind}, not a regular file")), "{problem}");
        }
        // Before anything is read.
        assert!(matches!(Names::read(Path::new("/dev/zero")), Err(Error::BadNames { .. })));
    }

    #[test]
    fn name_table_prefers_exact_names_then_longer_patterns() {
        let toml = "\"model.*\" = \"*\"\n\"model.h.*.w\" = \"layer.*.weight\"\nmodel.head.w = \"\"\nbias = \"b\"\n";
        let json = r#"{"model.*": "*", "model.h.*.w": "layer.*.weight", "model.head.w": "", "bias": "b"}"#;
        for names in [names("toml", toml).unwrap(), names("json", json).unwrap()] {
            let renamed = names.apply(["model.x", "model.h.3.w", "model.head.w", "bias", "other"]).unwrap();
            let renamed: Vec<_> = renamed.iter().map(Option::as_deref).collect();
            assert_eq!(renamed, [Some("x"), Some("layer.3.weight"), None, Some("b"), Some("other")]);
        }
        assert_eq!(Names::default().apply(["a"]).unwrap(), [Some("a".to_owned())]);
    }

    #[test]
    fn tensor_without_a_name_can_get_one() {
        for (ending, text) in [("json", r#"{"": "x"}"#), ("toml", "\"\" = \"x\"")] {
            assert_eq!(names(ending, text).unwrap().apply(["", "y"]).unwrap(), ["x", "y"].map(|n| Some(n.to_owned())));
        }
        assert_eq!(names("json", r#"{"": ""}"#).unwrap().apply([""]).unwrap(), [None]);
        assert_eq!(Names::default().apply([""]).unwrap(), [Some(String::new())], "only a rule leaves it out");
    }

    #[test]
    fn name_rules_that_make_no_sense_are_refused() {
        let problem = |names: Names, tensors: &[&str]| names.apply(tensors.iter().copied()).unwrap_err();
        let typo = names("json", r#"{"wieght": "w"}"#).unwrap();
        assert_eq!(problem(typo, &["weight"]), "no tensor is named \"wieght\"");
        let twice = names("json", r#"{"a": "x", "b": "x"}"#).unwrap();
        assert_eq!(problem(twice, &["a", "b"]), "\"a\" and \"b\" would both be named \"x\"");
        for (ending, text) in [
            ("json", "["),
            ("json", "[]"),
            ("json", r#"{"a": 1}"#),
            ("toml", "a ="),
            ("json", r#"{"*.*": "a"}"#),
            ("yaml", "a: b"),
        ] {
            assert!(matches!(names(ending, text), Err(Error::BadNames { .. })), "{text}");
        }
    }
}
