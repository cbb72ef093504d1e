//! Tests of how flags, variables and Cargo.toml combine.

use std::path::Path;

use clap::{Args, Command, FromArgMatches};
use serde_json::{Value, json};

use super::*;
use crate::launch::plan::Nproc;
use crate::project::cargo::SettingsTable;

fn flags(words: &[&str]) -> Result<LaunchFlags, clap::Error> {
    let command = LaunchFlags::augment_args(Command::new("launch"));
    let matches = command.try_get_matches_from(["launch"].iter().chain(words))?;
    LaunchFlags::from_arg_matches(&matches)
}

fn combined(words: &[&str], set: &[(&str, &str)], package: &Value) -> Result<Combined> {
    let (metadata, none) = (json!({ "ddp": package }), Value::Null);
    let table = |metadata| SettingsTable { metadata, folder: Path::new("/ws") };
    let tables = SettingsTables { package: Some(table(&metadata)), workspace: table(&none) };
    let variable = |name: &str| set.iter().find(|(known, _)| *known == name).map(|(_, value)| value.into());
    Combined::new(&flags(words).unwrap(), None, Some(&tables), variable)
}

fn options(words: &[&str], set: &[(&str, &str)], package: &Value) -> LaunchOptions {
    combined(words, set, package).unwrap().options
}

#[test]
fn flags_win_over_variables_and_variables_over_cargo_toml() {
    let package = json!({ "max-restarts": 9, "grace": 2, "backoff": 3 });
    let set = [("DDP_MAX_RESTARTS", "5"), ("DDP_GRACE", "4")];
    let options = options(&["--max-restarts", "1"], &set, &package);
    let seconds = |seconds: Option<Seconds>| seconds.unwrap().0.as_secs();
    assert_eq!((options.max_restarts, seconds(options.grace), seconds(options.backoff)), (Some(1), 4, 3));
}

#[test]
fn gpus_and_nproc_replace_each_other_from_a_higher_source() {
    let package = json!({ "gpus": "0,1" });
    let of = |words: &[&str], set: &[(&str, &str)]| {
        let options = options(words, set, &package);
        (options.gpus, options.nproc)
    };
    assert_eq!(of(&[], &[]), (Some("0,1".into()), None));
    assert_eq!(of(&["--nproc", "2"], &[]), (None, Some(Nproc::Count(2))));
    assert_eq!(of(&[], &[("DDP_NPROC", "2")]), (None, Some(Nproc::Count(2))));
    assert_eq!(of(&["--gpus", "3"], &[("DDP_NPROC", "2")]), (Some("3".into()), None));
    assert!(flags(&["--gpus", "3", "--nproc", "2"]).is_err());
}

#[test]
fn switches_have_an_opposite_and_the_last_one_wins() {
    for (name, get) in [
        ("quiet", (|options| options.quiet) as fn(&LaunchOptions) -> bool),
        ("bind", |options| options.bind),
        ("json", |options| options.json),
        ("restart-on-stall", |options| options.restart_on_stall),
    ] {
        let (on, off) = (format!("--{name}"), format!("--no-{name}"));
        let variable = format!("DDP_{}", name.to_uppercase().replace('-', "_"));
        let package = json!({ name: true });
        let is_on = |words: &[&str], set: &[(&str, &str)], package: &Value| get(&options(words, set, package));
        assert!(is_on(&[], &[], &package) && is_on(&[&on], &[], &json!({})), "{name}");
        assert!(!is_on(&[&off], &[], &package), "{name}");
        assert!(!is_on(&[&on, &off], &[], &package) && is_on(&[&off, &on], &[], &json!({})), "{name}");
        assert!(!is_on(&[], &[(&variable, "0")], &package) && is_on(&[], &[(&variable, "true")], &json!({})), "{name}");
    }
    assert!(options(&["-q"], &[], &json!({})).quiet);
}

#[test]
fn nproc_per_node_is_an_alias_of_nproc() {
    for words in [&["--nproc-per-node", "2"][..], &["--nproc_per_node=2"]] {
        assert_eq!(options(words, &[], &json!({})).nproc, Some(Nproc::Count(2)), "{words:?}");
    }
    assert_eq!(options(&["--nproc-per-node=gpu"], &[], &json!({})).nproc, Some(Nproc::Gpu));
}

#[test]
fn preset_can_be_chosen_by_a_variable() {
    let package = json!({ "nproc": 1, "preset": { "big": { "nproc": 8 } } });
    assert_eq!(options(&[], &[("DDP_PRESET", "big")], &package).nproc, Some(Nproc::Count(8)));
    assert_eq!(options(&[], &[("DDP_PRESET", "")], &package).nproc, Some(Nproc::Count(1)));
    assert_eq!(options(&["--nproc", "2"], &[("DDP_PRESET", "big")], &package).nproc, Some(Nproc::Count(2)));
}

#[test]
fn option_errors_name_the_flag_variable_or_key() {
    let err = || Error::BadOption { option: "show", problem: "unknown rank 7".into() };
    let located = |words: &[&str], set: &[(&str, &str)], package: &Value| {
        combined(words, set, package).unwrap().locate(err()).to_string()
    };
    assert_eq!(located(&["--show", "7"], &[], &json!({})), "--show: unknown rank 7");
    assert_eq!(located(&[], &[("DDP_SHOW", "7")], &json!({})), "DDP_SHOW: unknown rank 7");
    let from_file = located(&[], &[], &json!({ "show": "7" }));
    assert_eq!(from_file, "Cargo.toml [package.metadata.ddp]: show: unknown rank 7");
}

#[test]
fn paths_that_are_not_utf8_are_kept() {
    use std::os::unix::ffi::OsStrExt;
    let path = std::ffi::OsStr::from_bytes(b"r\xff.json");
    let command = LaunchFlags::augment_args(Command::new("launch"));
    let matches = command.try_get_matches_from(["launch".as_ref(), "--report".as_ref(), path]).unwrap();
    let flags = LaunchFlags::from_arg_matches(&matches).unwrap();
    let combined = Combined::new(&flags, None, None, |_| None).unwrap();
    assert_eq!(combined.options.report.as_deref(), Some(path.as_ref()));
}
