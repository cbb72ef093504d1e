//! Flags of `cargo ddp runs`, `doctor`, `env`, `completions`, `man` and `plot`.

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
    /// Shell to complete in
    pub shell: Shell,
}

/// `cargo ddp man`
#[derive(Args, Debug)]
pub struct Man {
    /// Write a page for every command into this folder, such as ~/.local/share/man/man1
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
}

/// `cargo ddp plot`
#[derive(Args, Debug)]
pub struct Plot {
    /// Runs: numbers or folders [default: latest]
    #[arg(value_name = "RUN")]
    pub runs: Vec<String>,
    /// A metric to draw, by its name (`train/loss`) or the last part of it (`loss`); may be repeated [default: all
    /// metrics of the model, without learning rate, gradient norm, throughput and memory]
    #[arg(short, long, value_name = "NAME")]
    pub metric: Vec<String>,
    /// File to write, .svg or .png; may be repeated [default: plot.svg and plot.png in the first run's folder]
    #[arg(short, long, value_name = "FILE")]
    pub output: Vec<PathBuf>,
    /// Draw a moving average over curves of 50 points or more; WEIGHT is the weight of the past [without a value: 0.9]
    #[arg(long, value_name = "WEIGHT", num_args = 0..=1, require_equals = true, default_missing_value = "0.9", value_parser = weight)]
    pub smooth: Option<f64>,
    /// Use a logarithmic scale for values
    #[arg(long)]
    pub log: bool,
    /// Directory of the runs [default: as for `cargo ddp runs`]
    #[arg(long, value_name = "DIR")]
    pub log_dir: Option<PathBuf>,
}

fn weight(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(weight) if (0.0..1.0).contains(&weight) => Ok(weight),
        _ => Err("expected a number from 0 to below 1, such as 0.9".into()),
    }
}

/// The versions of this program and of its libtorch.
pub(super) fn version() -> &'static str {
    static TEXT: std::sync::OnceLock<String> = std::sync::OnceLock::new();
    TEXT.get_or_init(|| format!("{} (libtorch {})", env!("CARGO_PKG_VERSION"), crate::project::libtorch::VERSION))
}
