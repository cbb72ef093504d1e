//! Settings of PowerSGD, and its state from step to step, which snapshots save.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tch::Tensor;

use super::mt19937::RandomState;

/// Settings of [`PowerSgd`](super::PowerSgd), with PyTorch's names and defaults (`PowerSGDState`).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PowerSgdOptions {
    /// The rank of the matrices that gradients are approximated by, at least 1. Higher ranks keep more and send more: 1.
    pub matrix_approximation_rank: i64,
    /// Before this step, gradients are averaged without compression: 1000. At least 2 with `use_error_feedback` or
    /// `warm_start`, as DDP rebuilds its buckets after the first step.
    pub start_iter: u64,
    /// A gradient is compressed only if that makes it smaller by more than this factor: 2.
    pub min_compression_rate: f64,
    /// Add what a step's compression lost to the next step's gradients. Costs a copy of the gradients on each rank: on.
    pub use_error_feedback: bool,
    /// Start from the matrices of the step before instead of random ones: on.
    pub warm_start: bool,
    /// Added to the norm of columns before they are divided by it: 0. A small value such as 1e-8 avoids NaN where gradients
    /// are all zero. Unused with a rank above 2, except in half precision.
    pub orthogonalization_epsilon: f64,
    /// The seed of the random matrices, the same on all ranks: 0.
    pub random_seed: u32,
    /// Compress gradients of the same shape in one operation. Costs copies of them: off.
    pub batch_tensors_with_same_shape: bool,
}

impl Default for PowerSgdOptions {
    fn default() -> Self {
        Self {
            matrix_approximation_rank: 1,
            start_iter: 1000,
            min_compression_rate: 2.0,
            use_error_feedback: true,
            warm_start: true,
            orthogonalization_epsilon: 0.0,
            random_seed: 0,
            batch_tensors_with_same_shape: false,
        }
    }
}

/// What [`PowerSgd`](super::PowerSgd) has saved so far, in elements.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Compression {
    /// Elements of the gradients since compression started.
    pub before: u64,
    /// Elements that each rank sent in their place.
    pub after: u64,
}

/// The settings, and what changes from step to step. All clones of a hook share it.
pub(super) struct Shared {
    pub(super) options: PowerSgdOptions,
    state: Mutex<State>,
}

impl Shared {
    pub(super) fn new(options: PowerSgdOptions) -> Self {
        Self { options, state: Mutex::default() }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What changes from step to step, by bucket.
#[derive(Default)]
pub(super) struct State {
    pub(super) iter: u64,
    /// How many seeds were drawn.
    pub(super) draws: u64,
    random: Option<RandomState>,
    pub(super) buckets: BTreeMap<usize, Memory>,
    pub(super) compression: Compression,
}

#[derive(Default)]
pub(super) struct Memory {
    /// A hash of the names of the parameters, in their order.
    pub(super) layout: Option<i64>,
    pub(super) error: Option<Tensor>,
    pub(super) p: Option<Tensor>,
    pub(super) q: Option<Tensor>,
}

impl State {
    /// `maybe_increase_iter`
    pub(super) fn count(&mut self, is_last: bool) {
        self.iter += u64::from(is_last);
    }

    /// The next seed of random matrices.
    pub(super) fn seed(&mut self, random_seed: u32) -> u64 {
        let draws = self.draws;
        let random = self.random.get_or_insert_with(|| {
            let mut random = RandomState::new(random_seed);
            for _ in 0..draws {
                let _ = random.randint_billion(); // those before `load_state_dict`
            }
            random
        });
        self.draws += 1;
        random.randint_billion()
    }
}
