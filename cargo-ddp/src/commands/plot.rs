//! `cargo ddp plot`: draws the metrics of runs into an SVG or PNG file. The drawing is in `inspect::plots`.

use std::path::{Path, PathBuf};

use ddp_contract::metrics::{Curves, FILE};

use super::at_step;
use super::store::store;
use super::table;
use crate::cli::Plot;
use crate::inspect::plots::{self as plot, Figure, Format, Options, Run};
use crate::launch::{LATEST, Store};
use crate::os::output::Output;
use crate::{Error, Result, Ui, exit};

/// `cargo ddp plot`
pub(super) fn plot(args: Plot, ui: &Ui) -> Result<u8> {
    let outputs = args.output.iter().map(|path| output(path)).collect::<Result<Vec<_>>>()?;
    let chosen = if args.runs.is_empty() { vec![LATEST.to_owned()] } else { args.runs };
    // Folders need no project.
    let store = chosen.iter().any(|run| is_named(run)).then(|| store(args.log_dir)).transpose()?;
    let folders = chosen.iter().map(|run| folder(run, store.as_ref())).collect::<Result<Vec<_>>>()?;
    let runs = folders.iter().zip(&chosen).map(|(folder, run)| read(folder, run)).collect::<Result<Vec<_>>>()?;
    let options = Options { metrics: args.metric, smooth: args.smooth, log: args.log };
    let figure = Figure::new(&runs, &options).map_err(|(name, known)| Error::NoMetric { name, known })?;
    if figure.left_out() > 0 {
        let (left_out, most) = (figure.left_out(), plot::MOST_PANELS);
        ui.warn(format!("skipped {left_out} metrics: a plot has at most {most}; choose with --metric"));
    }
    let outputs = match outputs.is_empty() {
        true => {
            let usual = ["svg", "png"].map(|kind| folders[0].join("plot").with_extension(kind));
            usual.iter().map(|path| output(path)).collect::<Result<_>>()?
        }
        false => outputs,
    };
    // Not into a picture that goes to stdout.
    let is_silent = outputs.iter().any(|(_, output, _)| output.file().is_none());
    for (path, output, format) in outputs {
        plot::write(&figure, &output, format).map_err(Error::system(format!("can't write {}", path.display())))?;
        ui.status("Drew", path.display().to_string());
        if !is_silent {
            println!("{}", table::path(&path));
        }
    }
    debug_hint(&folders[0], &chosen[0], ui);
    Ok(exit::SUCCESS)
}

/// The command that goes to the step with the best metric, or to the last one.
fn debug_hint(folder: &Path, name: &str, ui: &Ui) {
    let Ok(folder) = folder.canonicalize() else { return };
    let runs = folder.parent().map(|runs| Store::only(runs.to_owned()).history()).unwrap_or_default();
    if let Some(run) = runs.iter().find(|run| run.folder == folder) {
        let best = run.job.best.as_ref().map(|best| best.step);
        let name = if name == LATEST { run.number.to_string() } else { name.to_owned() };
        at_step::hint(run, &name, best.or_else(|| run.last_step()), ui);
    }
}

/// The output that a path names, and the format to write.
fn output(path: &Path) -> Result<(PathBuf, Output, Format)> {
    let output = Output::open(path);
    // `/dev/stdout` and the like have no ending.
    let is_special = output.as_ref().is_ok_and(|output| output.file().is_none());
    let format = if is_special && path.extension().is_none() { Format::Svg } else { format(path)? };
    let output = output.map_err(Error::system(format!("can't write {}", path.display())))?;
    Ok((path.to_owned(), output, format))
}

fn format(path: &Path) -> Result<Format> {
    Format::from_path(path).ok_or_else(|| Error::BadOption {
        option: "output",
        problem: format!("unknown extension of {}: expected .svg or .png", path.display()),
    })
}

/// A run's folder: by its number in the store, or as given.
fn folder(run: &str, store: Option<&Store>) -> Result<PathBuf> {
    let Some(store) = store.filter(|_| is_named(run)) else { return Ok(run.into()) };
    store.find(run).ok_or_else(|| {
        let dirs = store.dirs().into_iter().map(Path::to_owned).collect();
        let known = store.history().iter().map(|run| run.number.to_string()).collect();
        Error::NoRunFolder { run: run.to_owned(), runs: dirs, known }
    })
}

/// Whether it is a number or `latest`, and no path.
fn is_named(run: &str) -> bool {
    run == LATEST || run.parse::<u64>().is_ok()
}

fn read(folder: &Path, run: &str) -> Result<Run> {
    let path = folder.join(FILE);
    let curves = Curves::read(&path).map_err(|source| match source.kind() {
        std::io::ErrorKind::NotFound => Error::NoMetrics(folder.to_owned()),
        std::io::ErrorKind::InvalidData => Error::BadMetrics { path: path.clone(), problem: source.to_string() },
        _ => Error::system(format!("can't read {}", path.display()))(source),
    })?;
    if curves.scalars.is_empty() {
        return Err(Error::NoMetrics(folder.to_owned()));
    }
    // `latest` is a link to a number.
    let real = folder.canonicalize().ok().and_then(|real| Some(real.file_name()?.to_str()?.to_owned()));
    let name = real.filter(|name| name.parse::<u64>().is_ok()).map_or_else(|| run.to_owned(), |n| format!("run {n}"));
    Ok(Run { name, curves })
}
