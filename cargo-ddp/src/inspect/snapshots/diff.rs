//! `cargo ddp snapshot diff`: the differences between two snapshots, tensor by tensor.

use std::collections::BTreeMap;

use half::{bf16, f16};
use safetensors::tensor::{Dtype, TensorView};
use serde::Serialize;

use super::tensors::{TensorFile, dtype_name, sort_key};
use crate::Result;

/// What became of a tensor from one file to another.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "change", rename_all = "snake_case")]
pub enum Change {
    /// Only the second file has it.
    Added {
        /// Its type and shape.
        is: String,
    },
    /// Only the first file has it.
    Removed {
        /// Its type and shape.
        was: String,
    },
    /// Another type or shape.
    Reshaped {
        /// Type and shape in the first.
        was: String,
        /// Type and shape in the second.
        is: String,
    },
    /// Other elements.
    Changed {
        /// How many elements differ.
        elements: u64,
        /// Of how many.
        of: u64,
        /// The largest absolute difference; `None` where it is not a number (one of the two is NaN, or the infinities
        /// differ), or for other types.
        max_abs: Option<f64>,
    },
}

/// How two files of tensors differ.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Comparison {
    /// Tensors that are the same to the last bit.
    pub equal: usize,
    /// The others, by name.
    pub changes: Vec<(String, Change)>,
}

/// Compares two files, reading them in place, piece by piece.
///
/// # Errors
/// Those of reading a file.
pub fn compare(a: &TensorFile, b: &TensorFile) -> Result<Comparison> {
    type Pair<'data> = (Option<TensorView<'data>>, Option<TensorView<'data>>);
    let mut pairs: BTreeMap<_, (String, Pair<'_>)> = BTreeMap::new();
    let (aliases_a, aliases_b) = (a.aliases()?, b.aliases()?);
    for (name, view) in with_aliases(a, &aliases_a, &aliases_b)? {
        pairs.insert(sort_key(&name), (name, (Some(view), None)));
    }
    for (name, view) in with_aliases(b, &aliases_b, &aliases_a)? {
        pairs.entry(sort_key(&name)).or_insert((name, (None, None))).1.1 = Some(view);
    }
    let mut comparison = Comparison { equal: 0, changes: Vec::new() };
    for (name, pair) in pairs.into_values() {
        let change = match pair {
            (Some(a), Some(b)) => change(&a, &b),
            (Some(a), None) => Some(Change::Removed { was: form(&a) }),
            (None, Some(b)) => Some(Change::Added { is: form(&b) }),
            (None, None) => None,
        };
        match change {
            Some(change) => comparison.changes.push((name, change)),
            None => comparison.equal += 1,
        }
    }
    Ok(comparison)
}

/// A file's tensors, also under further names that the other file does not have for the same: tied weights are equal to
/// those under another of their names, and to copies.
fn with_aliases<'file>(
    file: &'file TensorFile,
    aliases: &BTreeMap<String, String>,
    other: &BTreeMap<String, String>,
) -> Result<Vec<(String, TensorView<'file>)>> {
    let mut tensors = file.sorted()?;
    let parsed = file.parse()?;
    let more = aliases.iter().filter(|(alias, name)| other.get(*alias) != Some(*name));
    tensors.extend(more.filter_map(|(alias, name)| Some((alias.clone(), parsed.tensor(name).ok()?))));
    Ok(tensors)
}

fn form(view: &TensorView<'_>) -> String {
    format!("{} {:?}", dtype_name(view.dtype()), view.shape())
}

fn change(a: &TensorView<'_>, b: &TensorView<'_>) -> Option<Change> {
    if (a.dtype(), a.shape()) != (b.dtype(), b.shape()) {
        return Some(Change::Reshaped { was: form(a), is: form(b) });
    }
    if a.data() == b.data() {
        return None;
    }
    let (a, b, dtype) = (a.data(), b.data(), a.dtype());
    let float = |x: f64, y: f64| (x - y).abs();
    let (elements, of, max_abs) = match dtype {
        Dtype::F64 => differ(a, b, |x, y| float(f64::from_le_bytes(x), f64::from_le_bytes(y))),
        Dtype::F32 => differ(a, b, |x, y| float(f32::from_le_bytes(x).into(), f32::from_le_bytes(y).into())),
        Dtype::F16 => differ(a, b, |x, y| float(f16::from_le_bytes(x).into(), f16::from_le_bytes(y).into())),
        Dtype::BF16 => differ(a, b, |x, y| float(bf16::from_le_bytes(x).into(), bf16::from_le_bytes(y).into())),
        Dtype::I64 => differ(a, b, |x, y| i64::from_le_bytes(x).abs_diff(i64::from_le_bytes(y)) as f64),
        Dtype::U64 => differ(a, b, |x, y| u64::from_le_bytes(x).abs_diff(u64::from_le_bytes(y)) as f64),
        Dtype::I32 => differ(a, b, |x, y| i32::from_le_bytes(x).abs_diff(i32::from_le_bytes(y)).into()),
        Dtype::U32 => differ(a, b, |x, y| u32::from_le_bytes(x).abs_diff(u32::from_le_bytes(y)).into()),
        Dtype::I16 => differ(a, b, |x, y| i16::from_le_bytes(x).abs_diff(i16::from_le_bytes(y)).into()),
        Dtype::U16 => differ(a, b, |x, y| u16::from_le_bytes(x).abs_diff(u16::from_le_bytes(y)).into()),
        Dtype::I8 => differ(a, b, |x, y| i8::from_le_bytes(x).abs_diff(i8::from_le_bytes(y)).into()),
        Dtype::U8 | Dtype::BOOL => differ(a, b, |[x], [y]| x.abs_diff(y).into()),
        // Types that have no number of ours: bytes are compared.
        _ => differ(a, b, |[_], [_]| f64::NAN),
    };
    Some(Change::Changed { elements, of, max_abs: max_abs.is_finite().then_some(max_abs) })
}

/// How many of the elements differ in their bits, of how many, and by how much at most: NaN if that is not a number.
fn differ<const N: usize>(a: &[u8], b: &[u8], distance: impl Fn([u8; N], [u8; N]) -> f64) -> (u64, u64, f64) {
    let (a, _) = a.as_chunks::<N>();
    let (b, _) = b.as_chunks::<N>();
    let (mut count, mut max) = (0, 0.0f64);
    for (&x, &y) in a.iter().zip(b).filter(|(x, y)| x != y) {
        count += 1;
        let distance = distance(x, y);
        // `f64::max` would forget a NaN.
        max = if distance.is_nan() || max.is_nan() { f64::NAN } else { max.max(distance) };
    }
    (count, a.len() as u64, max)
}

#[cfg(test)]
mod tests {
    use super::*;
    use safetensors::tensor::serialize_to_file;

    fn file(dir: &std::path::Path, name: &str, tensors: &[(&str, Dtype, &[usize], Vec<u8>)]) -> TensorFile {
        let path = dir.join(name);
        let views = tensors
            .iter()
            .map(|(name, dtype, shape, data)| (*name, TensorView::new(*dtype, shape.to_vec(), data).unwrap()));
        serialize_to_file(views, None, &path).unwrap();
        TensorFile::open(&path).unwrap()
    }

    fn bytes<T: Copy, const N: usize>(values: &[T], to: impl Fn(T) -> [u8; N]) -> Vec<u8> {
        values.iter().flat_map(|value| to(*value)).collect()
    }

    #[test]
    fn diff_reports_every_kind_of_change() {
        let dir = tempfile::tempdir().unwrap();
        let f32s = |values: &[f32]| bytes(values, f32::to_le_bytes);
        let a = file(
            dir.path(),
            "a",
            &[
                ("same", Dtype::F32, &[2], f32s(&[1.0, f32::NAN])),
                ("gone", Dtype::F32, &[1], f32s(&[1.0])),
                ("shape", Dtype::F32, &[2], f32s(&[1.0, 2.0])),
                ("f32", Dtype::F32, &[3], f32s(&[1.0, 2.0, 3.0])),
                ("nan", Dtype::F32, &[2], f32s(&[1.0, 2.0])),
                ("f16", Dtype::F16, &[1], bytes(&[f16::from_f32(1.5)], f16::to_le_bytes)),
                ("bf16", Dtype::BF16, &[1], bytes(&[bf16::from_f32(1.5)], bf16::to_le_bytes)),
                ("f64", Dtype::F64, &[1], bytes(&[1.0], f64::to_le_bytes)),
                ("i64", Dtype::I64, &[2], bytes(&[i64::MIN, 4], i64::to_le_bytes)),
                ("bool", Dtype::BOOL, &[3], vec![1, 0, 1]),
            ],
        );
        let b = file(
            dir.path(),
            "b",
            &[
                ("same", Dtype::F32, &[2], f32s(&[1.0, f32::NAN])),
                ("new", Dtype::I8, &[1], vec![1]),
                ("shape", Dtype::F32, &[2, 1], f32s(&[1.0, 2.0])),
                ("f32", Dtype::F32, &[3], f32s(&[1.5, 2.0, 2.75])),
                ("nan", Dtype::F32, &[2], f32s(&[f32::NAN, 3.0])),
                ("f16", Dtype::F16, &[1], bytes(&[f16::from_f32(1.0)], f16::to_le_bytes)),
                ("bf16", Dtype::BF16, &[1], bytes(&[bf16::from_f32(-0.5)], bf16::to_le_bytes)),
                ("f64", Dtype::F64, &[1], bytes(&[1.0 + 1e-12], f64::to_le_bytes)),
                ("i64", Dtype::I64, &[2], bytes(&[i64::MAX, 1], i64::to_le_bytes)),
                ("bool", Dtype::BOOL, &[3], vec![0, 0, 1]),
            ],
        );
        let comparison = compare(&a, &b).unwrap();
        assert_eq!(comparison.equal, 1);
        let changed = |elements, of, max_abs| Change::Changed { elements, of, max_abs };
        let expected: Vec<(String, Change)> = [
            ("bf16", changed(1, 1, Some(2.0))),
            ("bool", changed(1, 3, Some(1.0))),
            ("f16", changed(1, 1, Some(0.5))),
            ("f32", changed(2, 3, Some(0.5))),
            ("f64", changed(1, 1, Some((1.0f64 + 1e-12) - 1.0))),
            ("gone", Change::Removed { was: "F32 [1]".into() }),
            ("i64", changed(2, 2, Some(u64::MAX as f64))),
            ("nan", changed(2, 2, None)),
            ("new", Change::Added { is: "I8 [1]".into() }),
            ("shape", Change::Reshaped { was: "F32 [2]".into(), is: "F32 [2, 1]".into() }),
        ]
        .map(|(name, change)| (name.to_owned(), change))
        .into();
        let mut found = comparison.changes;
        found.sort_by(|(a, _), (b, _)| a.cmp(b));
        assert_eq!(found, expected);
        assert_eq!(compare(&a, &a).unwrap(), Comparison { equal: 10, changes: vec![] });
    }

    // `h.1` and `h.01` were one tensor, and so were two with numbers that no u64 holds: files that differ were equal.
    #[test]
    fn names_with_equal_numbers_are_different_tensors() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, tensors: &[(&str, u8)]| {
            let tensors: Vec<_> =
                tensors.iter().map(|(name, value)| (*name, Dtype::U8, &[1][..], vec![*value])).collect();
            file(dir.path(), name, &tensors)
        };
        for [one, two] in [["h.1", "h.01"], ["t.99999999999999999999", "t.99999999999999999998"]] {
            let a = write("a", &[(one, 1), (two, 5)]);
            let b = write("b", &[(one, 2), (two, 5)]);
            let c = write("c", &[(two, 5)]);
            let changed = Change::Changed { elements: 1, of: 1, max_abs: Some(1.0) };
            let expected = |equal, change| Comparison { equal, changes: vec![(one.to_owned(), change)] };
            assert_eq!(compare(&a, &b).unwrap(), expected(1, changed));
            assert_eq!(compare(&a, &c).unwrap(), expected(1, Change::Removed { was: "U8 [1]".into() }));
            let names: Vec<_> = a.infos().unwrap().into_iter().map(|info| info.name).collect();
            assert_eq!(names, [two, one], "the order does not depend on chance");
        }
    }
}
