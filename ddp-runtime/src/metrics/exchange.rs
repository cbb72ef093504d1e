//! How the ranks exchange metrics: they first compare what each one logged, then the values go to rank 0.

use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use super::record::{OwnedValue, Reduce, Scalar};
use crate::dist::fnv;
use crate::{Error, ProcessGroup, Result};

/// Why the ranks exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Why {
    /// Enough steps have accumulated.
    Due = 0,
    Flush = 1,
    End = 2,
}

/// What each rank sends before the values: kind, number and hash of its scalars, and its memory. `next` is rank 0's.
struct Header {
    why: i64,
    count: i64,
    hash: i64,
    memory: [i64; 2],
    next: i64,
}

/// What rank 0 knows after an exchange; the others know `next`.
pub(super) struct Exchanged {
    /// The reduced values, in the order of the scalars.
    pub(super) values: Vec<f64>,
    /// The most memory that a rank uses: the process', and its GPU's.
    pub(super) memory: [u64; 2],
    /// The number of steps until the next exchange.
    pub(super) next: u64,
}

/// Number of collectives that an exchange takes.
pub(super) const COLLECTIVES: u64 = 2;

pub(super) fn exchange(
    group: Option<&ProcessGroup>,
    why: Why,
    scalars: &[Scalar],
    memory: [u64; 2],
    next: u64,
) -> Result<Exchanged> {
    let own = read(scalars)?;
    let Some(group) = group else {
        let values = reduce(scalars, &[own]);
        return Ok(Exchanged { values, memory, next });
    };
    let to_i64 = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    let header = Header {
        why: why as i64,
        count: to_i64(scalars.len() as u64),
        hash: hash(scalars),
        memory: memory.map(to_i64),
        next: to_i64(next),
    };
    let headers = group.gather_raw("exchanging metrics", &header.to_tensor())?;
    let headers = headers.iter().map(Header::from_tensor).collect::<Result<Vec<_>>>()?;
    let same =
        |other: &Header| (other.why, other.count, other.hash) == (headers[0].why, headers[0].count, headers[0].hash);
    // Everybody sees the same headers, so everybody goes the same way from here.
    if let Some(rank) = headers.iter().position(|header| !same(header)) {
        return Err(difference(group, why, scalars, rank)?);
    }
    let all = match scalars {
        [] => vec![],
        _ => group.gather_raw("exchanging metrics", &Tensor::from_slice(&own))?,
    };
    let all = all.iter().map(|values| Vec::<f64>::try_from(values).map_err(Error::tch("exchanging metrics")));
    let all = all.collect::<Result<Vec<_>>>()?;
    let values = if group.rank() == 0 { reduce(scalars, &all) } else { vec![] };
    let most = |i: usize| headers.iter().map(|header| header.memory[i].unsigned_abs()).max().unwrap_or(0);
    Ok(Exchanged { values, memory: [most(0), most(1)], next: headers[0].next.unsigned_abs() })
}

fn reduce(scalars: &[Scalar], ranks: &[Vec<f64>]) -> Vec<f64> {
    let of = |(i, scalar): (usize, &Scalar)| {
        scalar.reduce.unwrap_or(Reduce::Mean).all(ranks.iter().map(move |values| values[i]))
    };
    scalars.iter().enumerate().map(of).collect()
}

/// The scalars' values. Those on a GPU are read together.
pub(super) fn read(scalars: &[Scalar]) -> Result<Vec<f64>> {
    let on_device: Vec<&Tensor> = scalars
        .iter()
        .filter_map(|scalar| match &scalar.value {
            OwnedValue::OnDevice(tensor) => Some(tensor),
            OwnedValue::Number(_) => None,
        })
        .collect();
    let mut read = match on_device.as_slice() {
        [] => Vec::new(),
        tensors => {
            let stacked = Tensor::f_stack(tensors, 0).and_then(|stacked| stacked.f_to_device(tch::Device::Cpu));
            Vec::<f64>::try_from(stacked.map_err(Error::tch("reading metrics"))?)
                .map_err(Error::tch("reading metrics"))?
        }
    }
    .into_iter();
    let values = scalars.iter().map(|scalar| match scalar.value {
        OwnedValue::Number(number) => number,
        OwnedValue::OnDevice(_) => read.next().unwrap_or(f64::NAN),
    });
    Ok(values.collect())
}

/// Of names, steps and ways to reduce.
fn hash(scalars: &[Scalar]) -> i64 {
    let bytes = scalars.iter().flat_map(|Scalar { name, step, reduce, .. }| {
        let reduce = reduce.map_or(0, |reduce| reduce as u8 + 1);
        (name.len() as u64).to_le_bytes().into_iter().chain(name.bytes()).chain(step.to_le_bytes()).chain([reduce])
    });
    fnv::hash(bytes).cast_signed()
}

impl Header {
    fn to_tensor(&self) -> Tensor {
        let Self { why, count, hash, memory: [own, gpu], next } = *self;
        Tensor::from_slice(&[why, count, hash, own, gpu, next])
    }

    fn from_tensor(tensor: &Tensor) -> Result<Self> {
        let numbers = Vec::<i64>::try_from(tensor.to_kind(Kind::Int64)).map_err(Error::tch("exchanging metrics"))?;
        let [why, count, hash, own, gpu, next] = numbers[..] else {
            return Err(Error::Invalid("exchanging metrics: ranks run different versions of ddp-runtime".into()));
        };
        Ok(Self { why, count, hash, memory: [own, gpu], next })
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Logged(Vec<String>);

/// Beyond this many scalars, the first difference is not searched.
const MOST_WORDS: usize = 10_000;

/// What `rank` did otherwise than rank 0.
fn difference(group: &ProcessGroup, why: Why, scalars: &[Scalar], rank: usize) -> Result<Error> {
    let end = match why {
        Why::Due => "continued",
        Why::Flush => "flushed",
        Why::End => "finished",
    };
    let words = scalars.iter().map(|Scalar { name, step, reduce, .. }| match reduce {
        None | Some(Reduce::Mean) => format!("logged `{name}` at step {step}"),
        Some(other) => format!("logged `{name}` at step {step} as {other:?}"),
    });
    let mut words: Vec<String> = words.take(MOST_WORDS).collect();
    words.push(end.into());
    let all = group.all_gather_value(&Logged(words))?;
    let (there, here) = (&all[rank].0, &all[0].0);
    let first = there.iter().zip(here).position(|(there, here)| there != here).unwrap_or(0);
    Ok(Error::MetricsDiffer { rank, there: there[first].clone(), here: here[first].clone() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_reduced_by_the_chosen_operation() {
        let all = |reduce: Reduce| reduce.all([3.0, 1.0, 2.0].into_iter());
        assert_eq!([Reduce::Mean, Reduce::Sum, Reduce::Min, Reduce::Max].map(all), [2.0, 6.0, 1.0, 3.0]);
        for values in [[1.0, f64::NAN], [f64::NAN, 1.0]] {
            for reduce in [Reduce::Mean, Reduce::Sum, Reduce::Min, Reduce::Max] {
                assert!(reduce.all(values.into_iter()).is_nan(), "{reduce:?}");
            }
        }
    }

    #[test]
    fn metrics_scalars_that_differ_have_different_hashes() {
        let scalar = |name: &str, step, reduce| Scalar {
            name: name.into(),
            step,
            value: OwnedValue::Number(0.0),
            reduce: Some(reduce),
            time: 0.0,
        };
        let one = |name, step, reduce| hash(&[scalar(name, step, reduce)]);
        let own = one("loss", 1, Reduce::Mean);
        assert_eq!(own, one("loss", 1, Reduce::Mean));
        for other in [one("lass", 1, Reduce::Mean), one("loss", 2, Reduce::Mean), one("loss", 1, Reduce::Max)] {
            assert_ne!(own, other);
        }
    }
}
