//! `.ddp/cargo.toml`: the part of cargo's configuration that has paths of this machine. A project's `.cargo/config.toml`
//! includes it, if it is there.
//!
//! So all projects of a user give torch-sys the same LIBTORCH, and can share what they have built. (A LIBTORCH in
//! `.cargo/config.toml` itself, relative to it, is another path in each project, and torch-sys is compiled again for each.
//! cargo before 1.94 can't include files; projects made with it have that.)

use std::fs;
use std::path::{Path, PathBuf};

use toml::Table;

use super::home::{Home, text_of};
use crate::project::cargo::included;
use crate::{Error, Result};

/// The file's place in a project.
pub const FILE: &str = ".ddp/cargo.toml";
/// How `.cargo/config.toml` names it.
pub const INCLUDED: &str = "../.ddp/cargo.toml";
/// Set next to LIBTORCH, to the same value: this one is not the user's own.
pub const VARIABLE: &str = "DDP_LIBTORCH";

/// Writes the path of `home` for cargo.
pub(super) fn write(project: &Path, home: &Home) -> Result<()> {
    let path = project.join(FILE);
    // TOML is UTF-8.
    let Some(libtorch) = home.path().to_str() else { return Ok(()) };
    let libtorch = toml_edit::value(libtorch);
    let libtorch = libtorch.to_string();
    // A table: a folder above, such as a clone of cargo-ddp, may have one, and cargo refuses to merge a string with a table.
    let text = format!(
        "# Written by `cargo ddp setup`, for this machine: .cargo/config.toml includes it.\n\
         [env]\nLIBTORCH = {{ value = {0}, relative = false }}\n# The same: this LIBTORCH is not one that you have set.\n{VARIABLE} = {0}\n",
        libtorch.trim()
    );
    if text_of(&path) == text {
        return Ok(());
    }
    let cant = || Error::system(format!("can't write {}", path.display()));
    let fresh = project.join(format!("{FILE}.{}", std::process::id()));
    fs::write(&fresh, text).map_err(cant())?;
    fs::rename(&fresh, &path).map_err(cant())
}

/// The LIBTORCH that cargo sets in `project`, if `.ddp/cargo.toml` decides.
pub(crate) fn libtorch(project: &Path) -> Option<PathBuf> {
    if !is_included(project) {
        return None;
    }
    let file: Table = text_of(&project.join(FILE)).parse().ok()?;
    Some(file.get("env")?.get("LIBTORCH")?.get("value")?.as_str()?.into())
}

/// Whether cargo reads `.ddp/cargo.toml` in `project`, and nothing overrides it.
pub fn is_included(project: &Path) -> bool {
    let files = ["config", "config.toml"].map(|name| project.join(".cargo").join(name));
    let Some(config) = files.iter().find(|path| path.is_file()) else { return false };
    let Ok(config) = text_of(config).trim_start_matches('\u{feff}').parse::<Table>() else { return false };
    let overrides = config.get("env").and_then(|env| env.get("LIBTORCH")).is_some();
    let is_ours = |(path, _): &(String, bool)| path.trim_start_matches("./") == INCLUDED;
    !overrides && included(&config).iter().any(is_ours)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::project::libtorch::home::tests::fake;
    use crate::project::libtorch::{LINK, libtorch_for, link};

    fn project(config: &str) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join(".cargo")).unwrap();
        fs::write(dir.path().join(".cargo/config.toml"), config).unwrap();
        dir
    }

    #[test]
    fn included_config_sets_libtorch_unless_the_project_does() {
        let included = "include = [{ path = \"../.ddp/cargo.toml\", optional = true }]\n";
        let env = "[env]\nLIBTORCH = { value = \".ddp/libtorch\", relative = true }\n";
        let fit = fake([2, 13, 0]);
        let home = Home::inspect(fit.path()).unwrap();
        for (config, is_shared) in [
            (included.to_owned(), true),
            (format!("\u{feff}{included}"), true),
            (format!("{included}{env}"), false),
            (env.to_owned(), false),
            (String::new(), false),
            ("include = [".into(), false),
        ] {
            let project = project(&config);
            assert_eq!(libtorch(project.path()), None, "not set up");
            link(project.path(), &home).unwrap();
            assert_eq!(libtorch(project.path()).is_some(), is_shared, "{config}");
            if is_shared {
                assert_eq!(libtorch_for(project.path()), home.path());
            } else {
                assert_eq!(libtorch_for(project.path()), project.path().join(LINK));
            }
        }
    }

    #[test]
    fn included_config_is_written_through_links() {
        let project = project("include = [{ path = \"../.ddp/cargo.toml\", optional = true }]\n");
        for _ in 0..2 {
            let fit = fake([2, 13, 0]);
            link(project.path(), &Home::inspect(fit.path()).unwrap()).unwrap();
            assert_eq!(libtorch(project.path()).unwrap(), fit.path());
        }
        assert_eq!(fs::read_dir(project.path().join(".ddp")).unwrap().count(), 2, "the link and the file");
    }
}
