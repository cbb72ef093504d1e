//! Ranges, ticks and their labels.

/// A tick: where, and its label.
pub(super) type Tick = (f64, String);

/// An axis from `min` to `max`; on a logarithmic one these, and its ticks, are the logarithms (base 10) of the values.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Axis {
    pub(super) min: f64,
    pub(super) max: f64,
    pub(super) ticks: Vec<Tick>,
}

impl Axis {
    /// Of steps: from the first to the last.
    pub(super) fn steps(values: impl Iterator<Item = f64> + Clone) -> Self {
        let (min, max) = match extremes(values) {
            (min, max) if min == max && min.abs() < 1e15 => (min - 1.0, max + 1.0),
            range => widened(range, 0.0),
        };
        // There are no half steps.
        let count = ((max - min) as usize).clamp(1, 6);
        Self { min, max, ticks: linear(min, max, count) }
    }

    /// Of values, with some space above and below.
    pub(super) fn values(values: impl Iterator<Item = f64> + Clone, log: bool) -> Self {
        let drawn = values.map(|value| drawable(value, log));
        let (min, max) = if log { extremes(drawn.map(f64::log10)) } else { extremes(drawn) };
        let (min, max) = widened((min, max), 0.05);
        let ticks = if log { logarithmic(min, max) } else { linear(min, max, 5) };
        Self { min, max, ticks }
    }

    /// Where a value is, from 0 to 1.
    pub(super) fn at(&self, value: f64) -> f64 {
        (value - self.min) / (self.max - self.min)
    }
}

/// Where a value is drawn: for most, at itself. The width of a range of larger values would be infinite, and a part of a
/// range of smaller values (subnormal numbers) would be 0.
pub(super) fn drawable(value: f64, log: bool) -> f64 {
    match value.abs() {
        size if log => size.clamp(SMALLEST, LARGEST),
        size if size < SMALLEST => 0.0,
        size => size.min(LARGEST).copysign(value),
    }
}

const SMALLEST: f64 = 1e-290;
const LARGEST: f64 = 1e290;

fn extremes(values: impl Iterator<Item = f64> + Clone) -> (f64, f64) {
    (values.clone().fold(f64::INFINITY, f64::min), values.fold(f64::NEG_INFINITY, f64::max))
}

/// A range that has a width.
fn widened((min, max): (f64, f64), share: f64) -> (f64, f64) {
    if min > max {
        return (0.0, 1.0);
    }
    let width = max - min;
    if width > min.abs().max(max.abs()) * 1e-9 {
        return (min - width * share, max + width * share);
    }
    let width = if min == 0.0 { 1.0 } else { min.abs() * 0.1 };
    (min - width, max + width)
}

/// More than any axis has.
const MOST_TICKS: usize = 20;

/// About `count` ticks at multiples of 1, 2 or 5 times a power of 10.
fn linear(min: f64, max: f64, count: usize) -> Vec<Tick> {
    let rough = (max - min) / count as f64;
    let power = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].into_iter().map(|m| m * power).find(|step| *step >= rough * 0.999);
    let step = step.unwrap_or(10.0 * power);
    let first = (min / step - 1e-9).ceil();
    let last = (max / step + 1e-9).floor();
    if !(last - first).is_finite() {
        return Vec::new();
    }
    (0..=((last - first) as usize).min(MOST_TICKS))
        .map(|i| (first + i as f64) * step)
        .map(|value| (value, number(value, step, min.abs().max(max.abs()))))
        .collect()
}

/// Powers of 10; with 2 and 5 times them, or linear ones, where there are few.
fn logarithmic(min: f64, max: f64) -> Vec<Tick> {
    let decades = max - min;
    let (first, last) = (min.floor() as i32, max.ceil() as i32);
    let every = ((decades / 6.0).ceil() as i32).max(1);
    let factors: &[f64] = if decades >= 3.0 { &[1.0] } else { &[1.0, 2.0, 5.0] };
    let power = |exponent: i32| factors.iter().map(move |factor| (factor * 10f64.powi(exponent), exponent));
    let values = (first..=last).filter(|exponent| exponent.rem_euclid(every) == 0).flat_map(power);
    let ticks: Vec<Tick> = values
        .map(|(value, exponent)| (value.log10(), number(value, 10f64.powi(exponent), value)))
        .filter(|(at, _)| (min..=max).contains(at))
        .collect();
    if ticks.len() >= 3 {
        return ticks;
    }
    let (low, high) = (10f64.powf(min), 10f64.powf(max));
    linear(low, high, 4)
        .into_iter()
        .filter(|(value, _)| *value > 0.0)
        .map(|(value, label)| (value.log10(), label))
        .collect()
}

/// A number that is a multiple of `step`, as short as it can be, on an axis up to `largest`.
fn number(value: f64, step: f64, largest: f64) -> String {
    if value == 0.0 {
        return "0".into();
    }
    for (unit, word) in [(1e9, "G"), (1e6, "M"), (1e3, "k")] {
        if (10.0 * unit..1e13).contains(&largest) {
            return fixed(value / unit, step / unit) + word;
        }
    }
    if !(2e-3..1e13).contains(&largest) {
        let exponent = value.abs().log10().floor() as i32;
        let power = 10f64.powi(exponent);
        return format!("{}e{}", fixed(value / power, step / power), exponent.to_string().replace('-', "−"));
    }
    fixed(value, step)
}

/// With as many digits as tell multiples of `step` apart.
fn fixed(value: f64, step: f64) -> String {
    let digits = (-(step.log10() + 1e-9).floor()).clamp(0.0, 12.0) as usize;
    // A true minus, as wide as a plus.
    format!("{value:.digits$}").replace('-', "−")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(axis: &Axis) -> Vec<&str> {
        axis.ticks.iter().map(|(_, label)| label.as_str()).collect()
    }

    #[test]
    fn ticks_are_round_and_short() {
        let steps = |last| Axis::steps([1.0, last].into_iter());
        assert_eq!(labels(&steps(100.0)), ["20", "40", "60", "80", "100"]);
        assert_eq!(labels(&steps(30_000.0)), ["5k", "10k", "15k", "20k", "25k", "30k"]);
        assert_eq!(labels(&steps(1900.0)), ["500", "1000", "1500"]);
        assert_eq!((labels(&steps(1.0)), labels(&steps(3.0))), (vec!["0", "1", "2"], vec!["1", "2", "3"]));
        let values = |min, max, log| Axis::values([min, max].into_iter(), log);
        assert_eq!(labels(&values(0.0, 1.0, false)), ["0", "0.5", "1.0"]);
        assert_eq!(labels(&values(-1.0, 1.0, false)), ["−1.0", "−0.5", "0", "0.5", "1.0"]);
        assert_eq!(labels(&values(0.0001, 0.0009, false)).first(), Some(&"2e−4"));
        assert_eq!(labels(&values(1e-4, 10.0, true)), ["1e−4", "1e−3", "0.01", "0.1", "1", "10"]);
        assert_eq!(labels(&values(0.8, 12.0, true)), ["1", "2", "5", "10"]);
    }

    #[test]
    fn axis_accepts_every_range() {
        let (tiny, huge, last) = (5e-324, f64::MAX, u64::MAX as f64);
        for values in [
            vec![],
            vec![0.0],
            vec![3.0, 3.0],
            vec![-1e-30, 1e-30],
            vec![1e300, -1e300],
            vec![tiny],
            vec![tiny, 2.0 * tiny],
            vec![-tiny, 1e-310],
            vec![tiny, 1.0],
            vec![f64::MIN_POSITIVE, 1.5 * f64::MIN_POSITIVE],
            vec![1e-300, 1.000_000_1e-300],
            vec![huge, -huge],
            vec![huge],
            vec![huge, tiny],
            vec![last],
            vec![last - 4096.0, last],
        ] {
            let positive = values.iter().copied().filter(|value| *value > 0.0);
            let steps = values.iter().copied().map(|value| value.abs().min(last));
            for axis in [Axis::values(values.iter().copied(), false), Axis::values(positive, true), Axis::steps(steps)]
            {
                assert!(axis.min < axis.max && axis.ticks.len() <= 21, "{values:?}: {axis:?}");
                assert!(axis.at(axis.min) == 0.0 && axis.at(axis.max) == 1.0, "{values:?}: {axis:?}");
                assert!(axis.ticks.iter().all(|(at, label)| at.is_finite() && label.len() < 20), "{axis:?}");
            }
        }
        let axis = Axis::values([2.0, 2.0].into_iter(), true);
        assert!(axis.min < axis.max && !axis.ticks.is_empty(), "{axis:?}");
    }
}
