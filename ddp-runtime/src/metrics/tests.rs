//! Tests of the files that `Metrics` writes on one rank.

use std::fs;
use std::path::Path;

use ddp_contract::metrics::{Curves, FILE};
use tch::Tensor;

use super::*;

fn curves(dir: &Path) -> Curves {
    Curves::read(&dir.join(FILE)).unwrap()
}

fn steps(curves: &Curves, name: &str) -> Vec<(u64, f64)> {
    curves.scalars[name].iter().map(|point| (point.step, point.value)).collect()
}

#[test]
fn metrics_sessions_append_even_after_a_torn_line() {
    let dir = tempfile::tempdir().unwrap();
    let context = Context::init().unwrap();
    for (first, last) in [(1, 5), (4, 6)] {
        let metrics = Metrics::open_in(&context, dir.path()).unwrap();
        metrics.hparams([("lr", 0.5.into()), ("name", "x".into()), ("amp", true.into())], ["loss"]).unwrap();
        for step in first..=last {
            metrics.log("loss", &Tensor::from(step as f64 * first as f64), step).unwrap();
        }
        metrics.finish().unwrap();
        let mut lines = fs::OpenOptions::new().append(true).open(dir.path().join(FILE)).unwrap();
        std::io::Write::write_all(&mut lines, b"{\"event\":\"scal").unwrap();
    }
    let curves = curves(dir.path());
    assert_eq!(steps(&curves, "loss"), [(1, 1.0), (2, 2.0), (3, 3.0), (4, 16.0), (5, 20.0), (6, 24.0)]);
    assert_eq!(curves.sessions.iter().map(|session| session.step).collect::<Vec<_>>(), [0, 3]);
    assert_eq!((curves.hparams["lr"].as_f64(), curves.hparams["amp"].as_bool()), (Some(0.5), Some(true)));
    assert!(steps(&curves, "memory/rss_bytes")[0].1 > 1e6);
    let event_files = fs::read_dir(dir.path()).unwrap().count() - 1;
    assert_eq!(event_files, 2, "each session has its own");
}

#[test]
fn metrics_refuse_values_without_a_number_and_a_folder_in_use() {
    let dir = tempfile::tempdir().unwrap();
    let context = Context::init().unwrap();
    let metrics = Metrics::open_in(&context, dir.path()).unwrap();
    let error = metrics.log("loss", &Tensor::from_slice(&[1.0, 2.0]), 1).unwrap_err().to_string();
    assert_eq!(error, "metric `loss`: expected one number, got a tensor of shape [2]");
    let error = Metrics::open_in(&context, dir.path()).unwrap_err().to_string();
    assert!(error.starts_with("another run is writing metrics to "), "{error}");
    let options = MetricsOptions { every_steps: Some(0), ..Default::default() };
    assert!(Metrics::with_options(&context, options).is_err());
    let error = Metrics::open_in(&context, "/dev/null/x").unwrap_err().to_string();
    assert!(error.starts_with("can't create the folder /dev/null/x"), "{error}");
}

/// With a FIFO in the place of the file, training waited forever, or the run was its own reader.
#[test]
fn fifo_without_a_reader_does_not_stop_training() {
    let dir = tempfile::tempdir().unwrap();
    let context = Context::init().unwrap();
    let fifo = dir.path().join(FILE);
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU, 0).unwrap();
    let log = |count: u64| {
        let metrics = Metrics::open_in(&context, dir.path()).unwrap();
        (1..=count).for_each(|step| metrics.log("loss", step as f64, step).unwrap());
        metrics.finish().unwrap();
    };
    log(2000); // more than a pipe holds
    let reader = thread::spawn({
        let fifo = fifo.clone();
        move || fs::read_to_string(fifo).unwrap()
    });
    // Until the reader has opened it, the FIFO has none.
    while !reader.is_finished() {
        log(2000);
    }
    let text = reader.join().unwrap();
    // A slow reader gets what the next one writes as well.
    let count = text.matches("\"loss\"").count();
    assert!(count > 0 && count % 2000 == 0, "{count}: {text}");
    // A reader that goes away early.
    let open = thread::spawn(move || drop(fs::File::open(fifo).unwrap()));
    while !open.is_finished() {
        log(2000);
    }
}

#[test]
fn event_file_with_a_future_time_does_not_stop_logging() {
    let dir = tempfile::tempdir().unwrap();
    let context = Context::init().unwrap();
    let odd = format!("events.out.tfevents.{}.x", u64::MAX);
    fs::write(dir.path().join(&odd), "").unwrap();
    let metrics = Metrics::open_in(&context, dir.path()).unwrap();
    metrics.log("loss", 1.0, 1).unwrap();
    metrics.finish().unwrap();
    assert_eq!(steps(&curves(dir.path()), "loss"), [(1, 1.0)]);
}

#[test]
fn metrics_are_on_disk_after_a_flush_and_a_drop() {
    let dir = tempfile::tempdir().unwrap();
    let context = Context::init().unwrap();
    let metrics = Metrics::open_in(&context, dir.path()).unwrap();
    metrics.log("loss", 1.5f32, 1).unwrap();
    metrics.log_rank0("lr", 0.1, 1).unwrap();
    metrics.throughput(32, 1).unwrap();
    metrics.flush().unwrap();
    assert_eq!(steps(&curves(dir.path()), "loss"), [(1, 1.5)]);
    metrics.log_as("loss", 2.5, 2, Reduce::Max).unwrap();
    metrics.throughput(32, 2).unwrap();
    drop(metrics);
    let curves = curves(dir.path());
    assert_eq!((steps(&curves, "loss"), steps(&curves, "lr")), (vec![(1, 1.5), (2, 2.5)], vec![(1, 0.1)]));
    assert!(steps(&curves, "train/samples_per_second")[0].1 > 0.0);
    assert!(curves.ended);
}

#[test]
fn metrics_refuse_values_after_finish_and_can_be_shared_by_threads() {
    fn is_shared<T: Send + Sync>(_: &T) {}
    let dir = tempfile::tempdir().unwrap();
    let metrics = Metrics::open_in(&Context::init().unwrap(), dir.path()).unwrap();
    is_shared(&metrics);
    metrics.log("loss", 1, 1).unwrap();
    metrics.finish().unwrap();
    metrics.finish().unwrap();
    let error = metrics.log("loss", 2, 2).unwrap_err().to_string();
    assert_eq!(error, "metrics: can't log after `finish`");
    assert_eq!(steps(&curves(dir.path()), "loss"), [(1, 1.0)]);
}
