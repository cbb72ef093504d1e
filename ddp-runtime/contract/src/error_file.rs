//! The error file of a failed worker, in torchrun's layout.

use std::io::{self, Write};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::file;

/// How the message of a worker begins whose peer has ended: that peer, not this worker, is the cause.
pub const LOST_PEER: &str = "lost the connection to a peer";

/// Why a worker failed, in the layout of torchrun's error file (`torch/distributed/elastic/multiprocessing/errors`):
/// `{"message": {"message": …, "extraInfo": {"py_callstack": …, "timestamp": …}}}`, with ours added to `extraInfo`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ErrorFile {
    message: Message,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Message {
    message: String,
    #[serde(rename = "extraInfo", default)]
    extra: Extra,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Extra {
    /// [`ErrorFile::VERSION`]; 0 in files of torchrun and of earlier versions.
    #[serde(default)]
    version: u32,
    /// Python's name for it; a Rust worker puts its back-trace here.
    #[serde(default)]
    py_callstack: String,
    /// Seconds since 1970, as a decimal string.
    #[serde(default)]
    timestamp: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    location: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    rank: Option<usize>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    step: Option<u64>,
}

impl ErrorFile {
    /// The version of what is added to torchrun's layout.
    pub const VERSION: u32 = 1;

    /// A record of `message`, stamped with the present time.
    pub fn new(message: impl Into<String>, backtrace: impl Into<String>) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let (py_callstack, timestamp) = (backtrace.into(), now.to_string());
        let extra = Extra { version: Self::VERSION, py_callstack, timestamp, ..Extra::default() };
        Self { message: Message { message: message.into(), extra } }
    }

    /// Adds where it happened (`file:line:column`).
    pub fn at(mut self, location: impl Into<String>) -> Self {
        self.message.extra.location = Some(location.into());
        self
    }

    /// Adds whose failure it is.
    pub fn of_rank(mut self, rank: usize) -> Self {
        self.message.extra.rank = Some(rank);
        self
    }

    /// Adds the optimizer steps that the worker had done.
    pub fn after_step(mut self, step: u64) -> Self {
        self.message.extra.step = Some(step);
        self
    }

    /// The optimizer steps that the worker had done, if it reported them.
    pub fn step(&self) -> Option<u64> {
        self.message.extra.step
    }

    /// [`VERSION`](Self::VERSION) of the file; 0 if it has none.
    pub fn version(&self) -> u32 {
        self.message.extra.version
    }

    /// What went wrong.
    pub fn message(&self) -> &str {
        &self.message.message
    }

    /// Where it went wrong, if the worker reported it (`file:line:column`).
    pub fn location(&self) -> Option<&str> {
        self.message.extra.location.as_deref()
    }

    /// The worker's back-trace: Python's, or Rust's.
    pub fn backtrace(&self) -> &str {
        &self.message.extra.py_callstack
    }

    /// Writes the record to `path`: completely or not at all, and only if there is no record yet (the first failure is the cause).
    pub fn write(&self, path: &Path) -> io::Result<()> {
        if path.exists() {
            return Ok(());
        }
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let partial = path.with_extension("partial");
        file::create(&partial)?.write_all(&serde_json::to_vec(self)?)?;
        std::fs::rename(partial, path)
    }

    /// Reads a record. `None` when there is none, or nothing that could be understood.
    pub fn read(path: &Path) -> Option<Self> {
        serde_json::from_slice(&file::read(path, file::SMALL).ok()?).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_file_of_python_is_read() {
        let python = r#"{"message": {"message": "ValueError: no", "extraInfo": {"py_callstack": "Traceback", "timestamp": "1700000000"}}}"#;
        let read: ErrorFile = serde_json::from_str(python).expect("torchrun's layout");
        assert_eq!(read.message(), "ValueError: no");
        assert_eq!((read.location(), read.version()), (None, 0));
    }

    #[test]
    fn error_file_of_the_previous_version_is_read() {
        let old = r#"{"message": {"message": "no", "extraInfo": {"py_callstack": "", "timestamp": "1700000000",
            "location": "src/main.rs:7:9", "rank": 1, "step": 64}}}"#;
        let read: ErrorFile = serde_json::from_str(old).expect("a file without a version");
        assert_eq!((read.version(), read.step(), read.location()), (0, Some(64), Some("src/main.rs:7:9")));
        let new = serde_json::to_string(&ErrorFile::new("no", "")).expect("plain data");
        assert_eq!(serde_json::from_str::<ErrorFile>(&new).expect("what was written can be read").version(), 1);
    }
}
