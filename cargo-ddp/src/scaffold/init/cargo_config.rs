//! `.cargo/config.toml` of a crate that is made trainable.

use std::path::Path;

use toml_edit::{DocumentMut, InlineTable, Item, Value};

use super::plan::{Plan, parse, table_in};
use crate::Result;
use crate::project::cargo;
use crate::project::libtorch as torch;
use crate::scaffold::files;
use crate::scaffold::source::RuntimeSource;

/// Has cargo find libtorch, and `cargo ddp` in a clone.
pub(super) fn edit(root: &Path, source: &RuntimeSource, plan: &mut Plan) -> Result<()> {
    let old_name = root.join(".cargo/config");
    let path = if old_name.is_file() { old_name } else { root.join(".cargo/config.toml") };
    let text = files::read(&path)?.unwrap_or_default();
    let mut config = parse(&path, &text)?;
    let mut done = Vec::new();
    let mut libtorch = InlineTable::new();
    libtorch.insert("value", torch::LINK.into());
    libtorch.insert("relative", true.into());
    let is_ours =
        |item: &Item| item.as_inline_table().is_some_and(|table| table.to_string().trim() == libtorch.to_string());
    let set = config.get("env").and_then(|env| env.get("LIBTORCH"));
    // One that the user set wins over an included file.
    if set.is_none_or(is_ours) && cargo::reads_included_files() && include(&mut config) {
        if let Some(env) = config.get_mut("env").and_then(Item::as_table_like_mut) {
            env.remove("LIBTORCH");
            if env.is_empty() {
                config.remove("env");
            }
        }
        done.push("LIBTORCH is in .ddp/cargo.toml, which `cargo ddp setup` writes");
    }
    let is_included = includes(&config);
    let mut add = |table: &str, key: &str, value: Value| match table_in(&mut config, table).as_table_like_mut() {
        Some(table) if !table.contains_key(key) => {
            table.insert(key, Item::Value(value));
            true
        }
        _ => false,
    };
    if !is_included && add("env", "LIBTORCH", Value::InlineTable(libtorch)) {
        done.push("LIBTORCH is .ddp/libtorch, which `cargo ddp setup` links");
    }
    if let Some(Ok(alias)) = source.alias().map(|alias| alias.parse::<Value>())
        && add("alias", "ddp", alias)
    {
        done.push("`cargo ddp` runs the clone's cargo-ddp");
    }
    if !done.is_empty() {
        plan.edit(path, &text, &config.to_string(), done.join(", "));
    }
    Ok(())
}

/// Whether the configuration includes the file with this machine's libtorch.
fn includes(config: &DocumentMut) -> bool {
    let entries = config.get("include").and_then(Item::as_array).into_iter().flatten();
    let paths = entries.map(|entry| entry.as_inline_table().and_then(|table| table.get("path")).unwrap_or(entry));
    paths.filter_map(Value::as_str).any(|path| path == torch::INCLUDED)
}

/// Adds that file. Returns whether it was added: not to an `include` whose form does not allow optional paths.
fn include(config: &mut DocumentMut) -> bool {
    let mut entry = InlineTable::new();
    entry.insert("path", torch::INCLUDED.into());
    entry.insert("optional", true.into());
    let list = config.entry("include").or_insert(Item::Value(Value::Array(Default::default())));
    let Some(list) = list.as_array_mut().filter(|list| list.iter().all(Value::is_inline_table)) else { return false };
    let is_known = list
        .iter()
        .any(|entry| entry.as_inline_table().and_then(|entry| entry.get("path")?.as_str()) == Some(torch::INCLUDED));
    if !is_known {
        list.push(entry);
    }
    !is_known
}
