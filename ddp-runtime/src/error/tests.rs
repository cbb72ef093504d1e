//! Tests of the texts of errors.

use super::*;

/// One error of each kind.
fn every() -> Vec<Error> {
    let text = || "words of the cause".to_owned();
    let path = || PathBuf::from("file");
    let reason = || io::Error::other(text());
    let operation = "reading";
    let io = || Error::Io { action: "can't read", path: path(), reason: reason() };
    let damage = snapshot::SnapshotError::Io { file: "state.json".into(), reason: reason() };
    let all = vec![
        Error::MissingVariable { name: "RANK", present: "WORLD_SIZE" },
        Error::BadVariable { name: "RANK", value: text(), problem: text() },
        Error::NoCuda { visible: text(), is_built: true },
        Error::Torch { operation, message: text() },
        Error::LostPeer { operation, detail: text() },
        Error::Timeout { operation, message: text() },
        Error::RankOutOfRange { rank: 2, world_size: 2 },
        Error::CallsDiffer { rank: 1, there: text(), here: text() },
        Error::ModelsDiffer { rank: 1, there: text(), here: text() },
        Error::ModelChanged { changes: text() },
        Error::UnusedParameters { parameters: vec![text()] },
        Error::MetricsDiffer { rank: 1, there: text(), here: text() },
        Error::Metrics(std::sync::Arc::new(io())),
        Error::NoParameters,
        Error::StateMismatch { what: text(), problem: text() },
        io(),
        Error::DiskFull { path: path() },
        Error::SnapshotsInUse { dir: path(), problem: text() },
        Error::NonFiniteLoss { rank: 1, step: 2, weights: true },
        Error::Preempted { step: 2, snapshot: path() },
        Error::NoValidSnapshot { dir: path(), newest: path(), damage },
        Error::OnRank { operation, rank: 1, message: text() },
        Error::Sample { index: 3, reason: Box::new(io()) },
        Error::Batch { indices: vec![3], reason: Box::new(Error::other(reason())) },
        Error::Panicked { message: text(), location: None },
        Error::BadFile { path: path(), problem: text() },
        Error::other(reason()),
        Error::Invalid(text()),
    ];
    // A new kind must be added above: then it must be added here.
    for error in &all {
        match error {
            Error::MissingVariable { .. }
            | Error::BadVariable { .. }
            | Error::NoCuda { .. }
            | Error::Torch { .. }
            | Error::LostPeer { .. } => {}
            Error::Timeout { .. } | Error::RankOutOfRange { .. } | Error::CallsDiffer { .. } => {}
            Error::ModelsDiffer { .. } | Error::ModelChanged { .. } | Error::UnusedParameters { .. } => {}
            Error::MetricsDiffer { .. } | Error::Metrics(_) | Error::NoParameters | Error::StateMismatch { .. } => {}
            Error::Io { .. } | Error::DiskFull { .. } | Error::SnapshotsInUse { .. } | Error::NonFiniteLoss { .. } => {}
            Error::Preempted { .. } | Error::NoValidSnapshot { .. } | Error::OnRank { .. } | Error::Sample { .. } => {}
            Error::Batch { .. } | Error::Panicked { .. } | Error::BadFile { .. } | Error::Other(_) => {}
            Error::Invalid(_) => {}
        }
    }
    all
}

#[test]
fn errors_print_their_cause_once() {
    for error in every() {
        let kind = format!("{error:?}");
        let alone = error.to_string();
        let chain = format!("{:#}", anyhow::Error::from(error));
        let count = |text: &str| text.matches("words of the cause").count();
        assert_eq!(count(&chain), count(&alone), "{kind}: {chain}");
        assert!(!alone.is_empty() && !alone.ends_with('.'), "{alone}");
    }
}

#[test]
fn lost_peer_has_its_own_message_and_keeps_the_detail() {
    let gloo = "[pair.cc:553] Connection closed by peer [127.0.0.1]:1. This is typically caused by a crash. GLHF!";
    let err = Error::torch("all_reduce", gloo.into());
    assert_eq!(err.to_string(), "lost the connection to a peer during all_reduce; that peer ended first");
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
