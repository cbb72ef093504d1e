//! The events that a worker sends to its launcher: their fields, their JSON and their version.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// What a worker tells its launcher over the pipe named by [`EVENT_FD`](crate::env::EVENT_FD): one JSON object a line.
///
/// Lines shorter than `PIPE_BUF` (4096 bytes on Linux) arrive complete. A full pipe loses events rather than stall the
/// training, so nothing may depend on seeing each of them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Event {
    /// The worker has read its environment. Always the first event.
    Started {
        /// [`VERSION`](Self::VERSION) of the events that follow; 0 for workers that did not send it yet.
        #[serde(default)]
        version: u32,
    },
    /// Training resumes from a snapshot.
    Resumed {
        /// The snapshot's folder. What is not UTF-8 in it arrives as U+FFFD.
        #[serde(serialize_with = "crate::text::lossy")]
        snapshot: PathBuf,
        /// The epoch to continue with, from 0.
        epoch: u64,
        /// Optimizer steps done.
        step: u64,
    },
    /// An optimizer step is done.
    Step {
        /// The epoch in progress, from 0.
        epoch: u64,
        /// Optimizer steps done, over all epochs.
        step: u64,
        /// The loss, when it was at hand.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        loss: Option<f64>,
        /// Optimizer steps that the run will have in total, if that is known.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        steps: Option<u64>,
        /// Samples of all ranks in this step, if that is known.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        samples: Option<u64>,
        /// The learning rate, if reported.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        learning_rate: Option<f64>,
        /// The norm of the gradients, if reported.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        grad_norm: Option<f64>,
        /// Memory that the worker uses, in bytes, if reported.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        memory: Option<u64>,
    },
    /// A snapshot is complete on disk.
    SnapshotSaved {
        /// The snapshot's folder. What is not UTF-8 in it arrives as U+FFFD.
        #[serde(serialize_with = "crate::text::lossy")]
        snapshot: PathBuf,
        /// The epoch that it resumes with, from 0.
        epoch: u64,
        /// Optimizer steps it holds.
        step: u64,
        /// The metric by which the run was judged when it was saved, if there was one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        metric: Option<f64>,
        /// Whether small metrics are the better ones, if the run keeps its best.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        lower_is_better: Option<bool>,
    },
    /// An event of a newer version.
    #[serde(other)]
    Unknown,
}

impl Event {
    /// The version of the event stream that is written. Readers skip events, and ignore fields, that they do not know.
    pub const VERSION: u32 = 1;

    /// The first event of a worker.
    pub fn started() -> Self {
        Self::Started { version: Self::VERSION }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn event_stream_of_the_previous_version_is_read() {
        let started = serde_json::from_str::<Event>(r#"{"event":"started"}"#).expect("a worker of an earlier version");
        assert_eq!(started, Event::Started { version: 0 });
        let newer = r#"{"event":"started","version":9,"coffee":true}"#;
        assert_eq!(serde_json::from_str::<Event>(newer).expect("a newer worker"), Event::Started { version: 9 });
    }

    #[test]
    fn events_round_trip_and_unknown_ones_are_accepted() {
        let saved = Event::SnapshotSaved {
            snapshot: "snapshots/step-00000064".into(),
            epoch: 2,
            step: 64,
            metric: Some(0.5),
            lower_is_better: Some(true),
        };
        let step = Event::Step {
            epoch: 0,
            step: 1,
            loss: None,
            steps: Some(64),
            samples: None,
            learning_rate: Some(0.1),
            grad_norm: None,
            memory: Some(1 << 30),
        };
        for event in [Event::started(), saved, step] {
            let line = serde_json::to_string(&event).expect("an event is plain data");
            assert_eq!(serde_json::from_str::<Event>(&line).expect("what was written can be read"), event, "{line}");
        }
        let older = r#"{"event":"snapshot_saved","snapshot":"s/step-00000064","epoch":2,"step":64}"#;
        let older = serde_json::from_str(older).expect("an older event is understood");
        assert!(matches!(older, Event::SnapshotSaved { step: 64, metric: None, lower_is_better: None, .. }));
        let newer = r#"{"event":"coffee_break","minutes":5}"#;
        assert_eq!(serde_json::from_str::<Event>(newer).expect("newer events are skipped"), Event::Unknown);
    }
}
