//! The background thread: collects scalars, exchanges them with the other ranks, and on rank 0 writes them.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tch::Device;

use super::exchange::{self, Exchanged, Why};
use super::histogram::Histogram;
use super::image;
use super::record::{LogRecord, Scalar, now};
use super::writer::Writer;
use crate::worker::say::say;
use crate::{Error, ProcessGroup, Result, memory};

/// About how often there are new values on disk.
const PERIOD: Duration = Duration::from_secs(1);
/// However fast steps are.
const MOST_STEPS: f64 = 1000.0;

/// What the thread and the loop both see.
#[derive(Debug, Default)]
pub(super) struct Shared {
    failure: Mutex<Option<Arc<Error>>>,
    collectives: AtomicU64,
}

impl Shared {
    pub(super) fn check(&self) -> Result<()> {
        match &*self.failure.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(err) => Err(Error::Metrics(err.clone())),
            None => Ok(()),
        }
    }

    pub(super) fn collectives(&self) -> u64 {
        self.collectives.load(Ordering::Relaxed)
    }
}

pub(super) struct Reporter {
    group: Option<ProcessGroup>,
    /// On rank 0, unless writing has failed.
    writer: Option<Writer>,
    device: Device,
    receiver: Receiver<LogRecord>,
    shared: Arc<Shared>,
    /// Waiting for the next exchange, and how many steps they are of.
    scalars: Vec<Scalar>,
    steps: u64,
    /// The next exchange is due after this many steps: the same on all ranks, since all count the same scalars.
    due: u64,
    fixed: Option<u64>,
    exchanged: Instant,
    saved: Instant,
    throughput: Throughput,
    /// Who waits for the end.
    through: Option<Sender<()>>,
}

impl Reporter {
    pub(super) fn new(
        group: Option<ProcessGroup>,
        writer: Option<Writer>,
        device: Device,
        fixed: Option<u64>,
        receiver: Receiver<LogRecord>,
        shared: Arc<Shared>,
    ) -> Self {
        let now = Instant::now();
        let (scalars, throughput) = (Vec::new(), Throughput::default());
        let due = fixed.unwrap_or(1);
        let (steps, exchanged, saved) = (0, now, now);
        Self {
            group,
            writer,
            device,
            receiver,
            shared,
            scalars,
            steps,
            due,
            fixed,
            exchanged,
            saved,
            throughput,
            through: None,
        }
    }

    pub(super) fn run(mut self) {
        if let Err(err) = self.work() {
            *self.shared.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(err));
        }
        // The receiver, and what waits for the end, go after the failure is known: who hears of it finds the reason.
    }

    fn work(&mut self) -> Result<()> {
        loop {
            match self.receiver.recv_timeout(PERIOD) {
                Ok(LogRecord::Flush(written)) => {
                    self.exchange(Why::Flush)?;
                    let _ = written.send(());
                }
                Ok(LogRecord::Finish(through)) => {
                    self.through = Some(through);
                    return self.end();
                }
                Ok(record) => self.handle(record)?,
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return self.end(),
            }
            if self.saved.elapsed() >= PERIOD {
                self.save();
            }
        }
    }

    fn end(&mut self) -> Result<()> {
        self.exchange(Why::End)?;
        self.write(Writer::end);
        Ok(())
    }

    fn handle(&mut self, record: LogRecord) -> Result<()> {
        if let Some(step) = record.step() {
            self.write(|writer| {
                writer.start(step);
                Ok(())
            });
        }
        match record {
            LogRecord::Scalar(scalar) if scalar.reduce.is_some() => {
                if self.scalars.last().is_none_or(|last| last.step != scalar.step) {
                    if self.steps >= self.due {
                        self.exchange(Why::Due)?;
                    }
                    self.steps += 1;
                }
                self.scalars.push(scalar);
            }
            LogRecord::Scalar(scalar) => {
                let value = exchange::read(std::slice::from_ref(&scalar))?.first().copied().unwrap_or(f64::NAN);
                self.write(|writer| writer.scalar(&scalar.name, scalar.step, value, scalar.time));
            }
            LogRecord::Samples { samples, step, at } => {
                if let Some(rate) = self.throughput.add(samples, step, at) {
                    self.write(|writer| writer.scalar("train/samples_per_second", step, rate, now()));
                }
            }
            LogRecord::Histogram { name, step, values, time } => {
                if let Some(histogram) = Histogram::new(&values)? {
                    self.write(|writer| writer.histogram(&name, step, &histogram, time));
                }
            }
            LogRecord::Image { name, step, image, time } => {
                let png = image::encode(&image)?;
                self.write(|writer| writer.image(&name, step, &png, time));
            }
            LogRecord::Hparams { values, metrics, time } => {
                self.write(|writer| writer.hparams(&values, &metrics, time));
            }
            LogRecord::Flush(_) | LogRecord::Finish(_) => {}
        }
        Ok(())
    }

    fn exchange(&mut self, why: Why) -> Result<()> {
        let elapsed = self.exchanged.elapsed().as_secs_f64();
        let pace = (self.steps as f64 / elapsed.max(1e-3) * PERIOD.as_secs_f64()).clamp(1.0, MOST_STEPS) as u64;
        let next = self.fixed.unwrap_or(pace);
        let memory = [memory::resident_bytes().unwrap_or(0), memory::cuda_bytes(self.device).unwrap_or(0)];
        let scalars = std::mem::take(&mut self.scalars);
        let exchanged = exchange::exchange(self.group.as_ref(), why, &scalars, memory, next);
        if self.group.is_some() {
            self.shared.collectives.fetch_add(exchange::COLLECTIVES, Ordering::Relaxed);
        }
        let Exchanged { values, memory, next } = exchanged?;
        for (scalar, value) in scalars.iter().zip(values) {
            self.write(|writer| writer.scalar(&scalar.name, scalar.step, value, scalar.time));
        }
        if let Some(step) = scalars.last().map(|scalar| scalar.step) {
            for (name, bytes) in ["memory/rss_bytes", "memory/cuda_bytes"].into_iter().zip(memory) {
                if bytes > 0 {
                    self.write(|writer| writer.scalar(name, step, bytes as f64, now()));
                }
            }
        }
        if why != Why::Due
            && let Some((rate, step)) = self.throughput.rest()
        {
            self.write(|writer| writer.scalar("train/samples_per_second", step, rate, now()));
        }
        (self.steps, self.due, self.exchanged) = (0, next, Instant::now());
        self.save();
        Ok(())
    }

    fn save(&mut self) {
        self.write(Writer::save);
        self.saved = Instant::now();
    }

    /// On rank 0. What can't be written is reported once, and training continues.
    fn write(&mut self, write: impl FnOnce(&mut Writer) -> Result<()>) {
        if let Some(writer) = &mut self.writer
            && let Err(err) = write(writer)
        {
            say(format_args!("warning: no more metrics are written: {err}; training continues"));
            self.writer = None;
        }
    }
}

/// Samples per second, about once in a [`PERIOD`].
#[derive(Debug, Default)]
struct Throughput {
    since: Option<Instant>,
    last: Option<(Instant, u64)>,
    samples: u64,
}

impl Throughput {
    fn add(&mut self, samples: u64, step: u64, at: Instant) -> Option<f64> {
        // When the first ones began is not known.
        let Some(since) = self.since else {
            self.since = Some(at);
            return None;
        };
        self.samples += samples;
        self.last = Some((at, step));
        if at.duration_since(since) >= PERIOD { self.rest().map(|(rate, _)| rate) } else { None }
    }

    fn rest(&mut self) -> Option<(f64, u64)> {
        let (last, step) = self.last.take()?;
        let seconds = last.duration_since(self.since.replace(last)?).as_secs_f64();
        let samples = std::mem::take(&mut self.samples);
        (seconds > 0.0).then(|| (samples as f64 / seconds, step))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn throughput_is_measured_over_about_a_second() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut throughput = Throughput::default();
        assert_eq!(throughput.add(64, 1, at(0)), None);
        assert_eq!(throughput.add(64, 2, at(500)), None);
        assert_eq!(throughput.add(64, 3, at(1000)), Some(128.0));
        assert_eq!(throughput.add(32, 4, at(1500)), None);
        assert_eq!(throughput.rest(), Some((64.0, 4)));
        assert_eq!(throughput.rest(), None);
    }
}
