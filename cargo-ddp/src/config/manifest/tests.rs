//! Tests of the settings in Cargo.toml: parsing, presets, and packages over workspaces.

use std::path::Path;
use std::time::Duration;

use serde_json::json;

use super::*;
use crate::config::options::LaunchOptions;
use crate::launch::plan::Nproc;

/// The settings of a package, whose `ddp` is `package`, in a workspace.
fn read_both(package: Value, workspace: Value, preset: Option<&str>) -> Result<LaunchOptions> {
    let (package, workspace) = (json!({ "ddp": package }), json!({ "ddp": workspace }));
    let package = SettingsTable { metadata: &package, folder: Path::new("/ws/a") };
    let workspace = SettingsTable { metadata: &workspace, folder: Path::new("/ws") };
    super::read(&SettingsTables { package: Some(package), workspace }, preset)?.options()
}

fn read(package: Value) -> Result<LaunchOptions> {
    read_both(package, json!({}), None)
}

fn problem(package: Value) -> String {
    read(package).unwrap_err().to_string()
}

#[test]
fn settings_are_parsed_like_flags() {
    let options =
        read(json!({ "max-restarts": 9, "gpus": "0,1", "grace": 2.5, "quiet": true, "bind": false })).unwrap();
    assert_eq!((options.max_restarts, options.gpus.as_deref()), (Some(9), Some("0,1")));
    assert_eq!(options.grace.unwrap().0, Duration::from_millis(2500));
    assert!(options.quiet && !options.bind);
    assert_eq!(read(json!({ "nproc": "gpu" })).unwrap().nproc, Some(Nproc::Gpu));
    let metadata = Value::Null;
    let none = || SettingsTable { metadata: &metadata, folder: Path::new("/") };
    let tables = SettingsTables { package: Some(none()), workspace: none() };
    assert!(super::read(&tables, None).unwrap().options().unwrap().grace.is_none());
}

#[test]
fn settings_out_of_range_are_refused_like_flags() {
    let place = "Cargo.toml [package.metadata.ddp]: ";
    for (key, value, expected) in [
        ("nproc", json!(0), "nproc: invalid value `0`: expected a number from 1 to 4096"),
        ("nproc", json!(4097), "nproc: invalid value `4097`: expected a number from 1 to 4096"),
        ("nproc", json!(-1), "nproc: invalid value `-1`: expected a number from 1 to 4096"),
        ("nproc", json!(2.5), "nproc: expected an integer or a string"),
        ("nnodes", json!(0), "nnodes: invalid value `0`: 0 is not in 1..=4096"),
        ("nnodes", json!("2"), "nnodes: expected an integer"),
        ("master-port", json!(0), "master-port: invalid value `0`: 0 is not in 1..=65535"),
        ("master-port", json!(65536), "master-port: invalid value `65536`: 65536 is not in 1..=65535"),
        ("max-restarts", json!("3"), "max-restarts: expected an integer"),
        ("grace", json!("long"), "grace: expected a number"),
        ("grace", json!(-1.0), "grace: invalid value `-1.0`: expected a number of seconds, 0 or more"),
        ("quiet", json!("yes"), "quiet: expected a boolean"),
        ("gpus", json!(2), "gpus: expected a string"),
        ("show", json!("first"), "show: invalid value `first`: "),
        ("vscode", json!("no"), "vscode: expected a boolean"),
        ("node-rank", json!(0), "node-rank: cannot be set in Cargo.toml, as it is different on each node"),
        ("dry-run", json!(true), "dry-run: cannot be set in Cargo.toml, as no job would ever start: pass --dry-run"),
        ("preset", json!(3), ""),
    ] {
        let problem = problem(json!({ key: value }));
        if key == "preset" {
            assert_eq!(problem, "Cargo.toml [package.metadata.ddp.preset]: expected a table");
        } else {
            assert!(problem.starts_with(&format!("{place}{expected}")), "{problem}");
        }
    }
    for key in ["log-dir", "report", "secret-file", "show", "gpus"] {
        assert_eq!(problem(json!({ key: "" })), format!("{place}{key}: expected a value, got an empty string"));
    }
    assert_eq!(problem(json!({ "gpus": "0", "nproc": 1 })), format!("{place}gpus: cannot be used with nproc"));
    assert_eq!(problem(json!(3)), "Cargo.toml [package.metadata.ddp]: expected a table");
    assert!(read(json!({ "vscode": false })).is_ok());
}

#[test]
fn settings_unknown_key_suggests() {
    for key in ["max-restart", "max_restarts"] {
        let expected = format!("Cargo.toml [package.metadata.ddp]: unknown key `{key}`; did you mean `max-restarts`?");
        assert_eq!(problem(json!({ key: 3 })), expected);
    }
    let unknown = problem(json!({ "xyz": 3 }));
    assert!(unknown.contains("unknown key `xyz`, expected one of gpus, nproc, max-restarts, "), "{unknown}");
    assert!(unknown.ends_with(", vscode, preset") && !unknown.contains("dry-run"), "{unknown}");
    let workspace = read_both(json!({}), json!({ "vscode": false }), None).unwrap_err().to_string();
    assert!(workspace.starts_with("Cargo.toml [workspace.metadata.ddp]: unknown key `vscode`"), "{workspace}");
}

#[test]
fn package_wins_over_workspace_and_preset_over_both() {
    let package = json!({ "grace": 2, "quiet": false, "preset": { "node": { "nproc": 4 } } });
    let workspace = json!({
        "grace": 1, "max-restarts": 7, "quiet": true, "gpus": "0,1",
        "preset": { "node": { "nproc": 9, "backoff": 3 }, "quick": { "max-restarts": 0 } },
    });
    let options = |preset| read_both(package.clone(), workspace.clone(), preset).unwrap();
    let plain = options(None);
    assert_eq!((plain.max_restarts, plain.gpus.as_deref(), plain.quiet), (Some(7), Some("0,1"), false));
    assert_eq!(plain.grace.unwrap().0, Duration::from_secs(2));
    let node = options(Some("node"));
    assert_eq!((node.nproc, node.gpus, node.max_restarts), (Some(Nproc::Count(4)), None, Some(7)));
    assert_eq!(node.backoff.unwrap().0, Duration::from_secs(3));
    assert_eq!(options(Some("quick")).max_restarts, Some(0));
}

#[test]
fn preset_unknown_suggests() {
    let presets = json!({ "preset": { "cluster": {}, "laptop": {} } });
    let problem = |preset| read_both(presets.clone(), json!({}), Some(preset)).unwrap_err().to_string();
    assert_eq!(
        problem("clutser"),
        "--preset clutser: unknown preset; did you mean `cluster`? (available: cluster, laptop)"
    );
    assert_eq!(problem("xyz"), "--preset xyz: unknown preset (available: cluster, laptop)");
    let none = read_both(json!({}), json!({}), Some("x")).unwrap_err().to_string();
    assert!(none.contains("Cargo.toml has none"), "{none}");
    let bad = read(json!({ "preset": { "p": { "nproc": 0 } } })).unwrap_err().to_string();
    assert!(bad.starts_with("Cargo.toml [package.metadata.ddp.preset.p]: nproc: invalid value `0`"), "{bad}");
}

#[test]
fn log_dir_is_relative_to_its_manifest() {
    let dir = |package, workspace| read_both(package, workspace, None).unwrap().log_dir.unwrap();
    assert_eq!(dir(json!({ "log-dir": "x" }), json!({ "log-dir": "y" })), Path::new("/ws/a/x"));
    assert_eq!(dir(json!({}), json!({ "log-dir": "y" })), Path::new("/ws/y"));
}
