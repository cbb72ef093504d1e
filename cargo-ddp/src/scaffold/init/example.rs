//! A training loop to begin with.

use std::fs;
use std::path::Path;

use ddp_contract::file;
use toml_edit::{DocumentMut, Item};

use super::plan::Plan;
use crate::Result;
use crate::scaffold::dependencies::dependency;

const EXAMPLE_TEXT: &str = include_str!("../../../templates/shared/example.rs");

/// Adds the example, unless the crate has a training loop.
pub(super) fn add(folder: &Path, manifest: &DocumentMut, shared: &DocumentMut, plan: &mut Plan) -> Result<()> {
    let name_of = |package: &str| {
        let found = dependency(manifest, shared, package, &["dependencies"]);
        found.map_or(package, |(name, _)| name).replace('-', "_")
    };
    let (runtime, tch) = (name_of("ddp-runtime"), name_of("tch"));
    if ["src", "examples"].iter().any(|name| mentions_runtime(&folder.join(name), &runtime)) {
        return Ok(());
    }
    let path = folder.join("examples/train.rs");
    if path.exists() {
        plan.notes.push(format!("{} already exists and stays unchanged", path.display()));
        return Ok(());
    }
    // Under the names that the crate gives them.
    let renamed = [(runtime, "ddp_runtime"), (tch, "tch")].into_iter().filter(|(name, usual)| name != usual);
    let renamed: String = renamed.map(|(name, usual)| format!("use {name} as {usual};\n")).collect();
    let text = EXAMPLE_TEXT.replacen("\nuse ", &format!("\n{renamed}use "), 1);
    plan.write(path, text, "an example with a training loop");
    let package = manifest.get("package");
    if package.and_then(|package| package.get("autoexamples")).and_then(Item::as_bool) == Some(false) {
        plan.notes.push("`autoexamples` is off: add the example to Cargo.toml to run it".into());
    }
    Ok(())
}

/// Whether there is Rust that uses ddp-runtime, which the crate calls `name`.
fn mentions_runtime(folder: &Path, name: &str) -> bool {
    let Ok(entries) = fs::read_dir(folder) else { return false };
    entries.flatten().map(|entry| entry.path()).any(|path| match path.is_dir() {
        true => mentions_runtime(&path, name),
        false => {
            let is_rust = path.extension().is_some_and(|extension| extension == "rs");
            let is_word = |c: char| c.is_alphanumeric() || c == '_';
            let mentions = |text: &str| {
                let path = format!("{name}::");
                let mut paths = text.match_indices(&path);
                text.contains("ddp_runtime") || paths.any(|(at, _)| !text[..at].ends_with(is_word))
            };
            is_rust && file::read(&path, file::SMALL).is_ok_and(|text| mentions(&String::from_utf8_lossy(&text)))
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn training_loop_is_recognized_by_the_name_ddp_runtime() {
        let dir = tempfile::tempdir().unwrap();
        let mentions = |text: &str| {
            fs::write(dir.path().join("x.rs"), text).unwrap();
            mentions_runtime(dir.path(), "rt")
        };
        assert!(mentions("use rt::Context;") && mentions("use ddp_runtime::Context;"));
        assert!(!mentions("use sort::by;\nlet rt = 1;"));
    }
}
