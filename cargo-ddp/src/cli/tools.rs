use std::path::PathBuf;

use clap::Args;
use clap_complete::Shell;

/// `cargo ddp runs`
#[derive(Args, Debug)]
pub struct Runs {
    /// Directory of the runs [default: runs in the project and here, and target/ddp/runs of earlier versions]
    #[arg(long, value_name = "DIR")]
    pub log_dir: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `cargo ddp doctor`
#[derive(Args, Debug)]
pub struct Doctor {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `cargo ddp env`
#[derive(Args, Debug)]
pub struct Env {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `cargo ddp completions`
#[derive(Args, Debug)]
pub struct Completions {
    /// The shell
    pub shell: Shell,
}

/// `cargo ddp man`
#[derive(Args, Debug)]
pub struct Man {
    /// Write a page for every command into this folder, such as ~/.local/share/man/man1
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
}

/// The versions of this program and of its libtorch.
pub(super) fn version() -> &'static str {
    static TEXT: std::sync::OnceLock<String> = std::sync::OnceLock::new();
    TEXT.get_or_init(|| format!("{} (libtorch {})", env!("CARGO_PKG_VERSION"), crate::project::libtorch::VERSION))
}
