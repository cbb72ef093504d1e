//! What a failure of pip was about.

use super::NEEDED;

/// The reason of a failure of pip, as far as its output shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PipFault {
    /// pip could not reach the package index.
    Network,
    /// The disk is full.
    Disk,
    /// The package index has no such version for this Python.
    NoWheel,
    /// A package differs from the published one.
    Hash,
    /// Anything else.
    Other,
}

impl PipFault {
    /// What the user can do.
    pub(super) fn hint(self) -> String {
        match self {
            Self::Network => {
                "check the network (pip reads PIP_INDEX_URL and HTTPS_PROXY) and run the same command again to \
                              continue, or set LIBTORCH to a libtorch that you downloaded elsewhere"
                    .into()
            }
            Self::Disk => super::hint::MORE_SPACE.into(),
            Self::NoWheel => format!(
                "torch {NEEDED} has no package for this Python or platform: choose another Python with --python (3.10 to \
                 3.14), or set LIBTORCH to a libtorch {NEEDED}"
            ),
            Self::Hash => {
                "the download was damaged, or the package index or a proxy changed a package: try again, or set \
                           LIBTORCH to a libtorch that you trust"
                    .into()
            }
            Self::Other => "see pip's output above".into(),
        }
    }
}
