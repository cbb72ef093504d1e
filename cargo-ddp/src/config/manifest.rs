//! Settings in Cargo.toml: `[package.metadata.ddp]` and `[workspace.metadata.ddp]`, and named presets in both.

use std::ffi::OsString;

use clap::Arg;
use serde_json::{Map, Value};

use super::layer::{Kind, Layer, Source, is_path, name, options};
use crate::project::cargo::{SettingsTable, SettingsTables};
use crate::{Error, Result};

/// Whether `cargo ddp vscode` makes configurations for the package without being asked: no option, but a setting.
const VSCODE: &str = "vscode";
/// The table of presets.
const PRESET: &str = "preset";
/// The paths among the settings that are relative to the folder of Cargo.toml. (The others are relative to the current one.)
const LOG_DIR: &str = "log-dir";
/// Options that are different in each call, and what to do instead.
const PER_CALL: [(&str, &str); 2] = [
    ("node-rank", "it is different on each node: pass --node-rank, or set DDP_NODE_RANK on each node"),
    ("dry-run", "no job would ever start: pass --dry-run"),
];

/// What Cargo.toml says: the preset `chosen`, over the package's own settings, over the workspace's.
///
/// # Errors
/// [`Error::BadSetting`] for an unknown key or preset, and for a value that the option does not take, also in presets that were
/// not chosen.
pub(super) fn read(tables: &SettingsTables<'_>, chosen: Option<&str>) -> Result<Layer> {
    let package = tables.package.as_ref().map(|table| Table::read(table, "package")).transpose()?.unwrap_or_default();
    let workspace = Table::read(&tables.workspace, "workspace")?;
    let mut layers = vec![package.layer, workspace.layer];
    if let Some(chosen) = chosen {
        let known: Vec<String> =
            package.presets.iter().chain(&workspace.presets).map(|(name, _)| name.clone()).collect();
        let of_name = |presets: Vec<(String, Layer)>| presets.into_iter().find(|(name, _)| name == chosen);
        let found: Vec<_> = of_name(package.presets).into_iter().chain(of_name(workspace.presets)).collect();
        if found.is_empty() {
            return Err(unknown_preset(chosen, &known));
        }
        layers.splice(0..0, found.into_iter().map(|(_, layer)| layer));
    }
    Ok(layers.into_iter().reduce(Layer::over).unwrap_or_default())
}

fn unknown_preset(chosen: &str, known: &[String]) -> Error {
    let problem = match (known, nearest(chosen, known)) {
        ([], _) => "unknown preset; Cargo.toml has none ([package.metadata.ddp.preset.NAME] defines one)".to_owned(),
        (_, Some(near)) => format!("unknown preset; did you mean `{near}`? (available: {})", known.join(", ")),
        (_, None) => format!("unknown preset (available: {})", known.join(", ")),
    };
    Error::BadSetting { place: format!("--preset {chosen}"), problem }
}

#[derive(Default)]
struct Table {
    layer: Layer,
    presets: Vec<(String, Layer)>,
}

impl Table {
    /// Of a package or a workspace.
    fn read(table: &SettingsTable<'_>, owner: &str) -> Result<Self> {
        let Some(value) = table.metadata.get("ddp") else { return Ok(Self::default()) };
        let place = format!("[{owner}.metadata.ddp]");
        let keys = as_table(value, &place)?;
        let extra: &[&str] = if owner == "package" { &[VSCODE, PRESET] } else { &[PRESET] };
        let layer = layer(keys, &place, extra, table)?;
        let mut presets = vec![];
        if let Some(all) = keys.get(PRESET) {
            for (name, value) in as_table(all, &format!("[{owner}.metadata.ddp.preset]"))? {
                let place = format!("[{owner}.metadata.ddp.preset.{name}]");
                presets.push((name.clone(), self::layer(as_table(value, &place)?, &place, &[], table)?));
            }
        }
        Ok(Self { layer, presets })
    }
}

fn as_table<'a>(value: &'a Value, place: &str) -> Result<&'a Map<String, Value>> {
    let problem = || Error::BadSetting { place: format!("Cargo.toml {place}"), problem: "expected a table".into() };
    value.as_object().ok_or_else(problem)
}

fn layer(keys: &Map<String, Value>, place: &str, extra: &[&str], table: &SettingsTable<'_>) -> Result<Layer> {
    let options = options();
    let source = Source::Manifest(place.to_owned());
    let mut layer = Layer::default();
    for (key, value) in keys {
        if let Some((_, reason)) = PER_CALL.iter().find(|(name, _)| name == key) {
            return Err(source.error(key, format_args!("cannot be set in Cargo.toml, as {reason}")));
        }
        match options.iter().find(|option| name(option) == key) {
            Some(option) => {
                let text = text(option, value).map_err(|problem| source.error(key, problem))?;
                let text = if key == LOG_DIR { table.folder.join(text).into() } else { text };
                layer.set(option, &text, source.clone())?;
            }
            None if key == VSCODE && extra.contains(&VSCODE) => {
                if !value.is_boolean() {
                    return Err(source.error(key, "expected a boolean"));
                }
            }
            None if key == PRESET && extra.contains(&PRESET) => {}
            None => return Err(unknown_key(key, &options, place, extra)),
        }
    }
    if let Some((one, other)) = layer.conflict() {
        return Err(source.error(one, format_args!("cannot be used with {other}")));
    }
    Ok(layer)
}

fn unknown_key(key: &str, options: &[Arg], place: &str, extra: &[&str]) -> Error {
    let is_setting = |option: &&str| !PER_CALL.iter().any(|(name, _)| name == option);
    let known: Vec<String> =
        options.iter().map(name).filter(is_setting).chain(extra.iter().copied()).map(str::to_owned).collect();
    let problem = match nearest(key, &known) {
        Some(near) => format!("unknown key `{key}`; did you mean `{near}`?"),
        None => format!("unknown key `{key}`, expected one of {}", known.join(", ")),
    };
    Error::BadSetting { place: format!("Cargo.toml {place}"), problem }
}

fn nearest<'a>(text: &str, known: &'a [String]) -> Option<&'a String> {
    let near = known.iter().map(|name| (strsim::jaro_winkler(name, text), name));
    near.filter(|(likeness, _)| *likeness > 0.7).max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, name)| name)
}

/// A value as its flag takes it.
fn text(option: &Arg, value: &Value) -> Result<OsString, String> {
    let kind = Kind::from_arg(option);
    let expected = || format!("expected {}", kind.expected());
    let text = match (kind, value) {
        (Kind::Boolean, Value::Bool(on)) => on.to_string(),
        (Kind::Integer | Kind::Word, Value::Number(number)) if number.is_i64() || number.is_u64() => number.to_string(),
        (Kind::Number, Value::Number(number)) => number.to_string(),
        (Kind::Word | Kind::String, Value::String(text)) => text.clone(),
        _ => return Err(expected()),
    };
    // An empty `log-dir` would be the package's own root.
    if text.is_empty() && (is_path(option) || kind == Kind::String) {
        return Err("expected a value, got an empty string".into());
    }
    Ok(text.into())
}

#[cfg(test)]
mod tests;
