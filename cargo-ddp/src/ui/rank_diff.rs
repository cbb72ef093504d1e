//! Where ranks differ, in words and as JSON.

use std::collections::{BTreeMap, HashMap};

use ddp_contract::rank_diff::{Category, Difference, Mismatch, RankDiff};
use ddp_contract::text::printable_line;
use half::{bf16, f16};
use serde::Serialize;

use super::messages::{count, ranks};

/// Up to this many ranks have a line each; beyond it, each value has one.
const MOST_RANKS: usize = 16;
/// Up to this many values and mismatches are printed.
const MOST_LINES: usize = 16;
const CATEGORIES: [Category; 4] = [Category::Parameter, Category::Buffer, Category::Gradient, Category::OptimizerState];

/// The result of a comparison, in lines.
pub(crate) fn lines(diff: &RankDiff) -> Vec<String> {
    let mut lines = Vec::new();
    let RankDiff { step, world_size, tensors, .. } = diff;
    if diff.mismatched > 0 {
        lines.push(format!("step {step}: {}", mismatched(diff.mismatched)));
        lines.extend(diff.mismatches.iter().take(MOST_LINES).map(|one| format!("  {}", mismatch(one))));
        let more = diff.mismatched.saturating_sub(diff.mismatches.len().min(MOST_LINES));
        lines.extend((more > 0).then(|| format!("  and {more} more")));
    }
    let differing: usize = diff.differing.values().sum();
    let what = if diff.mismatched > 0 { "other tensors" } else { "tensors" };
    lines.push(match differing {
        0 => format!("step {step}: all {tensors} {what} agree on {world_size} ranks"),
        1 => format!("step {step}: 1 of {tensors} {what} differs between ranks ({})", by_category(&diff.differing)),
        _ => format!(
            "step {step}: {differing} of {tensors} {what} differ between ranks ({})",
            by_category(&diff.differing)
        ),
    });
    // Buffers may differ, and do not hide what may not.
    let other = diff.first.iter().find(|first| first.category != Category::Buffer);
    if let Some(first) = other.or(diff.first.first()) {
        lines.push(format!("first: {}", place(first)));
        lines.extend(values(first).into_iter().map(|line| format!("  {line}")));
    }
    if diff.agrees() && differing > 0 {
        lines.push(
            "note: buffers such as BatchNorm's statistics may differ; parameters, gradients and optimizer state agree"
                .into(),
        );
    }
    if diff.skipped > 0 {
        let tensors = count(diff.skipped, "sparse or quantized tensor");
        lines.push(format!("note: not compared: {tensors}"));
    }
    if diff.is_sharded {
        lines.push("note: not compared: the optimizer's state, which is sharded across the ranks".into());
    }
    lines
}

fn mismatched(count: usize) -> String {
    match count {
        1 => "1 tensor is not the same on all ranks:".into(),
        many => format!("{many} tensors are not the same on all ranks:"),
    }
}

fn mismatch(mismatch: &Mismatch) -> String {
    let Mismatch { category, name, rank, form, form_on_rank0 } = mismatch;
    let [here, on_rank0] = [form, form_on_rank0].map(|form| form.as_deref().unwrap_or("missing"));
    let name = printable_line(name);
    format!("{} {name}: {on_rank0} on rank 0, {here} on rank {rank}", noun(*category))
}

/// `1 parameter, 2 gradients`.
fn by_category(differing: &BTreeMap<Category, usize>) -> String {
    let found = CATEGORIES.iter().filter_map(|category| Some((*category, *differing.get(category)?)));
    let words = found.filter(|(_, count)| *count > 0).map(|(category, number)| match category {
        Category::OptimizerState => count(number, "optimizer state"),
        category => count(number, noun(category)),
    });
    words.collect::<Vec<_>>().join(", ")
}

fn noun(category: Category) -> &'static str {
    match category {
        Category::Parameter => "parameter",
        Category::Buffer => "buffer",
        Category::Gradient => "gradient",
        Category::OptimizerState => "optimizer state",
    }
}

/// `parameter h.3.mlp.weight[17, 204]`.
fn place(difference: &Difference) -> String {
    let Difference { category, name, index, .. } = difference;
    let index = if index.is_empty() { String::new() } else { format!("{index:?}") };
    format!("{} {}{index}", noun(*category), printable_line(name))
}

/// The element on each rank. Ranks that differ from the majority are marked.
fn values(difference: &Difference) -> Vec<String> {
    let (texts, odd) = (texts(difference), difference.odd_ranks());
    let line = |who: String, width: usize, text: &str, is_odd: bool| {
        let mark = if is_odd { "  <- differs from the others" } else { "" };
        format!("{who:<width$}  {text}{mark}")
    };
    if texts.len() <= MOST_RANKS {
        let width = ranks(&[texts.len().saturating_sub(1)]).len();
        let values = texts.iter().enumerate();
        return values.map(|(rank, text)| line(ranks(&[rank]), width, text, odd.contains(&rank))).collect();
    }
    // In the order of their first rank.
    let mut groups: Vec<(&str, Vec<usize>)> = Vec::new();
    let mut known: HashMap<&str, usize> = HashMap::new();
    for (rank, text) in texts.iter().enumerate() {
        let group = *known.entry(text).or_insert(groups.len());
        if group == groups.len() {
            groups.push((text, vec![]));
        }
        groups[group].1.push(rank);
    }
    let more = groups.len().saturating_sub(MOST_LINES);
    let who = |group: &[usize]| if group.len() <= MOST_RANKS { ranks(group) } else { count(group.len(), "rank") };
    let shown = groups.iter().take(MOST_LINES);
    let mut lines: Vec<_> =
        shown.map(|(text, group)| line(who(group), 0, text, group.iter().all(|rank| odd.contains(rank)))).collect();
    lines.extend((more > 0).then(|| format!("and {more} more values")));
    lines
}

/// The element on each rank: different bits have different texts.
fn texts(difference: &Difference) -> Vec<String> {
    let text = |bits: &String| value(&difference.dtype, bits).unwrap_or_else(|| bits.clone());
    let texts: Vec<_> = difference.bits.iter().map(text).collect();
    let mut bits_of: HashMap<&str, &str> = HashMap::new();
    let is_ambiguous =
        texts.iter().zip(&difference.bits).any(|(text, bits)| *bits_of.entry(text).or_insert(bits) != bits);
    if !is_ambiguous {
        return texts;
    }
    texts.iter().zip(&difference.bits).map(|(text, bits)| format!("{text} ({bits})")).collect()
}

/// A number as the shortest text that means it; `None` for a dtype without numbers.
fn value(dtype: &str, bits: &str) -> Option<String> {
    let bits = u128::from_str_radix(bits.strip_prefix("0x")?, 16).ok()?;
    let float = |bits: u128| f32::from_bits(bits as u32);
    Some(match dtype {
        "Float" => format!("{:?}", float(bits)),
        "Double" => format!("{:?}", f64::from_bits(bits as u64)),
        "Half" => format!("{:?}", f16::from_bits(bits as u16).to_f32()),
        "BFloat16" => format!("{:?}", bf16::from_bits(bits as u16).to_f32()),
        "ComplexFloat" => format!("{:?}{:+?}i", float(bits), float(bits >> 32)),
        "ComplexDouble" => format!("{:?}{:+?}i", f64::from_bits(bits as u64), f64::from_bits((bits >> 64) as u64)),
        "Int64" => (bits as i64).to_string(),
        "Int" => (bits as i32).to_string(),
        "Int16" => (bits as i16).to_string(),
        "Int8" => (bits as i8).to_string(),
        "Uint8" => bits.to_string(),
        "Bool" if bits <= 1 => (bits == 1).to_string(),
        _ => return None,
    })
}

/// As `--json` prints it.
#[derive(Serialize)]
pub(crate) struct JsonDiff<'a> {
    version: u32,
    run: &'a str,
    step: u64,
    world_size: usize,
    agree: bool,
    tensors: usize,
    differing: &'a BTreeMap<Category, usize>,
    first: Vec<JsonDifference<'a>>,
    mismatched: usize,
    mismatches: &'a [Mismatch],
    skipped: usize,
    sharded: bool,
}

#[derive(Serialize)]
struct JsonDifference<'a> {
    category: Category,
    name: &'a str,
    dtype: &'a str,
    index: &'a [i64],
    values: Vec<JsonValue<'a>>,
    odd_ranks: Vec<usize>,
}

#[derive(Serialize)]
struct JsonValue<'a> {
    rank: usize,
    value: String,
    bits: &'a str,
}

impl<'a> JsonDiff<'a> {
    pub(crate) fn new(run: &'a str, diff: &'a RankDiff) -> Self {
        let first = |first: &'a Difference| JsonDifference {
            category: first.category,
            name: &first.name,
            dtype: &first.dtype,
            index: &first.index,
            values: first
                .bits
                .iter()
                .enumerate()
                .map(|(rank, bits)| JsonValue {
                    rank,
                    value: value(&first.dtype, bits).unwrap_or_else(|| bits.clone()),
                    bits,
                })
                .collect(),
            odd_ranks: first.odd_ranks(),
        };
        Self {
            version: diff.version,
            run,
            step: diff.step,
            world_size: diff.world_size,
            agree: diff.agrees(),
            tensors: diff.tensors,
            differing: &diff.differing,
            first: diff.first.iter().map(first).collect(),
            mismatched: diff.mismatched,
            mismatches: &diff.mismatches,
            skipped: diff.skipped,
            sharded: diff.is_sharded,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snap::assert_text;

    fn difference(category: Category, name: &str, dtype: &str, index: &[i64], bits: &[u128]) -> Difference {
        let bits = bits.iter().map(|bits| format!("0x{bits:08x}")).collect();
        Difference { category, name: name.into(), dtype: dtype.into(), index: index.into(), bits }
    }

    fn of(world_size: usize, first: Vec<Difference>) -> RankDiff {
        let differing = first.iter().map(|first| (first.category, 1)).collect();
        RankDiff { version: 1, step: 412, world_size, tensors: 148, differing, first, ..RankDiff::default() }
    }

    fn floats(values: &[f32]) -> Vec<u128> {
        values.iter().map(|value| value.to_bits().into()).collect()
    }

    #[test]
    fn comparisons_of_ranks_match_their_snapshot() {
        let weight =
            |values: &[f32]| difference(Category::Parameter, "h.3.mlp.weight", "Float", &[17, 204], &floats(values));
        let gradient = difference(Category::Gradient, "h.3.mlp.weight", "Float", &[0, 0], &floats(&[1.0, 2.0]));
        let mean = difference(Category::Buffer, "bn.running_mean", "Float", &[0], &floats(&[0.1, 0.2]));
        let scale = difference(Category::OptimizerState, "scale.step", "Int64", &[], &[4, 5]);
        let mut many = [0.5_f32; 20];
        many[7] = f32::INFINITY;
        let mismatch = |rank, form: Option<&str>| Mismatch {
            category: Category::Gradient,
            name: "head.bias".into(),
            rank,
            form: form.map(str::to_owned),
            form_on_rank0: Some("[10] Float".into()),
        };
        let mut gone = of(4, vec![]);
        (gone.mismatched, gone.mismatches) = (9, vec![mismatch(1, None), mismatch(2, Some("[10] Half"))]);
        let noted = RankDiff { skipped: 2, is_sharded: true, ..of(2, vec![]) };
        let texts: Vec<_> = [
            of(4, vec![]),
            of(2, vec![weight(&[0.4127, 0.4128]), gradient.clone()]),
            of(4, vec![weight(&[0.4127, 0.4127, 0.4128, 0.4127])]),
            of(2, vec![mean.clone(), gradient]),
            of(2, vec![mean]),
            of(2, vec![scale]),
            of(20, vec![weight(&many)]),
            gone,
            noted,
        ]
        .iter()
        .map(|diff| lines(diff).join("\n"))
        .collect();
        assert_text!("rank_diff", texts.join("\n\n"));
    }

    #[test]
    fn values_of_different_bits_have_different_texts() {
        let texts = |dtype: &str, bits: &[u128]| texts(&difference(Category::Parameter, "w", dtype, &[0], bits));
        assert_eq!(texts("Float", &floats(&[0.1, 0.1_f32.next_up()])), ["0.1", "0.10000001"]);
        assert_eq!(texts("Float", &floats(&[0.0, -0.0])), ["0.0", "-0.0"]);
        assert_eq!(texts("Float", &floats(&[f32::NAN, 1e30])), ["NaN", "1e30"]);
        let payloads = texts("Float", &[0x7fc0_0000, 0x7fc0_0001, 0x3f80_0000]);
        assert_eq!(payloads, ["NaN (0x7fc00000)", "NaN (0x7fc00001)", "1.0 (0x3f800000)"]);
        assert_eq!(texts("BFloat16", &[0x3f80, 0x3f81]), ["1.0", "1.0078125"]);
        assert_eq!(texts("Half", &[0x3c00, 0x3c01]), ["1.0", "1.0009766"]);
        assert_eq!(texts("Double", &[0.1_f64.to_bits().into()]), ["0.1"]);
        assert_eq!(texts("Int8", &[0xff, 1]), ["-1", "1"]);
        assert_eq!(texts("Bool", &[0, 1, 2]), ["false", "true", "0x00000002"]);
        let complex = |re: f32, im: f32| u128::from(im.to_bits()) << 32 | u128::from(re.to_bits());
        assert_eq!(texts("ComplexFloat", &[complex(1.0, -2.0), complex(0.0, 0.5)]), ["1.0-2.0i", "0.0+0.5i"]);
        assert_eq!(texts("Float8e4m3fn", &[0x38]), ["0x00000038"]);
    }

    #[test]
    fn json_of_a_comparison_matches_its_snapshot() {
        let weight = difference(Category::Parameter, "w", "Float", &[1], &floats(&[0.5, f32::NAN, 0.5]));
        let text = serde_json::to_string_pretty(&JsonDiff::new("run-1-4711", &of(3, vec![weight]))).unwrap();
        assert_text!("rank_diff_json", text);
    }
}
