//! Tests of the texts of errors.

use ddp_contract::lock::LockError;

use super::*;

fn read_only() -> io::Error {
    io::Error::from_raw_os_error(30)
}

fn full_disk() -> Error {
    Error::DiskFull { path: "snapshots/.step-00001200.partial/model.safetensors".into() }
}

fn gzip() -> Error {
    Error::BadFile { path: "data/train-images-idx3-ubyte".into(), problem: "compressed with gzip".into() }
}

/// Declares `variant` (the name of an error's variant) and `samples` (an error of each variant, with its name). Without an
/// entry for each variant, the match is not exhaustive.
macro_rules! samples {
    ($($variant:ident: $samples:expr,)+) => {
        fn variant(error: &Error) -> &'static str {
            match error { $(Error::$variant { .. } => stringify!($variant),)+ }
        }

        fn samples() -> Vec<(&'static str, Error)> {
            let mut all = Vec::new();
            $(all.extend($samples.map(|error| (stringify!($variant), error)));)+
            all
        }
    };
}

samples! {
    MissingVariable: [Error::MissingVariable { name: "MASTER_PORT", present: "RANK" }],
    BadVariable: [
        Error::BadVariable { name: "RANK", value: "two".into(), problem: "expected a number".into() },
        Error::BadVariable { name: "RANK", value: "\u{1b}[2J".into(), problem: "expected a number".into() },
    ],
    NoCuda: [true, false].map(|is_built| Error::NoCuda { visible: "0,1".into(), is_built }),
    Torch: [
        Error::torch("forward", "mat1 and mat2 shapes cannot be multiplied (4x3 and 2x5)".into()),
        Error::torch("creating an NCCL process group", "ProcessGroupNCCL is only supported with GPUs, no GPUs found!".into()),
    ],
    LostPeer: [Error::torch("all_reduce", "[pair.cc:553] Connection closed by peer [127.0.0.1]:1".into())],
    Timeout: [Error::Timeout { operation: "all_reduce", message: "Timed out waiting 1000ms for recv operation".into() }],
    RankOutOfRange: [Error::RankOutOfRange { rank: 2, world_size: 2 }],
    CallsDiffer: [Error::CallsDiffer {
        rank: 1,
        there: "called all_reduce Sum of [3] Float".into(),
        here: "called barrier".into(),
    }],
    ModelsDiffer: [Error::ModelsDiffer {
        rank: 1,
        there: "parameter fc.bias [3] Float".into(),
        here: "parameter fc.bias [2] Float".into(),
    }],
    ModelChanged: [Error::ModelChanged { changes: "fc.bias was frozen".into() }],
    UnusedParameters: [Error::UnusedParameters { parameters: vec!["fc.bias".into(), "fc.weight".into()] }],
    MetricsDiffer: [Error::MetricsDiffer {
        rank: 1,
        there: "logged `accuracy` at step 7".into(),
        here: "logged `loss` at step 7".into(),
    }],
    Metrics: [Error::Metrics(std::sync::Arc::new(full_disk()))],
    NoParameters: [Error::NoParameters],
    StateMismatch: [Error::StateMismatch {
        what: "the model from snapshots/step-00001200".into(),
        problem: "fc.bias is [3] Float in the snapshot, but [2] Float in the model".into(),
    }],
    Io: [Error::io("can't read", "snapshots")(read_only())],
    DiskFull: [full_disk()],
    SnapshotsInUse: [Error::SnapshotsInUse {
        dir: "snapshots".into(),
        problem: LockError::Held(None).to_string(),
    }],
    NonFiniteLoss: [true, false].map(|weights| Error::NonFiniteLoss { rank: 1, step: 5, weights }),
    Preempted: [Error::Preempted { step: 1200, snapshot: "snapshots/step-00001200".into() }],
    AtStep: [Error::AtStep { step: 43, snapshot: "runs/9/snapshots/step-00000043".into() }],
    NoValidSnapshot: [Error::NoValidSnapshot {
        dir: "snapshots".into(),
        newest: "snapshots/step-00001200".into(),
        damage: snapshot::SnapshotError::Checksum("model.safetensors".into()),
    }],
    OnRank: [Error::OnRank { operation: "saving a snapshot", rank: 0, message: full_disk().to_string() }],
    Sample: [Error::Sample { index: 3, reason: Box::new(gzip()) }],
    Batch: [
        Error::Batch { indices: vec![3, 1], reason: Box::new(Error::other(read_only())) },
        Error::Batch { indices: (0..32).collect(), reason: Box::new(gzip()) },
    ],
    Panicked: [None, Some("src/main.rs:3:5".into())].map(|location| Error::Panicked { message: "index out of bounds".into(), location }),
    BadFile: [gzip()],
    Other: [Error::other(read_only())],
    Invalid: [Error::Invalid("the batch size must be at least 1".into())],
}

#[test]
fn errors_print_their_cause_once() {
    for (_, error) in samples() {
        let (kind, alone) = (format!("{error:?}"), error.to_string());
        assert_eq!(format!("{:#}", anyhow::Error::from(error)), alone, "{kind}");
        assert!(!alone.is_empty() && !alone.ends_with('.'), "{alone}");
    }
}

#[test]
fn error_texts_and_hints() {
    let mut text = String::new();
    for (name, error) in samples() {
        assert_eq!(variant(&error), name);
        text += &format!("{name}\n  error: {error}\n");
        if let Some(hint) = error.hint() {
            text += &format!("  hint: {hint}\n");
        }
    }
    insta::assert_snapshot!("errors", text);
}

#[test]
fn lost_peer_has_its_own_message_and_keeps_the_detail() {
    let gloo = "[pair.cc:553] Connection closed by peer [127.0.0.1]:1. This is typically caused by a crash. GLHF!";
    let err = Error::torch("all_reduce", gloo.into());
    assert_eq!(err.to_string(), "lost the connection to a peer during all_reduce; the peer exited first");
    assert!(format!("{err:?}").contains("pair.cc:553") && err.hint().is_some(), "{err:?}");
    let other = Error::torch("all_reduce", "out of memory".into());
    assert_eq!(other.to_string(), "all_reduce: out of memory");
}

#[test]
fn cpp_stack_traces_are_cut_off() {
    let plain =
        "shape '[3]' is invalid for input of size 4\nException raised from infer (most recent call first):\nframe #0";
    assert_eq!(without_trace(plain), "shape '[3]' is invalid for input of size 4");
    let in_a_panic = r#"Err` value: Torch("size mismatch\nException raised from x (most recent call first):\nframe")"#;
    assert_eq!(without_trace(in_a_panic), r#"Err` value: Torch("size mismatch"#);
    let of_an_allocation =
        "[enforce fail at alloc_cpu.cpp:127] err == 0. can't allocate 8 bytes.\nframe #0: c10::Throw";
    assert_eq!(
        without_trace(of_an_allocation),
        "[enforce fail at alloc_cpu.cpp:127] err == 0. can't allocate 8 bytes."
    );
    assert_eq!(without_trace("no trace"), "no trace");
}
