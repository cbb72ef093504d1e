//! The tables in Cargo.toml that hold settings for `cargo ddp`.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::project::{Project, Selection};

/// `package.metadata` or `workspace.metadata`.
#[derive(Clone, Copy, Debug)]
pub struct SettingsTable<'a> {
    /// The table.
    pub metadata: &'a Value,
    /// The folder of its Cargo.toml.
    pub folder: &'a Path,
}

/// Those of a package and of its workspace.
#[derive(Clone, Copy, Debug)]
pub struct SettingsTables<'a> {
    /// The package's, if there is one package.
    pub package: Option<SettingsTable<'a>>,
    /// The workspace's.
    pub workspace: SettingsTable<'a>,
}

impl Project {
    /// The settings of the package that the selection runs.
    pub fn settings_of_selection(&self, selection: &Selection) -> SettingsTables<'_> {
        self.tables(self.package_of(selection))
    }

    /// The settings of the workspace's package with this name.
    pub fn settings_of(&self, package: &str) -> SettingsTables<'_> {
        self.tables(self.metadata.workspace_packages().into_iter().find(|other| other.name == package))
    }

    /// Every `log-dir` in the settings of its packages and of the workspace, presets included.
    pub fn log_dirs(&self) -> Vec<PathBuf> {
        let packages = self.metadata.workspace_packages().into_iter();
        packages.map(of_package).chain([self.tables(None).workspace]).flat_map(log_dirs).collect()
    }

    fn tables<'a>(&'a self, package: Option<&'a cargo_metadata::Package>) -> SettingsTables<'a> {
        let workspace = SettingsTable { metadata: &self.metadata.workspace_metadata, folder: &self.root };
        SettingsTables { package: package.map(of_package), workspace }
    }
}

/// Every `log-dir` in a table. It is relative to the table's folder.
fn log_dirs(table: SettingsTable<'_>) -> Vec<PathBuf> {
    let Some(settings) = table.metadata.get("ddp") else { return vec![] };
    let presets = settings.get("preset").and_then(Value::as_object).into_iter().flat_map(|presets| presets.values());
    let chosen = std::iter::once(settings).chain(presets).filter_map(|settings| settings.get("log-dir")?.as_str());
    // An empty one is refused where a job starts.
    chosen.filter(|chosen| !chosen.is_empty()).map(|chosen| table.folder.join(chosen)).collect()
}

fn of_package(package: &cargo_metadata::Package) -> SettingsTable<'_> {
    let folder = package.manifest_path.parent().map_or(Path::new("/"), |folder| folder.as_std_path());
    SettingsTable { metadata: &package.metadata, folder }
}
