//! Options of `Ddp`.

const MIB: i64 = 1024 * 1024;

/// Settings of [`Ddp`](crate::Ddp), with PyTorch's defaults.
#[derive(Clone, Debug)]
pub struct DdpOptions {
    /// Gradients travel in buckets of at most this size, in bytes: 25 MiB.
    pub bucket_cap_bytes: i64,
    /// The first bucket is smaller, so that communication starts early, in bytes: 1 MiB.
    pub first_bucket_bytes: i64,
    /// Look for parameters that the loss does not depend on in each step; costs a walk of the graph: off.
    pub find_unused_parameters: bool,
    /// Gradients are views of the buckets instead of copies: on (off in Python's default).
    pub gradient_as_bucket_view: bool,
    /// The graph is the same in every step: unused parameters are found once, in the first: off.
    pub static_graph: bool,
    /// Make the buffers (BatchNorm's statistics) equal to rank 0's in [`Ddp::new`](crate::Ddp::new) and before each forward
    /// pass: on.
    pub broadcast_buffers: bool,
    /// How gradients travel: as they are. [`Ddp::register_comm_hook`](crate::Ddp::register_comm_hook) takes your own code.
    pub comm_hook: CommHook,
    /// Copy the gradients of a bucket with one call when the last of them is there, and divide the bucket by the number of
    /// ranks with one more, instead of a copy or a division per parameter: fewer kernels on a GPU, for the memory of a
    /// second set of one bucket's gradients. Unless the number of ranks is a power of two, it changes the last bits of
    /// gradients. Off. (`torch/nn/parallel/distributed.py`)
    pub batched_grad_copy: bool,
}

/// How gradients travel between ranks (`torch/distributed/algorithms/ddp_comm_hooks/default_hooks.py`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum CommHook {
    /// In their own dtype.
    #[default]
    None = 0,
    /// As `Half`, divided by the number of ranks before they are summed: half the bytes of `Float`.
    Fp16Compress = 1,
    /// As `BFloat16`, likewise: half the bytes, with `Float`'s range.
    Bf16Compress = 2,
}

/// What [`Ddp::join`](crate::Ddp::join) divides sums of gradients by, once ranks have run out of batches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum JoinDivisor {
    /// The number of ranks in the group: a batch of a rank counts as much as before
    /// (`divide_by_initial_world_size=True`).
    #[default]
    WorldSize,
    /// The number of ranks that still have batches.
    Active,
}

impl Default for DdpOptions {
    fn default() -> Self {
        Self {
            bucket_cap_bytes: 25 * MIB,
            first_bucket_bytes: MIB,
            find_unused_parameters: false,
            gradient_as_bucket_view: true,
            static_graph: false,
            broadcast_buffers: true,
            comm_hook: CommHook::None,
            batched_grad_copy: false,
        }
    }
}
