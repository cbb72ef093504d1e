//! The values that can be logged, and the records that the loop hands to the writing thread.

use std::collections::BTreeMap;
use std::sync::mpsc::Sender;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use tch::{Device, Kind, Tensor};

use crate::{Error, Result};

/// How one number is made of all ranks'.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reduce {
    /// The mean.
    Mean,
    /// The sum.
    Sum,
    /// The smallest.
    Min,
    /// The largest.
    Max,
}

impl Reduce {
    /// Of the ranks' values, in their order.
    pub(super) fn all(self, values: impl ExactSizeIterator<Item = f64>) -> f64 {
        let count = values.len() as f64;
        // A value that is no number is not to be overlooked, as f64::min would.
        let pick =
            |better: fn(&f64, &f64) -> bool| move |a: f64, b: f64| if better(&b, &a) || b.is_nan() { b } else { a };
        match self {
            Self::Mean => values.sum::<f64>() / count,
            Self::Sum => values.sum(),
            Self::Min => values.reduce(pick(f64::lt)).unwrap_or(f64::NAN),
            Self::Max => values.reduce(pick(f64::gt)).unwrap_or(f64::NAN),
        }
    }
}

/// What can be logged as a number: a Rust number, or a tensor with one element.
#[derive(Debug)]
#[non_exhaustive]
pub enum Value<'a> {
    /// A number.
    Number(f64),
    /// A tensor with one element, on any device.
    Tensor(&'a Tensor),
}

/// A value that stays what it is.
#[derive(Debug)]
pub(crate) enum OwnedValue {
    Number(f64),
    /// On a GPU, where reading it would wait.
    OnDevice(Tensor),
}

impl Value<'_> {
    pub(crate) fn into_owned(self, name: &str) -> Result<OwnedValue> {
        let tensor = match self {
            Self::Number(number) => return Ok(OwnedValue::Number(number)),
            Self::Tensor(tensor) => tensor,
        };
        if !tensor.defined() || tensor.numel() != 1 {
            let found = if tensor.defined() { format!("{:?}", tensor.size()) } else { "nothing".into() };
            return Err(Error::Invalid(format!("metric `{name}`: expected one number, got a tensor of shape {found}")));
        }
        let read = || {
            let one = tensor.f_detach()?.f_reshape([0i64; 0])?;
            match one.device() {
                Device::Cpu => one.f_double_value(&[]).map(OwnedValue::Number),
                _ => one.f_to_dtype(Kind::Double, false, true).map(OwnedValue::OnDevice),
            }
        };
        read().map_err(Error::tch("reading a metric"))
    }
}

macro_rules! from_numbers {
    ($($number:ty)*) => {$(
        impl From<$number> for Value<'_> {
            fn from(number: $number) -> Self {
                Self::Number(number as f64)
            }
        }
        impl From<$number> for HParam {
            fn from(number: $number) -> Self {
                Self::Number(number as f64)
            }
        }
    )*};
}
from_numbers!(f64 f32 u64 i64 u32 i32 usize);

impl<'a> From<&'a Tensor> for Value<'a> {
    fn from(tensor: &'a Tensor) -> Self {
        Self::Tensor(tensor)
    }
}

/// The value of a hyperparameter.
#[derive(Clone, Debug, PartialEq)]
pub enum HParam {
    /// A number.
    Number(f64),
    /// Words.
    Text(String),
    /// Yes or no.
    Flag(bool),
}

impl From<&str> for HParam {
    fn from(text: &str) -> Self {
        Self::Text(text.into())
    }
}

impl From<String> for HParam {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<bool> for HParam {
    fn from(flag: bool) -> Self {
        Self::Flag(flag)
    }
}

/// What the loop hands over.
#[derive(Debug)]
pub(super) enum LogRecord {
    Scalar(Scalar),
    Samples {
        samples: u64,
        step: u64,
        at: Instant,
    },
    Histogram {
        name: String,
        step: u64,
        values: Tensor,
        time: f64,
    },
    Image {
        name: String,
        step: u64,
        image: Tensor,
        time: f64,
    },
    Hparams {
        values: BTreeMap<String, HParam>,
        metrics: Vec<String>,
        time: f64,
    },
    /// Answered when everything before it is written.
    Flush(Sender<()>),
    /// The last one; closed when everything is written.
    Finish(Sender<()>),
}

impl LogRecord {
    pub(super) fn step(&self) -> Option<u64> {
        match self {
            Self::Scalar(Scalar { step, .. })
            | Self::Samples { step, .. }
            | Self::Histogram { step, .. }
            | Self::Image { step, .. } => Some(*step),
            Self::Hparams { .. } | Self::Flush(_) | Self::Finish(_) => None,
        }
    }
}

#[derive(Debug)]
pub(super) struct Scalar {
    pub(super) name: String,
    pub(super) step: u64,
    pub(super) value: OwnedValue,
    /// `None`: rank 0's alone.
    pub(super) reduce: Option<Reduce>,
    pub(super) time: f64,
}

/// A separate tensor, which the loop can't change.
pub(super) fn copy(tensor: &Tensor) -> Result<Tensor> {
    let _guard = tch::no_grad_guard();
    tensor.f_detach().and_then(|tensor| tensor.f_to_dtype(tensor.kind(), false, true)).map_err(Error::tch("copying"))
}

/// Seconds since 1970.
pub(super) fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}
