//! One line for the whole job: it stays below all others on a terminal; in a log it comes now and then.

use std::time::{Duration, Instant};

use ddp_contract::Event;
use indicatif::{HumanBytes, HumanDuration, ProgressBar, ProgressStyle};

use crate::Ui;

/// Rates are those of about so long.
const WINDOW: Duration = Duration::from_secs(5);

/// In a log there is a line so often.
const LOGGED_EVERY: Duration = Duration::from_secs(60);

/// What the workers have told of, as a line that stays below their output.
pub(super) struct Live {
    bar: ProgressBar,
    /// Whether the bar has a length.
    measured: bool,
    logged: Instant,
    progress: Progress,
}

impl Live {
    /// Draws on `bar`.
    pub(super) fn new(bar: ProgressBar) -> Self {
        if let Ok(style) = ProgressStyle::with_template("{msg}") {
            bar.set_style(style);
        }
        let now = Instant::now();
        Self { bar, measured: false, logged: now, progress: Progress::new(now) }
    }

    /// Takes note of an event of rank 0, which speaks for all.
    pub(super) fn note(&mut self, event: &Event, ui: &Ui) {
        let now = Instant::now();
        self.progress.note(event, now);
        if self.bar.is_hidden() {
            if now.duration_since(self.logged) >= LOGGED_EVERY
                && let Some(line) = self.progress.line()
            {
                ui.status("Training", line);
                self.logged = now;
            }
            return;
        }
        if let Some(steps) = self.progress.steps {
            self.measure(steps);
            self.bar.set_position(self.progress.step);
        }
        if let Some(line) = self.progress.line() {
            self.bar.set_message(line);
        }
    }

    fn measure(&mut self, steps: u64) {
        self.bar.set_length(steps);
        if !std::mem::replace(&mut self.measured, true)
            && let Ok(style) = ProgressStyle::with_template("{bar:24.green/dim} {percent:>3} %  {msg}")
        {
            self.bar.set_style(style.progress_chars("━━─"));
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
    learning_rate: Option<f64>,
    grad_norm: Option<f64>,
    memory: Option<u64>,
    /// Since when, and from which step on, the rate is measured; samples since then.
    from: (Instant, u64),
    samples: u64,
    /// Steps and samples per second.
    rate: Option<(f64, f64)>,
}

impl Progress {
    fn new(now: Instant) -> Self {
        let (epoch, step, samples, restarts) = (0, 0, 0, 0);
        let (steps, loss, learning_rate, grad_norm, memory) = (None, None, None, None, None);
        let (from, rate) = ((now, 0), None);
        Self { restarts, epoch, step, steps, loss, learning_rate, grad_norm, memory, from, samples, rate }
    }

    fn note(&mut self, event: &Event, now: Instant) {
        match event {
            Event::Step { epoch, step, loss, steps, samples, learning_rate, grad_norm, memory } => {
                if self.step == 0 {
                    // What came before the first step is no part of the rate.
                    (self.from, self.samples) = ((now, *step), 0);
                } else {
                    self.samples += samples.unwrap_or(0);
                }
                (self.epoch, self.step) = (*epoch, *step);
                self.steps = steps.or(self.steps);
                self.loss = loss.or(self.loss);
                self.learning_rate = learning_rate.or(self.learning_rate);
                self.grad_norm = grad_norm.or(self.grad_norm);
                self.memory = memory.or(self.memory);
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
        parts.extend(self.learning_rate.map(|rate| format!("lr {rate:.2e}")));
        parts.extend(self.grad_norm.map(|norm| format!("grad norm {norm:.3}")));
        if let Some((steps, samples)) = self.rate {
            parts.push(if samples > 0.0 { format!("{samples:.0} samples/s") } else { format!("{steps:.1} steps/s") });
            let left = self.steps.and_then(|all| all.checked_sub(self.step)).map(|left| left as f64 / steps);
            let left = left.and_then(|left| Duration::try_from_secs_f64(left).ok());
            parts.extend(left.map(|left| format!("{} left", HumanDuration(left))));
        }
        parts.extend(self.memory.map(|bytes| HumanBytes(bytes).to_string()));
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
        let step = |step, loss, steps, samples| Event::Step {
            epoch: 2,
            step,
            loss,
            steps,
            samples,
            learning_rate: steps.map(|_| 0.001),
            grad_norm: None,
            memory: steps.map(|_| 3 << 29),
        };
        progress.note(&step(40, None, None, None), start);
        assert_eq!(progress.line().unwrap(), "epoch 3  step 40");
        progress.note(&step(50, Some(0.25), None, None), start + Duration::from_secs(2));
        assert_eq!(progress.line().unwrap(), "epoch 3  step 50  loss 0.2500  5.0 steps/s");
        progress.note(&step(60, None, Some(360), Some(640)), start + Duration::from_secs(12));
        progress.restarts = 2;
        let expected =
            "epoch 3  step 60 of 360  loss 0.2500  lr 1.00e-3  64 samples/s  5 minutes left  1.50 GiB  2 restarts";
        assert_eq!(progress.line().unwrap(), expected);
    }
}
