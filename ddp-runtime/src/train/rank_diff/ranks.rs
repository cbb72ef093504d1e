//! What the ranks exchange in order to compare their tensors.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::{Error, ProcessGroup, Result};

/// What errors call a comparison.
pub(super) const OPERATION: &str = "comparing the ranks' tensors";

/// Why a comparison ends early, on every rank.
pub(super) enum Failed {
    /// The ranks can't exchange anything.
    Group(Error),
    /// A rank can't do its part, for this reason.
    Rank(String),
}

impl From<Error> for Failed {
    fn from(err: Error) -> Self {
        Self::Group(err)
    }
}

/// The ranks of a run. Every rank makes the same calls.
pub(super) trait Ranks {
    fn rank(&self) -> usize;

    fn world_size(&self) -> usize;

    /// The largest of the ranks' numbers, each by itself.
    fn largest(&self, numbers: Vec<i64>) -> Result<Vec<i64>>;

    /// Every rank's bytes, in the order of ranks.
    fn gather(&self, bytes: &[u8]) -> Result<Vec<Vec<u8>>>;

    /// Rank 0's bytes.
    fn of_rank0(&self, bytes: &[u8]) -> Result<Vec<u8>>;

    /// This rank's value if every rank has one.
    fn share<T>(&self, outcome: Result<T>) -> Result<T, Failed> {
        let problem = outcome.as_ref().err().map(ToString::to_string).unwrap_or_default();
        let problems = self.gather(problem.as_bytes())?;
        let failed = problems.iter().enumerate().find(|(_, problem)| !problem.is_empty());
        match (outcome, failed) {
            (Ok(value), None) => Ok(value),
            (_, Some((rank, problem))) => {
                Err(Failed::Rank(format!("rank {rank}: {}", String::from_utf8_lossy(problem))))
            }
            (Err(err), None) => Err(Failed::Rank(err.to_string())),
        }
    }

    /// Every rank's value, in the order of ranks.
    fn gather_value<T: Serialize + DeserializeOwned>(&self, value: &T) -> Result<Vec<T>, Failed> {
        let failed = |err: serde_json::Error| Error::Invalid(err.to_string());
        let bytes = self.share(serde_json::to_vec(value).map_err(failed))?;
        let all = self.gather(&bytes)?;
        self.share(all.iter().map(|bytes| serde_json::from_slice(bytes).map_err(failed)).collect())
    }
}

impl Ranks for ProcessGroup {
    fn rank(&self) -> usize {
        self.rank()
    }

    fn world_size(&self) -> usize {
        self.world_size()
    }

    fn largest(&self, numbers: Vec<i64>) -> Result<Vec<i64>> {
        self.largest_of(OPERATION, numbers)
    }

    fn gather(&self, bytes: &[u8]) -> Result<Vec<Vec<u8>>> {
        self.all_gather_bytes(bytes)
    }

    fn of_rank0(&self, bytes: &[u8]) -> Result<Vec<u8>> {
        self.broadcast_bytes(bytes, 0)
    }
}
