//! The exit code of an error.

use super::Error;
use crate::exit;

impl Error {
    /// See [`exit`].
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Exists(_)
            | Self::BadName { .. }
            | Self::BadFolder { .. }
            | Self::NoTemplate { .. }
            | Self::NoProject(_)
            | Self::BadManifest { .. }
            | Self::CantJoin { .. }
            | Self::NoRecord(_)
            | Self::BadRecord { .. }
            | Self::MadeByNewer { .. }
            | Self::Unconfirmed
            | Self::BadProject(_)
            | Self::NoBinary
            | Self::ManyBinaries(_)
            | Self::ManyPlatforms(_)
            | Self::BadSetting { .. }
            | Self::BadOption { .. }
            | Self::BadDebug(_)
            | Self::BadSecret(_)
            | Self::BadVariable { .. }
            | Self::NotDebugged
            | Self::JoinTaken(_)
            | Self::NoRun { .. }
            | Self::NoRunInProject(_)
            | Self::ManyRuns(_)
            | Self::RunsElsewhere(_)
            | Self::OneRank(_)
            | Self::NoRunFolder { .. }
            | Self::NoEarlierRun { .. }
            | Self::OtherProgram { .. }
            | Self::NoSuchStep { .. }
            | Self::StepOutOfReach { .. }
            | Self::StepNotReached { .. }
            | Self::NoMetrics(_)
            | Self::NoMetric { .. }
            | Self::NoFeature(_)
            | Self::BadMetrics { .. }
            | Self::BadGpuList { .. }
            | Self::NoSuchGpu { .. }
            | Self::NoDriver(_)
            | Self::BadJson { .. }
            | Self::NoTarget { .. }
            | Self::NothingToDebug
            | Self::NoSnapshot { .. }
            | Self::NoSnapshotFolder { .. }
            | Self::SnapshotsInUse { .. }
            | Self::BadTensorFile { .. }
            | Self::CantImport { .. }
            | Self::BadNames { .. }
            | Self::GpuNotVisible { .. } => exit::USAGE,
            Self::Stale(_) | Self::StartsAnother { .. } => exit::STALE,
            Self::Damaged { .. } => exit::FOUND,
            Self::BadLibtorch { .. }
            | Self::NoPython
            | Self::BadPython { .. }
            | Self::NoPip { .. }
            | Self::NoSpace { .. }
            | Self::Pip { .. }
            | Self::Incomplete(_)
            | Self::NoCache
            | Self::UnsafeCache { .. } => exit::SETUP_FAILED,
            Self::Rendezvous { .. } => exit::NODE_LOST,
            Self::Build(_) => exit::BUILD_FAILED,
            Self::NoProgram(_) => exit::COMMAND_NOT_FOUND,
            Self::NotExecutable { .. } | Self::NoInterpreter { .. } => exit::NOT_EXECUTABLE,
            Self::NotJoined { .. }
            | Self::NoAnswer { .. }
            | Self::JobEnded(_)
            | Self::CantCompare { .. }
            | Self::Start { .. }
            | Self::System { .. }
            | Self::Output { .. }
            | Self::RunDir { .. }
            | Self::Template { .. } => exit::SYSTEM,
        }
    }
}
