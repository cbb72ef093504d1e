//! What a failure of pip was about.

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
