//! The check of compiled dependencies that projects share.

use std::path::Path;

use super::{Line, Machine};
use crate::project::libtorch as torch;
use crate::project::shared::{self, Summary};

pub(super) fn examine(machine: &Machine) -> Vec<Line> {
    let is_off = machine.variable(shared::VARIABLE).is_some_and(|value| shared::is_off(&value));
    let project = machine.project.as_ref().map(|project| project.root.as_path());
    vec![builds(is_off, project, shared::summary())]
}

/// Whether this project shares compiled dependencies with others.
fn builds(is_off: bool, project: Option<&Path>, summary: Option<Summary>) -> Line {
    let check = "shared builds";
    if is_off {
        return Line::ok(check, format!("off: {} is set", shared::VARIABLE));
    }
    if let Some(libtorch) = project.and_then(torch::configured).filter(|libtorch| !libtorch.exists()) {
        let says = format!("{} sets LIBTORCH to {}, which does not exist", torch::FILE, libtorch.display());
        return Line::error(check, says, "run `cargo ddp setup` to write that file again");
    }
    if project.is_some_and(|project| !torch::is_included(project)) {
        let says = "not used here: .cargo/config.toml does not include .ddp/cargo.toml \
            (`cargo ddp update` or `cargo ddp init` adds it)";
        return Line::ok(check, says);
    }
    match summary {
        Some(Summary { folder, units, bytes }) => Line::ok(
            check,
            format!("{units} compiled dependencies, {:.0} MB, in {}", bytes as f64 / 1e6, folder.display()),
        ),
        None => Line::ok(check, "none yet: the first `cargo ddp run` compiles the dependencies"),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::Level;
    use super::super::line::text;
    use super::*;
    use crate::snap::assert_text;

    #[test]
    fn missing_libtorch_in_the_included_file_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let project = dir.path();
        let line = || builds(false, Some(project), None);
        assert!(line().says.starts_with("not used here"));
        fs::create_dir_all(project.join(".cargo")).unwrap();
        let include = "include = [{ path = \"../.ddp/cargo.toml\", optional = true }]\n";
        fs::write(project.join(".cargo/config.toml"), include).unwrap();
        assert!(line().says.starts_with("none yet"));
        fs::create_dir_all(project.join(".ddp")).unwrap();
        fs::write(project.join(torch::FILE), "[env]\nLIBTORCH = { value = \"/nowhere/libtorch\" }\n").unwrap();
        assert_eq!(line().level, Level::Error);
        assert!(line().says.contains("LIBTORCH to /nowhere/libtorch, which does not exist"));
        assert_eq!(builds(true, Some(project), None).level, Level::Ok);

        fs::write(project.join(torch::FILE), format!("[env]\nLIBTORCH = {{ value = {project:?} }}\n")).unwrap();
        let summary = Summary { folder: "/cache/builds".into(), units: 180, bytes: 400_000_000 };
        let says = builds(false, Some(project), Some(summary)).says;
        assert_eq!(says, "180 compiled dependencies, 400 MB, in /cache/builds");
    }

    #[test]
    fn shared_lines_match_their_snapshot() {
        let dir = tempfile::tempdir().unwrap();
        let project = dir.path();
        let summary = || Some(Summary { folder: "/me/.cache/builds".into(), units: 180, bytes: 400_000_000 });
        let mut lines = vec![builds(true, None, None), builds(false, None, None), builds(false, None, summary())];
        lines.push(builds(false, Some(project), None));
        for folder in [".cargo", ".ddp"] {
            fs::create_dir_all(project.join(folder)).unwrap();
        }
        let include = "include = [{ path = \"../.ddp/cargo.toml\", optional = true }]\n";
        fs::write(project.join(".cargo/config.toml"), include).unwrap();
        fs::write(project.join(torch::FILE), "[env]\nLIBTORCH = { value = \"/nowhere/libtorch\" }\n").unwrap();
        lines.push(builds(false, Some(project), None));
        assert_text!("shared", text(&lines, project));
    }
}
