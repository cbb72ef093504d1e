//! Histograms of tensors, for TensorBoard.

use tch::{Kind, Tensor};

use crate::{Error, Result};

/// How often values of which size occur, in buckets of one width.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Histogram {
    pub(super) min: f64,
    pub(super) max: f64,
    pub(super) count: f64,
    pub(super) sum: f64,
    pub(super) sum_squares: f64,
    /// The buckets' upper ends.
    pub(super) limits: Vec<f64>,
    pub(super) counts: Vec<f64>,
}

const BUCKETS: usize = 64;

impl Histogram {
    /// Of the values that are finite; `None` if there are none.
    pub(super) fn new(values: &Tensor) -> Result<Option<Self>> {
        let values = values.f_flatten(0, -1).and_then(|flat| flat.f_to_kind(Kind::Double));
        let mut values = Vec::<f64>::try_from(values.map_err(Error::tch("making a histogram"))?)
            .map_err(Error::tch("making a histogram"))?;
        values.retain(|value| value.is_finite());
        Ok(Self::of_finite(&values))
    }

    fn of_finite(values: &[f64]) -> Option<Self> {
        let min = values.iter().copied().reduce(f64::min)?;
        let max = values.iter().copied().reduce(f64::max)?;
        let width = (max - min) / BUCKETS as f64;
        let mut counts = vec![0.0; if width > 0.0 { BUCKETS } else { 1 }];
        for value in values {
            let bucket = if width > 0.0 { ((value - min) / width) as usize } else { 0 };
            let last = counts.len() - 1;
            counts[bucket.min(last)] += 1.0;
        }
        let mut limits: Vec<f64> = (1..=counts.len()).map(|i| min + width * i as f64).collect();
        // Rounding must not leave the largest value outside.
        *limits.last_mut()? = max;
        let (sum, sum_squares) = values.iter().fold((0.0, 0.0), |(sum, squares), x| (sum + x, squares + x * x));
        Some(Self { min, max, count: values.len() as f64, sum, sum_squares, limits, counts })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn histogram_counts_every_finite_value() {
        let values = Tensor::from_slice(&[0.0, 1.0, 1.0, 64.0, f64::NAN, f64::INFINITY]);
        let histogram = Histogram::new(&values).unwrap().unwrap();
        assert_eq!((histogram.min, histogram.max, histogram.count), (0.0, 64.0, 4.0));
        assert_eq!((histogram.counts[0], histogram.counts[1], histogram.counts[63]), (1.0, 2.0, 1.0));
        assert_eq!(histogram.sum_squares, 4098.0);
        let same = Histogram::new(&Tensor::from_slice(&[2f32, 2.0])).unwrap().unwrap();
        assert_eq!((same.limits, same.counts), (vec![2.0], vec![2.0]));
        assert_eq!(Histogram::new(&Tensor::from_slice(&[f32::NAN])).unwrap(), None);
    }
}
