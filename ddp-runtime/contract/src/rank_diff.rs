//! Where the ranks' tensors differ: the question of `cargo ddp diff` and its answer.
//!
//! The first worker of each node listens on an abstract Unix socket ([`socket_name`]) as long as its program has a `Run`. A
//! connection is the request. When all ranks have done their next step and compared their tensors, the worker sends one JSON
//! object, a [`RankDiff`], and closes the connection.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The version of the answer.
pub const VERSION: u32 = 1;

/// The abstract socket on which a worker is asked. `pid_namespace` is the inode number of `/proc/self/ns/pid`, as containers
/// may share a network, `run` the name of the run, and `rank` the first rank of the node.
pub fn socket_name(pid_namespace: u64, run: &str, rank: usize) -> String {
    format!("cargo-ddp/{pid_namespace}/{run}/{rank}")
}

/// What a tensor is to the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Category {
    /// A parameter of the model, trained or frozen.
    Parameter,
    /// What is never trained, such as BatchNorm's statistics. Ranks may have different ones until the next forward pass.
    Buffer,
    /// The gradient of a parameter.
    Gradient,
    /// Part of the optimizer's state.
    OptimizerState,
}

/// A comparison of all ranks' tensors after a step.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RankDiff {
    /// [`VERSION`].
    #[serde(default)]
    pub version: u32,
    /// Optimizer steps done.
    pub step: u64,
    /// The number of ranks.
    pub world_size: usize,
    /// Tensors that were compared: those that all ranks have with the same shape and dtype.
    pub tensors: usize,
    /// How many of them differ.
    #[serde(default)]
    pub differing: BTreeMap<Category, usize>,
    /// The first difference in each category, in the order of categories.
    #[serde(default)]
    pub first: Vec<Difference>,
    /// Tensors that a rank lacks, or has with another shape or dtype than rank 0: the first ones of each rank.
    #[serde(default)]
    pub mismatches: Vec<Mismatch>,
    /// How many there are of these.
    #[serde(default)]
    pub mismatched: usize,
    /// Tensors that have no bytes to compare: sparse or quantized ones.
    #[serde(default)]
    pub skipped: usize,
    /// The optimizer's state is sharded across the ranks, so there is nothing to compare.
    #[serde(default)]
    pub is_sharded: bool,
    /// Why the ranks could not compare their tensors.
    #[serde(default)]
    pub error: Option<String>,
}

impl RankDiff {
    /// Whether the ranks agree on everything but buffers.
    pub fn agrees(&self) -> bool {
        let mut differing = self.differing.iter().filter(|(_, count)| **count > 0);
        self.mismatched == 0 && differing.all(|(category, _)| *category == Category::Buffer)
    }
}

/// An element that differs between ranks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    /// What the tensor is.
    pub category: Category,
    /// The name of the tensor, as in a snapshot; of a gradient, its parameter's.
    pub name: String,
    /// tch's name of the dtype, such as `Float`.
    pub dtype: String,
    /// Where the element is; empty for a tensor without dimensions.
    pub index: Vec<i64>,
    /// The element's bits on each rank, in the order of ranks, as a hexadecimal number with all its digits.
    pub bits: Vec<String>,
}

impl Difference {
    /// The ranks that differ from the majority; none if there is no majority.
    pub fn odd_ranks(&self) -> Vec<usize> {
        let count = |bits: &String| self.bits.iter().filter(|other| *other == bits).count();
        let Some(usual) = self.bits.iter().find(|bits| 2 * count(bits) > self.bits.len()) else { return vec![] };
        self.bits.iter().enumerate().filter(|(_, bits)| *bits != usual).map(|(rank, _)| rank).collect()
    }
}

/// A tensor that a rank lacks, or has with another shape or dtype than rank 0.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mismatch {
    /// What the tensor is.
    pub category: Category,
    /// The name of the tensor.
    pub name: String,
    /// The rank.
    pub rank: usize,
    /// Shape and dtype on this rank.
    pub form: Option<String>,
    /// Shape and dtype on rank 0.
    pub form_on_rank0: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn difference(bits: &[&str]) -> Difference {
        Difference {
            category: Category::Parameter,
            name: "w".into(),
            dtype: "Float".into(),
            index: vec![0],
            bits: bits.iter().map(|bits| (*bits).to_owned()).collect(),
        }
    }

    #[test]
    fn odd_ranks_are_those_that_differ_from_the_majority() {
        assert_eq!(difference(&["0", "0", "1"]).odd_ranks(), [2]);
        assert_eq!(difference(&["1", "0", "0", "0", "2"]).odd_ranks(), [0, 4]);
        for tie in [&["0", "1"][..], &["0", "0", "1", "1"], &["0", "1", "2"], &[]] {
            assert!(difference(tie).odd_ranks().is_empty(), "{tie:?}");
        }
    }

    #[test]
    fn answer_round_trips_and_more_fields_are_ignored() {
        let diff = RankDiff {
            version: VERSION,
            step: 412,
            world_size: 2,
            tensors: 148,
            differing: [(Category::OptimizerState, 1)].into(),
            first: vec![difference(&["0", "1"])],
            ..RankDiff::default()
        };
        let text = serde_json::to_string(&diff).expect("plain data");
        assert_eq!(serde_json::from_str::<RankDiff>(&text).expect("what was written can be read"), diff);
        assert!(text.contains(r#""differing":{"optimizer_state":1}"#), "{text}");
        let newer = r#"{"version": 9, "step": 1, "world_size": 2, "tensors": 3, "coffee": true}"#;
        assert!(serde_json::from_str::<RankDiff>(newer).expect("more is no error").agrees());
    }

    #[test]
    fn buffers_alone_are_no_disagreement() {
        let of = |category| RankDiff { differing: [(category, 1)].into(), ..RankDiff::default() };
        assert!(of(Category::Buffer).agrees() && !of(Category::Parameter).agrees());
        assert!(!RankDiff { mismatched: 1, ..RankDiff::default() }.agrees());
    }
}
