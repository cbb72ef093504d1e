/// One of the two output streams of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Target {
    Stdout,
    Stderr,
}

/// Both streams.
pub(crate) const TARGETS: [Target; 2] = [Target::Stdout, Target::Stderr];

impl Target {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}
