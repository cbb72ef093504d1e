//! Where the ranks' tensors differ: all that is equal on all ranks after a step is compared by checksum, and the first
//! difference is found by checksums of ever smaller pieces. No rank needs another's tensors.
//!
//! | file | what it does |
//! |---|---|
//! | `tensors` | what is compared, and its names |
//! | `checksum` | a checksum of a tensor's bytes |
//! | `ranks` | what the ranks exchange |

mod checksum;
mod ranks;
mod tensors;
#[cfg(test)]
mod tests;

use std::collections::HashMap;

use ddp_contract::rank_diff::{Category, Difference, Mismatch, RankDiff, VERSION};

use self::checksum::{bytes_of, checksum, flat};
use self::ranks::{Failed, OPERATION, Ranks};
use self::tensors::{Form, Named, Tensors};
use crate::dist::fnv;
use crate::{Error, ProcessGroup, Result};

pub(crate) use tensors::collect;

/// Into how many pieces a tensor is cut at a time.
const PIECES: u64 = 64;
/// How many mismatches of each rank are reported.
const MOST_MISMATCHES: usize = 8;

/// Compares the ranks' tensors. Every rank must call it.
///
/// # Errors
/// The group's. What a rank can't do is reported in the result.
pub(crate) fn compare(group: &ProcessGroup, own: Result<Tensors>, step: u64) -> Result<RankDiff> {
    compare_among(group, own, step)
}

fn compare_among(ranks: &impl Ranks, own: Result<Tensors>, step: u64) -> Result<RankDiff> {
    let mut diff = RankDiff { version: VERSION, step, world_size: ranks.world_size(), ..RankDiff::default() };
    match fill(ranks, own, &mut diff) {
        Ok(()) => Ok(diff),
        Err(Failed::Group(err)) => Err(err),
        Err(Failed::Rank(problem)) => Ok(RankDiff { error: Some(problem), ..diff }),
    }
}

fn fill(ranks: &impl Ranks, own: Result<Tensors>, diff: &mut RankDiff) -> Result<(), Failed> {
    let Tensors { named, skipped, is_sharded } = ranks.share(own)?;
    (diff.skipped, diff.is_sharded) = (skipped, is_sharded);
    let named = common(ranks, named, diff)?;
    diff.tensors = named.len();
    let sums = named.iter().map(|named| flat(&named.tensor).and_then(|flat| checksum(&flat, 0, count(&flat))));
    let sums = ranks.share(sums.collect::<Result<Vec<_>, _>>().map_err(Error::tch(OPERATION)))?;
    let mut found: Vec<&Named> = Vec::new();
    for (named, differs) in named.iter().zip(differ(ranks, &sums)?) {
        if differs {
            *diff.differing.entry(named.form.category).or_default() += 1;
            if found.iter().all(|first| first.form.category != named.form.category) {
                found.push(named);
            }
        }
    }
    for named in found {
        diff.first.extend(locate(ranks, named)?);
    }
    Ok(())
}

/// The tensors that all ranks have with one shape and dtype, in rank 0's order. The others are mismatches.
fn common(ranks: &impl Ranks, own: Vec<Named>, diff: &mut RankDiff) -> Result<Vec<Named>, Failed> {
    let forms: Vec<&Form> = own.iter().map(|named| &named.form).collect();
    let encoded = serde_json::to_vec(&forms).map_err(|err| Error::Invalid(err.to_string()));
    let encoded = ranks.share(encoded)?;
    let hash = fnv::hash(encoded.iter().copied()).cast_signed();
    if differ(ranks, &[hash])? == [false] {
        return Ok(own);
    }
    let expected = serde_json::from_slice(&ranks.of_rank0(&encoded)?).map_err(|err| Error::Invalid(err.to_string()));
    let expected: Vec<Form> = ranks.share(expected)?;
    let mut own: HashMap<(Category, String), Named> =
        own.into_iter().map(|named| ((named.form.category, named.form.name.clone()), named)).collect();
    let (mut fitting, mut mismatches) = (Vec::new(), Vec::new());
    let mut mismatch = |category, name: &str, form: Option<&Form>, form_on_rank0: Option<&Form>| {
        let [form, form_on_rank0] = [form, form_on_rank0].map(|form| form.map(|form| form.form.clone()));
        mismatches.push(Mismatch { category, name: name.to_owned(), rank: ranks.rank(), form, form_on_rank0 });
    };
    for form in &expected {
        let named = own.remove(&(form.category, form.name.clone()));
        if named.as_ref().is_none_or(|named| named.form != *form) {
            mismatch(form.category, &form.name, named.as_ref().map(|named| &named.form), Some(form));
        }
        fitting.push(named.filter(|named| named.form == *form));
    }
    let mut more: Vec<&Form> = own.values().map(|named| &named.form).collect();
    more.sort();
    more.into_iter().for_each(|form| mismatch(form.category, &form.name, Some(form), None));
    let count = mismatches.len();
    mismatches.truncate(MOST_MISMATCHES);
    for (count, mismatches) in ranks.gather_value(&(count, mismatches))? {
        diff.mismatched += count;
        diff.mismatches.extend(mismatches);
    }
    let missing = ranks.largest(fitting.iter().map(|named| i64::from(named.is_none())).collect())?;
    let on_all = fitting.into_iter().zip(missing).filter(|(_, missing)| *missing == 0);
    Ok(on_all.filter_map(|(named, _)| named).collect())
}

/// Which of these numbers differ between ranks.
fn differ(ranks: &impl Ranks, numbers: &[i64]) -> Result<Vec<bool>, Failed> {
    // The smallest is the complement of the largest complement.
    let both = numbers.iter().copied().chain(numbers.iter().map(|number| !number)).collect();
    let largest = ranks.largest(both)?;
    let (largest, complements) = largest.split_at(numbers.len());
    Ok(largest.iter().zip(complements).map(|(largest, complement)| *largest != !complement).collect())
}

/// The first element of a tensor that differs between ranks; `None` if none does.
fn locate(ranks: &impl Ranks, named: &Named) -> Result<Option<Difference>, Failed> {
    let flat = ranks.share(flat(&named.tensor).map_err(Error::tch(OPERATION)))?;
    let (mut start, mut length) = (0, count(&flat).unsigned_abs());
    while length > 1 {
        let piece = length.div_ceil(PIECES);
        let pieces = (0..length).step_by(piece as usize).map(|at| (start + at, piece.min(length - at)));
        let sums = pieces.clone().map(|(start, length)| checksum(&flat, start.cast_signed(), length.cast_signed()));
        let sums = ranks.share(sums.collect::<Result<Vec<_>, _>>().map_err(Error::tch(OPERATION)))?;
        let differs = differ(ranks, &sums)?;
        let Some((found, _)) = pieces.zip(differs).find(|(_, differs)| *differs) else { return Ok(None) };
        (start, length) = found;
    }
    let bytes = ranks.share(bytes_of(&flat, start.cast_signed()).map_err(Error::tch(OPERATION)))?;
    let bits = ranks.gather(&bytes)?.iter().map(|bytes| hexadecimal(bytes)).collect();
    let Form { category, name, .. } = named.form.clone();
    let index = index_of(start.cast_signed(), &named.tensor.size());
    Ok(Some(Difference { category, name, dtype: format!("{:?}", named.tensor.kind()), index, bits }))
}

/// A number whose bytes in memory these are, on machines that begin with the smallest one.
fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().rev().fold(String::from("0x"), |text, byte| format!("{text}{byte:02x}"))
}

/// The indices of element number `place`.
fn index_of(mut place: i64, shape: &[i64]) -> Vec<i64> {
    let mut index: Vec<i64> = shape
        .iter()
        .rev()
        .map(|&size| {
            let at = place % size;
            place /= size;
            at
        })
        .collect();
    index.reverse();
    index
}

fn count(flat: &tch::Tensor) -> i64 {
    i64::try_from(flat.numel()).unwrap_or(i64::MAX)
}
