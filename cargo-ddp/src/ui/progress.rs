//! How far a job is, and how fast, in words: the more, the more room there is.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use ddp_contract::Event;
use indicatif::HumanBytes;

use super::messages::count;

/// Rates are those of about so long.
const WINDOW: Duration = Duration::from_secs(5);
/// Time between two marks that a rate is measured between.
const MARK_EVERY: Duration = Duration::from_millis(500);
/// Between two parts of the line.
const GAP: &str = "  ";

/// How far a run was at a moment.
#[derive(Clone, Copy)]
struct Mark {
    at: Instant,
    step: u64,
    samples: u64,
}

/// What the first rank has reported in this attempt.
pub(crate) struct JobProgress {
    pub(crate) restarts: u32,
    epoch: u64,
    pub(crate) step: u64,
    pub(crate) steps: Option<u64>,
    loss: Option<f64>,
    learning_rate: Option<f64>,
    grad_norm: Option<f64>,
    memory: Option<u64>,
    /// The first step's end: the time before it is not part of any rate.
    first: Option<Mark>,
    /// The last few seconds.
    marks: VecDeque<Mark>,
    /// Samples since the first step.
    samples: u64,
    now: Instant,
}

impl JobProgress {
    pub(crate) fn new(restarts: u32, now: Instant) -> Self {
        let (epoch, step, samples) = (0, 0, 0);
        let (steps, loss, learning_rate, grad_norm, memory, first) = (None, None, None, None, None, None);
        let marks = VecDeque::new();
        Self { restarts, epoch, step, steps, loss, learning_rate, grad_norm, memory, first, marks, samples, now }
    }

    pub(crate) fn update(&mut self, event: &Event, now: Instant) {
        match event {
            Event::Step { epoch, step, loss, steps, samples, learning_rate, grad_norm, memory } => {
                self.now = now;
                (self.epoch, self.step) = (*epoch, *step);
                self.steps = steps.or(self.steps);
                self.loss = loss.or(self.loss);
                self.learning_rate = learning_rate.or(self.learning_rate);
                self.grad_norm = grad_norm.or(self.grad_norm);
                self.memory = memory.or(self.memory);
                if self.first.is_some() {
                    self.samples = self.samples.saturating_add(samples.unwrap_or(0));
                }
                self.mark(Mark { at: now, step: *step, samples: self.samples });
            }
            Event::Resumed { epoch, step, .. } => (self.epoch, self.step) = (*epoch, *step),
            _ => {}
        }
    }

    fn mark(&mut self, mark: Mark) {
        self.first.get_or_insert(mark);
        if self.marks.back().is_some_and(|last| mark.at.duration_since(last.at) < MARK_EVERY) {
            return;
        }
        self.marks.push_back(mark);
        while self.marks.get(1).is_some_and(|second| mark.at.duration_since(second.at) >= WINDOW) {
            self.marks.pop_front();
        }
    }

    /// Steps and samples per second, of late.
    fn rate(&self) -> Option<(f64, f64)> {
        let (from, to) = (self.marks.front()?, self.marks.back()?);
        let seconds = to.at.duration_since(from.at).as_secs_f64();
        let steps = to.step.checked_sub(from.step).filter(|steps| *steps > 0)? as f64;
        (seconds > 0.0).then(|| (steps / seconds, (to.samples - from.samples) as f64 / seconds))
    }

    /// As the run went so far, evaluations included: that changes less than the rate.
    fn left(&self) -> Option<Duration> {
        let first = self.first?;
        let done = self.step.checked_sub(first.step).filter(|done| *done > 0)?;
        let left = self.steps?.checked_sub(self.step)?;
        let seconds = self.now.duration_since(first.at).as_secs_f64();
        Duration::try_from_secs_f64(seconds / done as f64 * left as f64).ok().filter(|_| seconds > 0.5)
    }

    /// What is known, the most important first, as far as there is room.
    pub(crate) fn line(&self, room: usize) -> Option<String> {
        if self.step == 0 {
            return None;
        }
        let mut parts = vec![match self.steps {
            Some(steps) => format!("{:>1$}/{steps}", self.step, steps.to_string().len()),
            None => format!("step {}", self.step),
        }];
        parts.push(format!("epoch {}", self.epoch.saturating_add(1)));
        parts.extend(self.loss.map(|loss| format!("loss {}", short(loss))));
        parts.extend(self.left().map(|left| format!("{} left", clock(left))));
        if self.restarts > 0 {
            parts.push(count(self.restarts as usize, "restart"));
        }
        parts.extend(self.rate().map(|(steps, samples)| match samples > 0.0 {
            true => format!("{} samples/s", rate(samples)),
            false => format!("{} steps/s", rate(steps)),
        }));
        parts.extend(self.learning_rate.map(|rate| format!("lr {rate:.2e}")));
        parts.extend(self.grad_norm.map(|norm| format!("grad norm {}", short(norm))));
        parts.extend(self.memory.map(|bytes| HumanBytes(bytes).to_string()));
        let mut line = String::new();
        for part in parts {
            let gap = if line.is_empty() { "" } else { GAP };
            if line.len() + gap.len() + part.len() > room {
                break;
            }
            line = line + gap + &part;
        }
        Some(line)
    }
}

/// Four digits that count.
fn short(number: f64) -> String {
    let magnitude = number.abs();
    if magnitude == 0.0 || !magnitude.is_finite() {
        return number.to_string();
    }
    match magnitude {
        0.001..10.0 => format!("{number:.4}"),
        10.0..100.0 => format!("{number:.2}"),
        100.0..1e5 => format!("{number:.1}"),
        _ => format!("{number:.2e}"),
    }
}

fn rate(number: f64) -> String {
    match number {
        ..100.0 => format!("{number:.1}"),
        ..1e5 => format!("{number:.0}"),
        ..1e8 => format!("{:.0}k", number / 1e3),
        _ => format!("{:.0}M", number / 1e6),
    }
}

/// `0:07`, `12:34`, `1:02:03`, `2 d 01:02`.
fn clock(time: Duration) -> String {
    let seconds = time.as_secs_f64().round() as u64;
    let (minutes, hours, days) = (seconds / 60 % 60, seconds / 3600 % 24, seconds / 86_400);
    match (days, hours) {
        (0, 0) => format!("{minutes}:{:02}", seconds % 60),
        (0, _) => format!("{hours}:{minutes:02}:{:02}", seconds % 60),
        _ => format!("{days} d {hours:02}:{minutes:02}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(step: u64, loss: Option<f64>, steps: Option<u64>, samples: Option<u64>) -> Event {
        let learning_rate = steps.map(|_| 0.001);
        let memory = steps.map(|_| 3 << 29);
        Event::Step { epoch: 2, step, loss, steps, samples, learning_rate, grad_norm: None, memory }
    }

    #[test]
    fn live_line_shows_known_values() {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let mut progress = JobProgress::new(0, start);
        let line = |progress: &JobProgress| progress.line(usize::MAX).unwrap();
        assert_eq!(progress.line(usize::MAX), None);
        progress.update(&step(40, None, None, None), start);
        assert_eq!(line(&progress), "step 40  epoch 3");
        progress.update(&step(50, Some(0.25), None, None), after(2));
        assert_eq!(line(&progress), "step 50  epoch 3  loss 0.2500  5.0 steps/s");
        progress.update(&step(60, None, Some(360), Some(640)), after(12));
        progress.restarts = 2;
        assert_eq!(
            line(&progress),
            " 60/360  epoch 3  loss 0.2500  3:00 left  2 restarts  64.0 samples/s  lr 1.00e-3  1.50 GiB"
        );
    }

    #[test]
    fn live_line_drops_values_that_do_not_fit() {
        let start = Instant::now();
        let mut progress = JobProgress::new(0, start);
        for (seconds, number) in (0..).zip(1..=60) {
            progress.update(&step(number, Some(2.5), Some(360), Some(64)), start + Duration::from_secs(seconds));
        }
        for columns in 0..200 {
            let line = progress.line(columns).unwrap();
            assert!(line.len() <= columns, "{columns}: {line}");
        }
        let of = |room: usize| progress.line(room).unwrap();
        // Beside a bar, in terminals of 50, 80 and 120 columns.
        assert_eq!(of(35), " 60/360  epoch 3  loss 2.5000");
        assert_eq!(of(62), " 60/360  epoch 3  loss 2.5000  5:00 left  64.0 samples/s");
        assert!(of(97).ends_with("  1.50 GiB"));
    }

    #[test]
    fn rate_is_of_the_last_seconds_and_time_left_of_the_entire_run() {
        let start = Instant::now();
        let mut progress = JobProgress::new(0, start);
        // 100 steps of 1 s, then 100 of 0.1 s.
        let moments = (0..=100).map(|i| i * 1000).chain((1..=100).map(|i| 100_000 + i * 100));
        for (number, moment) in (1..).zip(moments) {
            progress.update(&step(number, None, Some(401), None), start + Duration::from_millis(moment));
        }
        assert!((progress.rate().unwrap().0 - 10.0).abs() < 0.1);
        assert_eq!(progress.left(), Some(Duration::from_secs(110)));
        assert!(progress.marks.len() < 20);
    }

    #[test]
    fn numbers_keep_their_width() {
        let shown = |numbers: &[f64]| numbers.iter().map(|number| short(*number)).collect::<Vec<_>>();
        let numbers = [0.0, 0.00012345, 0.012345, 1.2345, 12.345, 123.45, 123_456.0, f64::NAN, f64::INFINITY];
        let expected = ["0", "1.23e-4", "0.0123", "1.2345", "12.35", "123.5", "1.23e5", "NaN", "inf"];
        assert_eq!(shown(&numbers), expected);
        assert_eq!([9.96, 5262.3, 123_456.0, 2.5e8].map(rate), ["10.0", "5262", "123k", "250M"]);
        let times = [0, 59, 61, 3599, 3600, 90_061].map(|seconds| clock(Duration::from_secs(seconds)));
        assert_eq!(times, ["0:00", "0:59", "1:01", "59:59", "1:00:00", "1 d 01:01"]);
    }
}
