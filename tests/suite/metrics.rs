//! `Metrics`: TensorBoard reads the values, restarts supersede earlier ones, ranks that differ fail, `log` never waits.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use ddp_contract::metrics::{Curves, FILE};
use ddp_tests::{Ddp, kept, repo, stdout_of};
use serde_json::Value;
use tempfile::{TempDir, tempdir};

/// Python with the package `tensorboard`: in `target/tensorboard`, or in `python3` itself.
fn tensorboard() -> Option<Command> {
    let python = || {
        let mut python = Command::new("python3");
        let own = kept().parent().unwrap().join("tensorboard");
        if own.is_dir() {
            python.env("PYTHONPATH", own);
        }
        python
    };
    if python().args(["-c", "import tensorboard"]).output().is_ok_and(|output| output.status.success()) {
        return Some(python());
    }
    let install = "python3 -m pip install --target target/tensorboard tensorboard";
    assert!(std::env::var_os("CI").is_none(), "CI runs this: `{install}` must come first");
    ddp_tests::skipped(&format!("needs TensorBoard; `{install}` brings it"));
    None
}

/// The values that TensorBoard reads in `dir`.
fn in_tensorboard(mut python: Command, dir: &Path) -> Value {
    let script = repo().join("tests/suite/read_events.py");
    serde_json::from_str(&stdout_of(python.arg(script).arg(dir))).unwrap()
}

/// TensorBoard's scalars as numbers.
fn scalars(found: &Value) -> BTreeMap<String, Vec<(u64, f64)>> {
    let points = |points: &Value| {
        let point = |point: &Value| (point[0].as_u64().unwrap(), point[1].as_str().unwrap().parse().unwrap());
        points.as_array().unwrap().iter().map(point).collect()
    };
    found["scalars"].as_object().unwrap().iter().map(|(tag, list)| (tag.clone(), points(list))).collect()
}

/// Like TensorBoard's numbers: rounded to 32 bits.
fn curves(dir: &Path) -> BTreeMap<String, Vec<(u64, f64)>> {
    let curves = Curves::read(&dir.join(FILE)).unwrap();
    let points = |(name, points): (String, Vec<_>)| {
        let point = |point: ddp_contract::metrics::Point| (point.step, f64::from(point.value as f32));
        (name, points.into_iter().map(point).collect())
    };
    curves.scalars.into_iter().map(points).collect()
}

/// Without NaN, which is not equal to itself.
fn comparable(curves: BTreeMap<String, Vec<(u64, f64)>>) -> BTreeMap<String, Vec<(u64, String)>> {
    let words = |points: Vec<(u64, f64)>| points.into_iter().map(|(step, value)| (step, value.to_string())).collect();
    curves.into_iter().map(|(name, points)| (name, words(points))).collect()
}

struct Run {
    logs: TempDir,
}

impl Run {
    fn new() -> Self {
        Self { logs: tempdir().unwrap() }
    }

    fn ddp(&self, flags: &[&str], args: &[&str]) -> Ddp {
        let logs = self.logs.path().to_str().unwrap();
        Ddp::worker("metrics", &[&["--nproc", "2", "--log-dir", logs], flags].concat(), args)
    }

    /// The folder of the run.
    fn dir(&self) -> PathBuf {
        self.logs.path().join("1")
    }
}

#[test]
fn tensorboard_returns_the_logged_values() {
    let run = Run::new();
    run.ddp(&["--max-restarts", "0"], &["all"]).run().succeeds().leaves_no_process();
    let own = curves(&run.dir());
    // Losses of rank 1 are 1 higher, and `slowest` is twice that of rank 0.
    let expected =
        |of: fn(f64) -> f64| (1..=300u32).map(|s| (s.into(), f64::from(of(s.into()) as f32))).collect::<Vec<_>>();
    let loss = expected(|step| f64::midpoint(f64::from((1.0 / step) as f32), f64::from((1.0 / step + 1.0) as f32)));
    assert_eq!(own["loss"], loss);
    assert_eq!(own["slowest"], expected(|step| 2.0 * step));
    assert_eq!(own["rank0/only"], expected(|step| step));
    assert!(
        own["odd"][0].1.is_nan() && own["memory/rss_bytes"][0].1 > 1e6 && own["train/samples_per_second"][0].1 > 0.0
    );

    let Some(python) = tensorboard() else { return };
    let found = in_tensorboard(python, &run.dir());
    assert_eq!(comparable(scalars(&found)), comparable(own));

    let histogram = &found["histograms"]["weights"][0];
    let number = |name: &str| histogram[name].as_f64().unwrap();
    assert_eq!((histogram["step"].as_u64(), number("num")), (Some(300), 1000.0));
    assert_eq!((number("min"), number("max")), (0.0, 1.0), "rank 0's: {histogram}");
    assert!((number("sum") - 500.0).abs() < 1e-9);
    let counts: Vec<f64> = serde_json::from_value(histogram["bucket"].clone()).unwrap();
    let limits: Vec<f64> = serde_json::from_value(histogram["bucket_limit"].clone()).unwrap();
    assert_eq!((counts.len(), limits.len(), limits[63], counts.iter().sum()), (64, 64, 1.0, 1000.0));
    assert!(counts.iter().all(|count| (15.0..=16.0).contains(count)), "{counts:?}");

    let image = &found["images"]["picture"][0];
    assert_eq!((image["width"].as_u64(), image["height"].as_u64()), (Some(5), Some(4)));
    let pixels: Vec<u64> = serde_json::from_value(image["pixels"].clone()).unwrap();
    let expected: Vec<u64> = (0..20).flat_map(|i| [i * 4, (20 + i) * 4, (40 + i) * 4]).collect();
    assert_eq!(pixels, expected);

    let hparams = &found["hparams"];
    let session = serde_json::json!({"lr": 0.125, "batch": 32.0, "model": "linear", "amp": true});
    assert_eq!(hparams["_hparams_/session_start_info"], session);
    // 1: string, 2: bool, 3: float64.
    let experiment =
        serde_json::json!({"infos": {"lr": 3, "batch": 3, "model": 1, "amp": 2}, "metrics": ["loss", "accuracy"]});
    assert_eq!(hparams["_hparams_/experiment"], experiment);
    assert_eq!(hparams["_hparams_/session_end_info"]["status"], 1);
}

#[test]
fn killed_run_has_one_history_in_both_files() {
    // Steps 21 to 27 are on disk already when they are repeated.
    killed("flush");
}

#[test]
fn metrics_are_on_disk_before_a_snapshot() {
    // Steps 21 to 27 are lost, and nothing before them.
    killed("lose");
}

fn killed(how: &str) {
    let (run, snapshots) = (Run::new(), tempdir().unwrap());
    let done =
        run.ddp(&["--max-restarts", "1"], &["resume", snapshots.path().to_str().unwrap(), "27", how]).run().succeeds();
    assert!(done.stderr.contains("step-00000020"), "{}", done.stderr);
    let read = Curves::read(&run.dir().join(FILE)).unwrap();
    let sessions: Vec<_> = read.sessions.iter().map(|session| (session.attempt, session.step)).collect();
    assert_eq!((sessions, read.ended), (vec![(0, 0), (1, 20)], true));
    let own = curves(&run.dir());
    // Steps 21 to 27 were done twice, and the second time counts.
    let attempt = |step: u32| if step > 20 { 100.0 } else { 0.0 };
    let expected: Vec<_> =
        (1..=45u32).map(|step| (u64::from(step), f64::from((1.0 / f64::from(step) + attempt(step)) as f32))).collect();
    assert_eq!(own["loss"], expected);
    let Some(python) = tensorboard() else { return };

    // A record that the kill tore does not matter either.
    let mut files: Vec<_> = fs::read_dir(run.dir()).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| file.to_str().unwrap().contains("tfevents"));
    files.sort();
    assert_eq!(files.len(), 2, "{files:?}");
    let mut bytes = fs::read(&files[0]).unwrap();
    bytes.extend(&bytes.clone()[..20]);
    fs::write(&files[0], bytes).unwrap();
    assert_eq!(comparable(scalars(&in_tensorboard(python, &run.dir()))), comparable(own));
}

#[test]
fn metrics_log_never_waits_and_steps_share_an_exchange() {
    let run = Run::new();
    let done = run.ddp(&["--max-restarts", "0"], &["ahead"]).run().succeeds().leaves_no_process();
    // 2000 values: 9 exchanges of 100 steps were due, and one was the flush.
    for rank in 0..2 {
        assert!(done.stdout.contains(&format!("rank {rank}: 20 collectives")), "{}", done.stdout);
    }
    let loss = &curves(&run.dir())["loss"];
    assert_eq!((loss.len(), loss[999]), (1000, (1000, 1000.5)));
}

#[test]
fn metrics_that_differ_between_ranks_are_an_error() {
    for (how, words) in [
        ("names", "rank 1 logged `accuracy` at step 1, rank 0 logged `loss` at step 1"),
        ("names-for-ever", "rank 1 logged `accuracy` at step"),
        ("nothing", "rank 1 finished, rank 0 logged `loss` at step 1"),
        ("sometimes", "rank 1 logged `loss` at step 3, rank 0 logged `loss` at step 2"),
    ] {
        let run = Run::new();
        let done = run.ddp(&["--max-restarts", "0"], &["differ", how]).run().ends_with(1).leaves_no_process();
        done.says(&["metrics mismatch: ", words]);
    }
}

#[test]
fn plot_draws_runs_with_their_restarts() {
    let (run, snapshots) = (Run::new(), tempdir().unwrap());
    run.ddp(&["--max-restarts", "1"], &["resume", snapshots.path().to_str().unwrap(), "27", "lose"]).run().succeeds();
    run.ddp(&["--max-restarts", "0"], &["all"]).run().succeeds();
    let logs = run.logs.path();
    let plot = |args: &[&str]| {
        let at = ["plot", "--log-dir", logs.to_str().unwrap()];
        Ddp::new(at.iter().chain(args)).dir(logs).run()
    };
    // Without arguments: the newest run, next to its logs.
    let done = plot(&[]).succeeds();
    let files = ["svg", "png"].map(|kind| logs.join("latest/plot").with_extension(kind));
    assert_eq!(done.stdout.lines().collect::<Vec<_>>(), files.each_ref().map(|file| file.to_str().unwrap()));
    let svg = fs::read_to_string(&files[0]).unwrap();
    for words in ["run 2", "loss", "slowest"] {
        assert!(svg.contains(words), "{words} is not in {svg}");
    }
    assert!(!svg.contains("restart") && !svg.contains("memory"), "{svg}");
    assert!(fs::read(&files[1]).unwrap().starts_with(b"\x89PNG"));

    plot(&["1", "2", "--metric", "loss", "--smooth", "--log", "-o", "both.svg"]).succeeds();
    let svg = fs::read_to_string(logs.join("both.svg")).unwrap();
    for words in ["run 1", "run 2", "restart", ">\nloss\n<"] {
        assert!(svg.contains(words), "{words} is not in {svg}");
    }

    let code = |args: &[&str], words: &[&str]| {
        plot(args).ends_with(2).says(words);
    };
    code(&["7"], &["run `7` not found in ", "(available: 1, 2)", "hint: "]);
    code(&["--metric", "lost"], &["unknown metric `lost` (available: loss, memory/rss_bytes, odd, "]);
    code(&["./1/attempt-0"], &["./1/attempt-0 has no metrics", "hint: write metrics with "]);
    code(&["-o", "x.pdf"], &["--output: unknown extension of x.pdf: expected .svg or .png"]);
    code(&["--smooth=1"], &["expected a number from 0 to below 1"]);
    fs::write(logs.join("1").join(FILE), "nothing\n").unwrap();
    code(&["1"], &["metrics.jsonl: line 1: expected "]);
    assert!(!logs.join("x.pdf").exists());
}

#[test]
fn trainer_logs_metrics_by_itself() {
    let (run, dir) = (Run::new(), tempdir().unwrap());
    let args = ["trainer", dir.path().to_str().unwrap()];
    let done = run.ddp(&["--max-restarts", "0", "--json"], &args).run().succeeds();
    let logged = Curves::read(&dir.path().join(FILE)).unwrap().scalars;
    // 128 samples per rank in batches of 8, two a step, for 3 epochs.
    for name in ["train/loss", "train/learning_rate", "train/grad_norm"] {
        assert_eq!(
            logged[name].iter().map(|point| point.step).collect::<Vec<_>>(),
            (1..=24).collect::<Vec<_>>(),
            "{name}"
        );
    }
    assert!(logged["train/learning_rate"].iter().all(|point| point.value == 0.05));
    assert!(logged["train/samples_per_second"].iter().all(|point| point.value > 0.0));
    let lines = done.stdout.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let events: Vec<Value> = lines.collect();
    let epochs = events.iter().filter_map(|event| event["line"].as_str()?.split_once("epoch ")).map(|(_, rest)| rest);
    let epochs: Vec<Vec<f64>> =
        epochs.map(|rest| rest.split(' ').map(|number| number.parse().unwrap()).collect()).collect();
    assert_eq!(epochs.len(), 3, "{}", done.stdout);
    for (i, epoch) in epochs.iter().enumerate() {
        let (loss, metric) = (&logged["epoch/loss"][i], &logged["eval/mse"][i]);
        assert_eq!((loss.step as f64, loss.value, metric.value), (epoch[0], epoch[1], epoch[2]));
        // The mean of the steps' losses is the epoch's.
        let steps = &logged["train/loss"][8 * i..8 * i + 8];
        let mean = steps.iter().map(|point| point.value).sum::<f64>() / 8.0;
        assert!((mean - loss.value).abs() < 1e-6 * loss.value, "{mean} and {}", loss.value);
    }
    let step = events.iter().find(|event| event["event"] == "step" && event["step"] == 1).unwrap();
    for name in ["loss", "learning_rate", "grad_norm", "memory"] {
        assert!(step[name].as_f64().is_some_and(|value| value > 0.0), "{name} in {step}");
    }
}
