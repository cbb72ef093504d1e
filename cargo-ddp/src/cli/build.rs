//! What is built: the flags of cargo that several commands share.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Args;

use crate::project::cargo::Selection;

/// cargo's selection flags.
#[derive(Args, Debug)]
#[command(next_help_heading = "Build")]
pub struct Build {
    /// Package to build
    #[arg(short, long, value_name = "SPEC")]
    package: Option<String>,
    /// Binary to run
    #[arg(long, value_name = "NAME", conflicts_with = "example")]
    bin: Option<String>,
    /// Example to run
    #[arg(long, value_name = "NAME")]
    example: Option<String>,
    /// Build with optimizations
    #[arg(short, long, conflicts_with = "profile")]
    release: bool,
    /// Build with this profile
    #[arg(long, value_name = "PROFILE-NAME")]
    profile: Option<String>,
    /// Features to activate
    #[arg(short = 'F', long, value_name = "FEATURES")]
    features: Vec<String>,
    /// Activate all features
    #[arg(long)]
    all_features: bool,
    /// Do not activate the `default` feature
    #[arg(long)]
    no_default_features: bool,
    /// Platform to build for
    #[arg(long, value_name = "TRIPLE")]
    target: Option<String>,
    /// Directory for build artifacts
    #[arg(long, value_name = "DIRECTORY")]
    target_dir: Option<PathBuf>,
    /// Path to Cargo.toml
    #[arg(long, value_name = "PATH")]
    manifest_path: Option<PathBuf>,
    /// Number of parallel jobs
    #[arg(short, long, value_name = "N")]
    jobs: Option<String>,
    /// Assert that Cargo.lock stays unchanged
    #[arg(long)]
    locked: bool,
    /// Run without accessing the network
    #[arg(long)]
    offline: bool,
    /// Equivalent to --locked and --offline
    #[arg(long)]
    frozen: bool,
}

impl Build {
    /// As plain data.
    pub fn selection(&self) -> Selection {
        let mut flags: Vec<OsString> = Vec::new();
        let mut valued = |flag: &str, value: Option<&std::ffi::OsStr>| {
            if let Some(value) = value {
                flags.extend([flag.into(), value.to_owned()]);
            }
        };
        let text = |value: &Option<String>| value.as_ref().map(OsString::from);
        valued("--package", text(&self.package).as_deref());
        valued("--bin", text(&self.bin).as_deref());
        valued("--example", text(&self.example).as_deref());
        valued("--profile", text(&self.profile).as_deref());
        valued("--jobs", text(&self.jobs).as_deref());
        valued("--target", text(&self.target).as_deref());
        valued("--target-dir", self.target_dir.as_ref().map(|path| path.as_os_str()));
        for features in &self.features {
            valued("--features", Some(features.as_ref()));
        }
        for (flag, on) in [
            ("--release", self.release),
            ("--all-features", self.all_features),
            ("--no-default-features", self.no_default_features),
            ("--locked", self.locked),
            ("--offline", self.offline),
            ("--frozen", self.frozen),
        ] {
            flags.extend(on.then(|| flag.into()));
        }
        Selection {
            manifest_path: self.manifest_path.clone(),
            flags,
            target: self.bin.clone().or_else(|| self.example.clone()),
            example: self.example.is_some(),
            package: self.package.clone(),
            platform: self.target.clone(),
            profile: self.profile.clone().or_else(|| self.release.then(|| "release".to_owned())),
            has_target_dir: self.target_dir.is_some(),
            quiet: false,
        }
    }
}
