//! Who holds the lock of a snapshot directory, as the lock's file has it.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::os::{self, started};

/// Who holds a lock.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// [`Holder::VERSION`] of the format. A file without a version has version 0.
    #[serde(default)]
    pub version: u32,
    /// Its process id.
    pub pid: u32,
    /// When the process started, in the kernel's ticks since the boot: process ids are used again.
    #[serde(default)]
    pub started: u64,
    /// The host's name.
    pub host: String,
    /// The kernel's boot id: what tells hosts apart.
    #[serde(default)]
    pub boot_id: String,
    /// The namespace that the process id is of.
    #[serde(default)]
    pub pid_namespace: u64,
    /// The run, where a launcher named it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<String>,
}

impl Holder {
    /// The version that is written. Later versions may add fields, and no reader rejects them: a lock must never be ignored
    /// because a newer program holds it.
    pub const VERSION: u32 = 1;

    pub(super) fn this_process(run: Option<&str>) -> Self {
        Self {
            version: Self::VERSION,
            pid: std::process::id(),
            started: started(std::process::id()).unwrap_or(0),
            host: os::host_name(),
            boot_id: os::boot_id(),
            pid_namespace: os::pid_namespace(),
            run: run.map(str::to_owned),
        }
    }

    pub(super) fn is_on_the_host_of(&self, other: &Self) -> bool {
        !self.boot_id.is_empty() && self.boot_id == other.boot_id
    }

    /// Whether its process would be seen by the process `here`.
    pub(super) fn can_be_seen_from(&self, here: &Self) -> bool {
        self.is_on_the_host_of(here) && self.pid_namespace == here.pid_namespace
    }

    /// Whether `self` is known to have ended, by a process on the same host.
    pub(super) fn has_ended(&self, here: &Self) -> bool {
        self.can_be_seen_from(here) && started(self.pid).is_none_or(|started| started != self.started)
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A name from a file that any user may have written.
        let plain = |text: &str| text.chars().filter(|c| !c.is_control()).take(100).collect::<String>();
        write!(f, "process {} on {}", self.pid, plain(&self.host))?;
        self.run.as_ref().map_or(Ok(()), |run| write!(f, " (run {})", plain(run)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holder_of_the_previous_version_is_read() {
        let old = r#"{"pid": 7, "started": 11, "host": "node7", "boot_id": "b", "pid_namespace": 4, "run": "run-1-2"}"#;
        let read: Holder = serde_json::from_str(old).expect("a file without a version");
        let expected = Holder {
            version: 0,
            pid: 7,
            started: 11,
            host: "node7".into(),
            boot_id: "b".into(),
            pid_namespace: 4,
            run: Some("run-1-2".into()),
        };
        assert_eq!(read, expected);
        let newer = r#"{"version": 9, "pid": 7, "host": "node7", "color": "red"}"#;
        assert_eq!(serde_json::from_str::<Holder>(newer).expect("a newer program").version, 9);
        let own = serde_json::to_value(Holder::this_process(None)).expect("plain data");
        assert_eq!(own["version"], Holder::VERSION);
    }
}
