//! Curves of runs as a picture: what to draw is decided here, without a terminal or a pixel.
//!
//! | file | what it does |
//! |---|---|
//! | `axis` | ranges, ticks and their labels |
//! | `draw` | a figure on any of plotters' backends |
//! | `file` | figures as SVG and PNG files |
//! | `pixels` | lines of a PNG |

mod axis;
mod draw;
mod file;
mod pixels;

pub use file::Format;
pub(crate) use file::write;

use ddp_contract::metrics::{Curves, Point};
use ddp_contract::text::printable_line;

/// What the curves of some runs are to look like.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Names of the metrics, complete (`train/loss`) or their last part (`loss`); none: the metrics of the model.
    pub metrics: Vec<String>,
    /// Weight of the past in a moving average, from 0 to below 1; the values themselves stay visible behind it.
    pub smooth: Option<f64>,
    /// Values on a logarithmic scale.
    pub log: bool,
}

/// A run and what it has measured.
#[derive(Clone, Debug)]
pub struct Run {
    /// As in the legend.
    pub name: String,
    /// Its curves.
    pub curves: Curves,
}

/// Panels, one per metric, with a line per run.
#[derive(Clone, Debug, PartialEq)]
pub struct Figure {
    runs: Vec<String>,
    panels: Vec<Panel>,
    log: bool,
    left_out: usize,
}

#[derive(Clone, Debug, PartialEq)]
struct Panel {
    /// The metric, with its unit.
    label: String,
    lines: Vec<Line>,
}

#[derive(Clone, Debug, PartialEq)]
struct Line {
    run: usize,
    /// Parts without gaps; steps and values.
    raw: Vec<Vec<(f64, f64)>>,
    /// The moving average, if it was asked for.
    smooth: Option<Vec<Vec<(f64, f64)>>>,
    /// Steps at which the run was started again.
    restarts: Vec<f64>,
}

/// Metrics of the machine, not of the model: shown on request.
fn is_of_the_machine(name: &str) -> bool {
    name.starts_with("memory/") || ["learning_rate", "grad_norm", "samples_per_second"].contains(&last_part(name))
}

fn last_part(name: &str) -> &str {
    name.rsplit('/').next().unwrap_or(name)
}

impl Figure {
    /// Chooses what is drawn. `Err` holds the name of a metric that no run has, and those there are.
    ///
    /// # Errors
    /// As said.
    pub fn new(runs: &[Run], options: &Options) -> Result<Self, (String, Vec<String>)> {
        let mut known: Vec<String> = runs.iter().flat_map(|run| run.curves.scalars.keys().cloned()).collect();
        known.sort_unstable();
        known.dedup();
        let mut names: Vec<&String> = Vec::new();
        for wanted in &options.metrics {
            let whole = known.iter().filter(|name| *name == wanted);
            let part = known.iter().filter(|name| last_part(name) == wanted && *name != wanted);
            let before = names.len();
            names.extend(whole.chain(part));
            if names.len() == before {
                return Err((wanted.clone(), known));
            }
        }
        if options.metrics.is_empty() {
            names = known.iter().filter(|name| !is_of_the_machine(name)).collect();
            if names.is_empty() {
                names = known.iter().collect();
            }
            // Losses first.
            names.sort_by_key(|name| !last_part(name).contains("loss"));
        }
        let mut seen = std::collections::BTreeSet::new();
        names.retain(|name| seen.insert(*name));
        let left_out = names.len().saturating_sub(MOST_PANELS);
        names.truncate(MOST_PANELS);
        let panels = names.into_iter().map(|name| panel(name, runs, options)).collect();
        let runs = runs.iter().map(|run| printable_line(&shortened(&run.name)).into_owned()).collect();
        Ok(Self { runs, panels, log: options.log, left_out })
    }

    /// How many of the chosen metrics have no room.
    pub fn left_out(&self) -> usize {
        self.left_out
    }

    fn has_restarts(&self) -> bool {
        self.panels.iter().flat_map(|panel| &panel.lines).any(|line| !line.restarts.is_empty())
    }
}

/// A picture of more panels takes gigabytes of memory, and nobody looks at it.
pub const MOST_PANELS: usize = 48;

/// A longer name does not fit on a panel.
const LONGEST_NAME: usize = 48;

fn shortened(name: &str) -> String {
    match name.char_indices().nth(LONGEST_NAME) {
        Some(_) => name.chars().take(LONGEST_NAME - 1).chain(['…']).collect(),
        None => name.to_owned(),
    }
}

/// More marks of restarts than this can't be told apart.
const MOST_RESTARTS: usize = 200;

fn panel(name: &str, runs: &[Run], options: &Options) -> Panel {
    let largest = runs.iter().filter_map(|run| run.curves.scalars.get(name)).flatten();
    let largest = largest.map(|point| point.value).filter(|value| value.is_finite()).fold(0.0, f64::max);
    let (label, unit) = unit(name, largest);
    let label = shortened(&label);
    let line = |(run, data): (usize, &Run)| {
        let points = data.curves.scalars.get(name)?;
        let scaled = |points: Vec<(f64, f64)>| points.into_iter().map(|(x, y)| (x, y / unit)).collect::<Vec<_>>();
        let raw = scaled(points.iter().map(|point| (point.step as f64, point.value)).collect());
        let smooth =
            options.smooth.filter(|_| points.len() >= SMOOTHED_FROM).map(|weight| scaled(averaged(points, weight)));
        let drawn = |points: Vec<(f64, f64)>| parts(points, options.log).into_iter().map(thinned).collect::<Vec<_>>();
        let mut restarts: Vec<f64> = data.curves.sessions.iter().skip(1).map(|session| session.step as f64).collect();
        restarts.dedup();
        let every = restarts.len().div_ceil(MOST_RESTARTS).max(1);
        let restarts = restarts.into_iter().step_by(every).collect();
        Some(Line { run, raw: drawn(raw), smooth: smooth.map(drawn), restarts })
    };
    // Control characters are not allowed in an SVG, and nothing in a PNG.
    let label = printable_line(&label).into_owned();
    Panel { label, lines: runs.iter().enumerate().filter_map(line).collect() }
}

/// Bytes are shown in units that people read.
fn unit(name: &str, largest: f64) -> (String, f64) {
    let Some(what) = name.strip_suffix("_bytes") else { return (name.to_owned(), 1.0) };
    let (unit, bytes) = match largest {
        x if x >= f64::from(1 << 30) => ("GiB", f64::from(1 << 30)),
        _ => ("MiB", f64::from(1 << 20)),
    };
    (format!("{what} ({unit})"), bytes)
}

/// TensorBoard's smoothing: an exponential moving average that does not lean to 0 at its start.
fn averaged(points: &[Point], weight: f64) -> Vec<(f64, f64)> {
    let (mut sum, mut share) = (0.0, 1.0);
    let mut average = |value: f64| {
        if !value.is_finite() {
            return value;
        }
        sum = sum * weight + (1.0 - weight) * value;
        share *= weight;
        sum / (1.0 - share)
    };
    points.iter().map(|point| (point.step as f64, average(point.value))).collect()
}

/// Splits where a value can't be drawn.
fn parts(points: Vec<(f64, f64)>, log: bool) -> Vec<Vec<(f64, f64)>> {
    let drawable = |value: f64| value.is_finite() && (!log || value > 0.0);
    let parts = points.split(|(_, value)| !drawable(*value)).filter(|part| !part.is_empty());
    parts.map(<[_]>::to_vec).collect()
}

/// A moving average of fewer points, as those of a few evaluations, is far from all of them.
const SMOOTHED_FROM: usize = 50;

/// More columns than a panel has pixels.
const COLUMNS: usize = 1200;

/// The same to look at, with a bounded number of points: of each column of pixels the lowest and the highest.
fn thinned(points: Vec<(f64, f64)>) -> Vec<(f64, f64)> {
    if points.len() <= 2 * COLUMNS {
        return points;
    }
    let lowest = |part: &[(f64, f64)]| part.iter().copied().min_by(|a, b| a.1.total_cmp(&b.1));
    let highest = |part: &[(f64, f64)]| part.iter().copied().max_by(|a, b| a.1.total_cmp(&b.1));
    let pair = |part: &[(f64, f64)]| {
        let mut pair: Vec<_> = [lowest(part), highest(part)].into_iter().flatten().collect();
        pair.sort_by(|a, b| a.0.total_cmp(&b.0));
        pair
    };
    let mut kept: Vec<_> = points.chunks(points.len().div_ceil(COLUMNS)).flat_map(pair).collect();
    kept[0] = points[0];
    kept.extend(points.last().filter(|last| kept.last() != Some(last)).copied().into_iter().collect::<Vec<_>>());
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(metrics: &[(&str, &[f64])]) -> Run {
        let points = |values: &[f64]| {
            values.iter().enumerate().map(|(i, &value)| Point { step: i as u64 + 1, value, time: 0.0 }).collect()
        };
        let scalars = metrics.iter().map(|(name, values)| ((*name).to_owned(), points(values))).collect();
        Run { name: "run 1".into(), curves: Curves { scalars, ..Curves::default() } }
    }

    fn labels(figure: &Figure) -> Vec<&str> {
        figure.panels.iter().map(|panel| panel.label.as_str()).collect()
    }

    #[test]
    fn metrics_are_chosen_by_full_names_and_last_parts() {
        let runs = [run(&[
            ("eval/accuracy", &[0.5]),
            ("memory/rss_bytes", &[3e9]),
            ("train/loss", &[1.0]),
            ("train/learning_rate", &[0.1]),
            ("epoch/loss", &[1.0]),
        ])];
        let figure = |metrics: &[&str]| {
            let metrics = metrics.iter().map(|name| (*name).to_owned()).collect();
            Figure::new(&runs, &Options { metrics, ..Options::default() })
        };
        assert_eq!(labels(&figure(&[]).unwrap()), ["epoch/loss", "train/loss", "eval/accuracy"]);
        assert_eq!(labels(&figure(&["accuracy", "loss"]).unwrap()), ["eval/accuracy", "epoch/loss", "train/loss"]);
        assert_eq!(labels(&figure(&["memory/rss_bytes"]).unwrap()), ["memory/rss (GiB)"]);
        let (name, known) = figure(&["lss"]).unwrap_err();
        assert_eq!((name.as_str(), known.len()), ("lss", 5));
    }

    #[test]
    fn curves_have_gaps_where_values_cannot_be_drawn() {
        let runs = [run(&[("loss", &[1.0, f64::NAN, 3.0, -4.0, 5.0])])];
        let parts = |log| {
            let figure = Figure::new(&runs, &Options { log, ..Options::default() }).unwrap();
            figure.panels[0].lines[0].raw.iter().map(Vec::len).collect::<Vec<_>>()
        };
        assert_eq!(parts(false), [1, 3]);
        assert_eq!(parts(true), [1, 1, 1]);
    }

    #[test]
    fn short_curves_are_not_smoothed() {
        let runs = [run(&[("loss", &[1.0; SMOOTHED_FROM]), ("accuracy", &[0.5; SMOOTHED_FROM - 1])])];
        let figure = Figure::new(&runs, &Options { smooth: Some(0.9), ..Options::default() }).unwrap();
        let smooth: Vec<_> = figure.panels.iter().map(|panel| panel.lines[0].smooth.is_some()).collect();
        assert_eq!((labels(&figure), smooth), (vec!["loss", "accuracy"], vec![true, false]));
    }

    #[test]
    fn smoothing_matches_tensorboard() {
        let points = [4.0, 2.0, f64::NAN, 0.0].map(|value| Point { step: 0, value, time: 0.0 });
        let values: Vec<f64> = averaged(&points, 0.5).into_iter().map(|(_, value)| value).collect();
        // 4; (4 · ½ + 2 · 1) / 1.5; …
        assert_eq!(values[0], 4.0);
        assert!((values[1] - 8.0 / 3.0).abs() < 1e-12 && values[2].is_nan());
        assert!((values[3] - (1.0 + 1.0) / 2.0 / 0.875).abs() < 1e-12, "{values:?}");
    }

    #[test]
    fn long_curves_keep_their_ends_and_extremes() {
        let points: Vec<(f64, f64)> = (0..100_000).map(|i| (f64::from(i), f64::from(i % 997))).collect();
        let kept = thinned(points.clone());
        assert!(kept.len() <= 2 * COLUMNS + 2 && kept.is_sorted_by(|a, b| a.0 <= b.0));
        assert_eq!((kept[0], kept.last()), (points[0], points.last()));
        let highest = kept.iter().map(|point| point.1).fold(0.0, f64::max);
        assert_eq!(highest, 996.0);
    }
}
