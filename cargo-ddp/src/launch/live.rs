//! One line for the whole job, on a terminal.

use std::time::{Duration, Instant};

use ddp_contract::Event;
use indicatif::{HumanDuration, ProgressBar, ProgressStyle};

/// Rates are those of about so long.
const WINDOW: Duration = Duration::from_secs(5);

/// What the workers have told of, as a line that stays below their output.
pub(super) struct Live {
    bar: ProgressBar,
    progress: Progress,
}

impl Live {
    /// Draws on `bar`.
    pub(super) fn new(bar: ProgressBar) -> Self {
        if let Ok(style) = ProgressStyle::with_template("{msg}") {
            bar.set_style(style);
        }
        Self { bar, progress: Progress::new(Instant::now()) }
    }

    /// Takes note of an event of rank 0, which speaks for all.
    pub(super) fn note(&mut self, event: &Event) {
        if self.bar.is_hidden() {
            return;
        }
        self.progress.note(event, Instant::now());
        if let Some(line) = self.progress.line() {
            self.bar.set_message(line);
        }
    }

    /// All workers are started anew.
    pub(super) fn restarted(&mut self, restarts: u32) {
        self.progress = Progress { restarts, ..Progress::new(Instant::now()) };
        self.bar.set_message("");
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

struct Progress {
    restarts: u32,
    epoch: u64,
    step: u64,
    steps: Option<u64>,
    loss: Option<f64>,
    /// Since when, and from which step on, the rate is measured; samples since then.
    from: (Instant, u64),
    samples: u64,
    /// Steps and samples per second.
    rate: Option<(f64, f64)>,
}

impl Progress {
    fn new(now: Instant) -> Self {
        let (epoch, step, samples, restarts) = (0, 0, 0, 0);
        Self { restarts, epoch, step, steps: None, loss: None, from: (now, 0), samples, rate: None }
    }

    fn note(&mut self, event: &Event, now: Instant) {
        match event {
            Event::Step { epoch, step, loss, steps, samples } => {
                if self.step == 0 {
                    // What came before the first step is no part of the rate.
                    (self.from, self.samples) = ((now, *step), 0);
                } else {
                    self.samples += samples.unwrap_or(0);
                }
                (self.epoch, self.step) = (*epoch, *step);
                self.steps = steps.or(self.steps);
                self.loss = loss.or(self.loss);
                let (since, first) = self.from;
                let seconds = now.duration_since(since).as_secs_f64();
                if *step > first && (self.rate.is_none() && seconds > 0.2 || seconds > WINDOW.as_secs_f64()) {
                    self.rate = Some(((step - first) as f64 / seconds, self.samples as f64 / seconds));
                    (self.from, self.samples) = ((now, *step), 0);
                }
            }
            Event::Resumed { epoch, step, .. } => (self.epoch, self.step, self.from.1) = (*epoch, *step, *step),
            _ => {}
        }
    }

    fn line(&self) -> Option<String> {
        if self.step == 0 {
            return None;
        }
        let mut parts = vec![format!("epoch {}", self.epoch + 1)];
        parts.push(match self.steps {
            Some(steps) => format!("step {} of {steps}", self.step),
            None => format!("step {}", self.step),
        });
        parts.extend(self.loss.map(|loss| format!("loss {loss:.4}")));
        if let Some((steps, samples)) = self.rate {
            parts.push(if samples > 0.0 { format!("{samples:.0} samples/s") } else { format!("{steps:.1} steps/s") });
            let left = self.steps.and_then(|all| all.checked_sub(self.step)).map(|left| left as f64 / steps);
            let left = left.and_then(|left| Duration::try_from_secs_f64(left).ok());
            parts.extend(left.map(|left| format!("{} left", HumanDuration(left))));
        }
        match self.restarts {
            0 => {}
            1 => parts.push("1 restart".into()),
            n => parts.push(format!("{n} restarts")),
        }
        Some(parts.join("  "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_has_what_is_known() {
        let start = Instant::now();
        let mut progress = Progress::new(start);
        assert_eq!(progress.line(), None);
        let step = |step, loss| Event::Step { epoch: 2, step, loss, steps: None, samples: None };
        progress.note(&step(40, None), start);
        assert_eq!(progress.line().unwrap(), "epoch 3  step 40");
        progress.note(&step(50, Some(0.25)), start + Duration::from_secs(2));
        assert_eq!(progress.line().unwrap(), "epoch 3  step 50  loss 0.2500  5.0 steps/s");
        let more = Event::Step { epoch: 2, step: 60, loss: None, steps: Some(360), samples: Some(640) };
        progress.note(&more, start + Duration::from_secs(12));
        progress.restarts = 2;
        let expected = "epoch 3  step 60 of 360  loss 0.2500  64 samples/s  5 minutes left  2 restarts";
        assert_eq!(progress.line().unwrap(), expected);
    }
}
