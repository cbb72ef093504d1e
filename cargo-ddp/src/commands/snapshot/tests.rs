use ddp_contract::snapshot::{FORMAT_VERSION, FileInfo, SnapshotError};

use super::*;
use crate::snap::assert_text;

fn manifest(step: u64) -> Manifest {
    let info = || FileInfo { bytes: 100, crc32c: "00000000".into() };
    Manifest {
        format_version: FORMAT_VERSION,
        epoch: 1,
        step,
        world_size: 2,
        samples_in_epoch: 0,
        metric: Some(0.25),
        states: BTreeMap::new(),
        non_finite: BTreeMap::new(),
        non_finite_since: None,
        bucket_order: vec![],
        files: [format::MODEL, format::OPTIMIZER, format::RNG].map(|name| (name.to_owned(), info())).into(),
    }
}

fn listed(step: u64, manifest: Result<Manifest, SnapshotError>) -> Listed {
    Listed { folder: Path::new("snapshots").join(format::folder_name(step)), step, bytes: 16_300, manifest }
}

/// A snapshot in each state.
fn all() -> Vec<Listed> {
    let mut model_only = manifest(0);
    model_only.files.remove(format::OPTIMIZER);
    model_only.metric = None;
    vec![
        listed(0, Ok(model_only)),
        listed(24, Ok(manifest(24))),
        listed(40, Ok(Manifest { non_finite_since: Some(39), ..manifest(40) })),
        listed(48, Err(SnapshotError::Checksum(format::MODEL.into()))),
    ]
}

#[test]
fn ls_names_the_state_of_each_snapshot() {
    assert_text!("ls", listing(&all()).join("\n"));
    let json = serde_json::to_string_pretty(&all().iter().map(listed_json).collect::<Vec<_>>());
    assert_text!("ls_json", json.expect("plain data"));
}

#[test]
fn verify_names_the_damage() {
    assert_text!("verify", all().iter().map(verified).collect::<Vec<_>>().join("\n"));
}

#[test]
fn diff_describes_each_change() {
    let changes = [
        Change::Added { is: "F32 [2]".into() },
        Change::Removed { was: "F32 [2]".into() },
        Change::Reshaped { was: "F32 [2]".into(), is: "F32 [2, 1]".into() },
        Change::Changed { elements: 2, of: 3, max_abs: Some(0.5) },
        Change::Changed { elements: 2, of: 2, max_abs: None },
    ];
    assert_text!("diff", changes.iter().map(words).collect::<Vec<_>>().join("\n"));
}

#[test]
fn show_lists_tensors_and_states() {
    let info = |name: &str, shape: &[usize]| TensorInfo {
        name: name.into(),
        dtype: "F32".into(),
        shape: shape.to_vec(),
        bytes: 4 * shape.iter().product::<usize>(),
    };
    let content = Content {
        model: vec![info("head.bias", &[3]), info("head.weight", &[3, 100])],
        aliases: BTreeMap::from([("embedding.weight".into(), "head.weight".into())]),
        optimizer: vec![info("head.bias.exp_avg", &[3]), info("head.weight.exp_avg", &[3, 100])],
        states: vec![info("average.weight", &[3, 100])],
    };
    let saved = Manifest {
        samples_in_epoch: 240,
        states: BTreeMap::from([("value.best".into(), json!(0.5)), ("scheduler".into(), json!({ "last_epoch": 24 }))]),
        ..manifest(24)
    };
    assert_text!("show", description(Path::new("snapshots/step-00000024"), &saved, &content).join("\n"));
    let mut imported = Manifest { world_size: 1, metric: None, ..manifest(0) };
    imported.files.remove(format::OPTIMIZER);
    let model = Content { aliases: BTreeMap::new(), optimizer: vec![], states: vec![], ..content };
    assert_text!("show_model_only", description(Path::new("snapshots/step-00000000"), &imported, &model).join("\n"));
}
