//! Flags of `cargo ddp snapshot` and its subcommands: `ls`, `show`, `verify`, `diff`, `prune`, `export`, `import`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use crate::inspect::snapshots::{self as snapshot, Retention};

/// `cargo ddp snapshot`
#[derive(Args, Debug)]
pub struct Snapshot {
    /// What to do with them.
    #[command(subcommand)]
    pub command: SnapshotCommand,
}

/// What to do with snapshots.
#[derive(Debug, Subcommand)]
pub enum SnapshotCommand {
    /// List snapshots: step, epoch, workers, size, metric, validity
    ///
    /// Every file is read and its checksum checked.
    Ls(SnapshotList),
    /// Show the contents of a snapshot: tensors, optimizer, states and values
    Show(SnapshotShow),
    /// Check every file in snapshots against its checksum; exits with code 6 if one is damaged
    Verify(SnapshotList),
    /// Compare two snapshots or safetensors files, tensor by tensor; exits with code 6 if they differ
    Diff(SnapshotDiff),
    /// Remove old snapshots, except the newest valid one and damaged ones
    Prune(SnapshotPrune),
    /// Write a snapshot's model as one file: .safetensors, or .pt for `torch.load(weights_only=True)`
    Export(SnapshotExport),
    /// Import another program's safetensors file as a snapshot, so that a run starts with its weights
    ///
    /// The run's optimizer starts from scratch. The tensors must have the names, shapes and types of the model's variables;
    /// `cargo ddp snapshot show` lists them for a snapshot of the project.
    Import(SnapshotImport),
}

/// `cargo ddp snapshot ls` and `verify`
#[derive(Args, Debug)]
pub struct SnapshotList {
    /// A folder of snapshots, or one of them [default: `snapshots` in
    /// train.toml, or the folder `snapshots`]
    pub dir: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `cargo ddp snapshot show`
#[derive(Args, Debug)]
pub struct SnapshotShow {
    /// A snapshot, or a folder of snapshots for the newest valid one [default: `snapshots` in
    /// train.toml, or the folder `snapshots`]
    pub dir: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `cargo ddp snapshot diff`
#[derive(Args, Debug)]
pub struct SnapshotDiff {
    /// A snapshot, a folder of snapshots for the newest valid one, or a safetensors file
    pub a: PathBuf,
    /// The snapshot or file to compare it with
    pub b: PathBuf,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `cargo ddp snapshot prune`
#[derive(Args, Debug)]
pub struct SnapshotPrune {
    /// A folder of snapshots [default: `snapshots` in
    /// train.toml, or the folder `snapshots`]
    pub dir: Option<PathBuf>,
    /// Number of newest valid snapshots to keep
    #[arg(long, value_name = "K", value_parser = clap::value_parser!(u32).range(1..))]
    pub keep_last: u32,
    /// Number of snapshots with the best metric to keep as well
    #[arg(long, value_name = "K")]
    pub keep_best: Option<u32>,
    /// Whether lower or higher metrics are better
    #[arg(long, value_name = "WHICH", default_value = "min", requires = "keep_best")]
    pub best: Best,
    /// Keep one snapshot for every K steps as well, the first at or after each multiple of K, for `cargo ddp run --at-step`
    #[arg(long, value_name = "K", value_parser = clap::value_parser!(u64).range(1..))]
    pub keep_every: Option<u64>,
    /// Print what would be removed, and remove nothing
    #[arg(long)]
    pub dry_run: bool,
}

impl SnapshotPrune {
    /// As plain data.
    pub fn retention(&self) -> Retention {
        let best = match self.best {
            Best::Min => snapshot::Goal::Minimize,
            Best::Max => snapshot::Goal::Maximize,
        };
        let best = self.keep_best.map(|count| (count as usize, best));
        Retention { last: self.keep_last as usize, best, every: self.keep_every }
    }
}

/// Which metrics are better.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Best {
    /// Lower is better, such as a loss
    Min,
    /// Higher is better, such as an accuracy
    Max,
}

/// `cargo ddp snapshot export`
#[derive(Args, Debug)]
pub struct SnapshotExport {
    /// A snapshot, or a folder of snapshots for the newest valid one [default: `snapshots` in
    /// train.toml, or the folder `snapshots`]
    pub dir: Option<PathBuf>,
    /// File to write; the extension selects the format
    #[arg(long, value_name = "FILE")]
    pub to: PathBuf,
    /// Other names for the tensors: a table of `"ours" = "theirs"` (.toml, .json), with patterns such as `"*" = "model.*"`
    #[arg(long, value_name = "MAP")]
    pub names: Option<PathBuf>,
}

/// `cargo ddp snapshot import`
#[derive(Args, Debug)]
pub struct SnapshotImport {
    /// A safetensors file
    pub file: PathBuf,
    /// Folder for the new snapshot, without any snapshots so far
    #[arg(long, value_name = "DIR", default_value = "snapshots")]
    pub to: PathBuf,
    /// Other names for the tensors: a table of `"theirs" = "ours"` (.toml, .json), with patterns such as `"model.*" = "*"`;
    /// an empty name leaves a tensor out
    #[arg(long, value_name = "MAP")]
    pub names: Option<PathBuf>,
}
