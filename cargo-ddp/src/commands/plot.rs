use std::path::{Path, PathBuf};

use ddp_contract::metrics::{Curves, FILE};

use super::table;
use crate::cargo::Project;
use crate::cli::Plot;
use crate::plot::{self, Figure, Format, Options, Run};
use crate::{Error, Result, Ui, exit};

/// The newest run.
const LATEST: &str = "latest";

/// `cargo ddp plot`
pub(super) fn plot(args: Plot, ui: &Ui) -> Result<u8> {
    let formats = args.output.iter().map(|path| Ok((path.clone(), format(path)?))).collect::<Result<Vec<_>>>()?;
    let chosen = if args.runs.is_empty() { vec![LATEST.to_owned()] } else { args.runs };
    let folders = chosen.iter().map(|run| folder(run, args.log_dir.as_deref())).collect::<Result<Vec<_>>>()?;
    let runs = folders.iter().zip(&chosen).map(|(folder, run)| read(folder, run)).collect::<Result<Vec<_>>>()?;
    let options = Options { metrics: args.metric, smooth: args.smooth, log: args.log };
    let figure = Figure::new(&runs, &options).map_err(|(name, known)| Error::NoMetric { name, known })?;
    let files = match formats.as_slice() {
        [] => ["svg", "png"].map(|kind| folders[0].join("plot").with_extension(kind)).to_vec(),
        _ => formats.into_iter().map(|(path, _)| path).collect(),
    };
    for path in files {
        plot::write(&figure, &path, format(&path)?)
            .map_err(Error::system(format!("can't write {}", path.display())))?;
        ui.status("Drew", path.display().to_string());
        println!("{}", table::path(&path));
    }
    Ok(exit::SUCCESS)
}

fn format(path: &Path) -> Result<Format> {
    Format::of(path).ok_or_else(|| Error::BadOption {
        option: "output",
        problem: format!("{} ends in neither .svg nor .png", path.display()),
    })
}

/// A run's folder: by its number below `log_dir`, by default the project's; or as it is.
fn folder(run: &str, log_dir: Option<&Path>) -> Result<PathBuf> {
    if run != LATEST && run.parse::<u64>().is_err() {
        return Ok(run.into());
    }
    let runs = match log_dir {
        Some(folder) => folder.to_owned(),
        None => Project::find(None)?.target.join("ddp/runs"),
    };
    let folder = runs.join(run);
    if folder.is_dir() {
        return Ok(folder);
    }
    let entries = std::fs::read_dir(&runs).into_iter().flatten().flatten();
    let mut known: Vec<u64> = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    known.sort_unstable();
    let known = known.iter().map(ToString::to_string).collect();
    Err(Error::NoRunFolder { run: run.to_owned(), runs, known })
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
