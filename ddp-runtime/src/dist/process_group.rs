//! `Backend` and `ProcessGroup`: the ranks that a collective runs on. The collectives are in `collectives`.

use std::ffi::CString;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tracing::debug;

use crate::dist::overdue::Watch;
use crate::dist::reducer::Reducers;
use crate::dist::store::Store;
use crate::dist::{fnv, in_hook};
use crate::error::check;
use crate::sys::convert::{milliseconds, to_i32};
use crate::worker::deferred::Deferred;
use crate::worker::process::process;
use crate::worker::say::say;
use crate::{Error, Result, sys};

/// The library that moves tensors between ranks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Backend {
    /// Gloo: CPU tensors, over TCP.
    Gloo,
    /// NCCL for CUDA tensors, with Gloo next to it for CPU tensors.
    Nccl,
}

impl Backend {
    /// Whether this build can use the backend. NCCL is available when libtorch was built with CUDA.
    pub fn is_built(self) -> bool {
        match self {
            Self::Gloo => true,
            // SAFETY: no arguments, no state.
            Self::Nccl => unsafe { sys::ddp_has_nccl() },
        }
    }
}

/// How [`ProcessGroup::all_reduce`] joins the ranks' tensors, element by element.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReduceOp {
    /// The sum.
    Sum = 0,
    /// The sum divided by the number of ranks (floating point dtypes).
    Avg = 1,
    /// The product.
    Product = 2,
    /// The smallest.
    Min = 3,
    /// The largest.
    Max = 4,
    /// Bitwise and, of integers (Gloo only).
    BitAnd = 5,
    /// Bitwise or, of integers (Gloo only).
    BitOr = 6,
    /// Bitwise exclusive or, of integers (Gloo only).
    BitXor = 7,
}

/// Ranks that exchange tensors: c10d's `ProcessGroup` with `ProcessGroupGloo` and, on CUDA, `ProcessGroupNCCL`.
///
/// Every rank must call the same operations in the same order. Each call returns when its result can be used: immediately
/// on the CPU, in stream order on CUDA. A rank that is gone is an error on the others (immediately with Gloo on one node,
/// after the group's time-out at the latest). Clones are handles of the same group. When the last one is dropped, the
/// group is closed as by `destroy_process_group`: operations in flight end first. (In [`main`](crate::main) that happens at
/// the next step that is reported, at the next new group, or at the end; after an error or a panic it does not happen at
/// all, so that the other ranks see the process end, not its groups.)
#[derive(Clone, Debug)]
pub struct ProcessGroup {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    raw: NonNull<sys::ddp_group>,
    /// The owner of `raw`; `None` in `drop` only.
    open: Option<Open>,
    store: Store,
    settings: Settings,
    identity: Identity,
    rank: usize,
    world_size: usize,
    /// Groups that were made from this one: each has its own number, the same on all ranks.
    children: AtomicU64,
    /// Collectives so far, and messages to or from each rank.
    calls: AtomicU64,
    messages: Vec<AtomicU64>,
}

/// What a group hands on to the groups that are made from it.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub backend: Backend,
    pub timeout: Duration,
    /// The address that Gloo binds to; `None` leaves the choice to c10d.
    pub gloo_host: Option<String>,
    pub cuda_device: Option<usize>,
    /// NCCL's kernels run on a stream of high priority.
    pub high_priority_stream: bool,
    /// NCCL connects the ranks when a group is made.
    pub eager_init: bool,
    /// Compare what the ranks call before each of the first N collectives.
    pub compared_calls: u64,
    pub reducers: Reducers,
}

// SAFETY: c10d's process groups are used from several threads by PyTorch itself (autograd's and the watchdog's); the
// handle is immutable after construction.
unsafe impl Send for Inner {}
// SAFETY: as above; operations start under a lock (csrc/group.hpp), and c10d's works and stores have their own. Which
// thread's operation comes first is the caller's affair, and no memory is at stake.
unsafe impl Sync for Inner {}

/// What a group is called in traces.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    name: String,
    description: &'static str,
    /// The ranks in the job.
    global_ranks: Vec<u64>,
}

impl Identity {
    /// Of the group of all ranks, with the names that PyTorch gives it.
    pub(crate) fn of_world(world_size: usize) -> Self {
        Self { name: "0".into(), description: "default_pg", global_ranks: (0..world_size as u64).collect() }
    }

    /// `_process_group_color`: a number that only groups of the same ranks share.
    fn color(&self) -> i32 {
        let hash = fnv::hash(self.global_ranks.iter().flat_map(|rank| rank.to_le_bytes()));
        (hash >> 33) as i32
    }
}

/// A c10d group that must be closed. Where a run fails, its groups must neither wait for the other ranks nor abort what these
/// still do: then it leaks.
#[derive(Debug)]
struct Open {
    raw: NonNull<sys::ddp_group>,
    watch: Option<Watch>,
    timeout: Duration,
}

// SAFETY: as for `Inner`.
unsafe impl Send for Open {}

impl Deferred for Open {
    /// Waits for operations in flight, at most for the group's timeout, and then closes the group.
    fn finish(mut self: Box<Self>) {
        drop(self.watch.take());
        let (raw, limit) = (self.raw.as_ptr(), milliseconds(self.timeout));
        // SAFETY: `raw` came from `ddp_group_new`, and is freed below only.
        let closed = check("closing a process group", |error| unsafe { sys::ddp_group_shutdown(raw, limit, error) });
        if let Err(err) = closed {
            say(format_args!("warning: {err}; aborting its operations"));
            // SAFETY: as above.
            unsafe { sys::ddp_group_abort(raw) }
        }
        // SAFETY: as above; `self` is gone afterwards. A reducer keeps its own reference.
        unsafe { sys::ddp_group_free(raw) }
    }
}

impl ProcessGroup {
    pub(crate) fn new(
        store: Store,
        settings: Settings,
        identity: Identity,
        rank: usize,
        world_size: usize,
        split_from: Option<&Self>,
    ) -> Result<Self> {
        let gloo_host = settings.gloo_host.as_deref().map(CString::new).transpose()?;
        let [name, description] = [identity.name.as_str(), identity.description].map(CString::new);
        let (name, description) = (name?, description?);
        let options = sys::ddp_group_options {
            backend: settings.backend as i32,
            rank: to_i32(rank),
            world_size: to_i32(world_size),
            timeout_ms: milliseconds(settings.timeout),
            gloo_host: gloo_host.as_ref().map_or(std::ptr::null(), |host| host.as_ptr()),
            cuda_device: settings.cuda_device.map_or(-1, to_i32),
            high_priority_stream: settings.high_priority_stream,
            eager_init: settings.eager_init,
            split_from: split_from.map_or(std::ptr::null(), |parent| parent.as_ptr().cast_const()),
            split_color: identity.color(),
            name: name.as_ptr(),
            description: description.as_ptr(),
            global_ranks: identity.global_ranks.as_ptr(),
        };
        let operation = match settings.backend {
            Backend::Gloo => "creating a Gloo process group",
            Backend::Nccl => "creating an NCCL process group",
        };
        let mut raw = std::ptr::null_mut();
        // SAFETY: the store, the options and what they point to live until the call returns, and there are `world_size`
        // global ranks; `raw` is written on success only.
        check(operation, |error| unsafe { sys::ddp_group_new(store.as_ptr(), &options, &mut raw, error) })?;
        debug!(name = identity.name, backend = ?settings.backend, rank, world_size, "process group created");
        let raw = NonNull::new(raw).expect("a group that was made is not null");
        let is_watched = settings.backend == Backend::Nccl && world_size > 1;
        let watch = is_watched.then(|| Watch::begin(raw, settings.timeout)).flatten();
        let open = Some(Open { raw, watch, timeout: settings.timeout });
        let (children, calls) = (AtomicU64::new(0), AtomicU64::new(0));
        let messages = (0..world_size).map(|_| AtomicU64::new(0)).collect();
        let inner = Inner { raw, open, store, settings, identity, rank, world_size, children, calls, messages };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// A group of some of this group's ranks, numbered in the order of `ranks`; `None` on ranks that are not in it.
    ///
    /// Every rank of this group must call it, with the same list, in the same order among its calls.
    ///
    /// # Errors
    /// [`Error::RankOutOfRange`], [`Error::Invalid`] for a list that is empty or names a rank twice, and
    /// [`Error::CallsDiffer`] when the ranks' lists differ.
    pub fn new_group(&self, ranks: &[usize]) -> Result<Option<Self>> {
        let world_size = self.world_size();
        if let Some(&rank) = ranks.iter().find(|rank| **rank >= world_size) {
            return Err(Error::RankOutOfRange { rank, world_size });
        }
        if ranks.is_empty() {
            return Err(Error::Invalid("a group needs at least one rank".into()));
        }
        if let Some(twice) = (1..ranks.len()).find(|&i| ranks[..i].contains(&ranks[i])) {
            return Err(Error::Invalid(format!("rank {} is listed twice for the new group", ranks[twice])));
        }
        self.check_equal("new_group", &format!("new_group({ranks:?})"))?;
        self.child(ranks, self.backend(), "undefined")
    }

    /// A group of all ranks for the exchange of CPU tensors in the background. Every rank must call it.
    pub(crate) fn in_background(&self, description: &'static str) -> Result<Self> {
        let all: Vec<usize> = (0..self.world_size()).collect();
        Ok(self.child(&all, Backend::Gloo, description)?.expect("every rank is in it"))
    }

    fn child(&self, ranks: &[usize], backend: Backend, description: &'static str) -> Result<Option<Self>> {
        process().deferred.finish();
        // torch/distributed/distributed_c10d.py, _new_process_group_helper.
        let splits = backend == Backend::Nccl && self.inner.settings.eager_init;
        let Inner { children, store, settings, identity, .. } = &*self.inner;
        let number = children.fetch_add(1, Ordering::Relaxed);
        let Some(rank) = ranks.iter().position(|rank| *rank == self.rank()) else {
            if splits {
                // SAFETY: the group is live.
                check("splitting a process group", |error| unsafe { sys::ddp_group_split_none(self.as_ptr(), error) })?;
            }
            return Ok(None);
        };
        let store = store.prefixed(&format!("group-{number}"))?;
        let global_ranks = ranks.iter().map(|&rank| identity.global_ranks[rank]).collect();
        let identity = Identity { name: format!("{}.{number}", identity.name), description, global_ranks };
        let settings = Settings { backend, eager_init: splits, ..settings.clone() };
        Self::new(store, settings, identity, rank, ranks.len(), splits.then_some(self)).map(Some)
    }

    /// This process' number in the group, from 0.
    pub fn rank(&self) -> usize {
        self.inner.rank
    }

    /// Number of ranks in the group.
    pub fn world_size(&self) -> usize {
        self.inner.world_size
    }

    /// The backend for tensors on the training device.
    pub fn backend(&self) -> Backend {
        self.inner.settings.backend
    }

    /// Ends in the same way on every rank: with each one's value, or with the first failing rank's error.
    pub(crate) fn agree<T>(&self, operation: &'static str, outcome: Result<T>) -> Result<T> {
        let message = outcome.as_ref().err().map(ToString::to_string).unwrap_or_default();
        let messages = self.all_gather_bytes(message.as_bytes())?;
        match (outcome, messages.iter().position(|message| !message.is_empty())) {
            (Ok(_), Some(rank)) => {
                let message = String::from_utf8_lossy(&messages[rank]).into_owned();
                Err(Error::OnRank { operation, rank, message })
            }
            (outcome, _) => outcome,
        }
    }

    /// How long a collective waits for the other ranks.
    pub(crate) fn timeout(&self) -> Duration {
        self.inner.settings.timeout
    }

    /// Whether the ranks compare calls at all.
    pub(crate) fn compares(&self) -> bool {
        self.inner.settings.compared_calls > 0 && self.world_size() > 1 && !in_hook::is_running()
    }

    /// Whether the ranks compare the collective that starts now. They count alike.
    pub(crate) fn compares_next_call(&self) -> bool {
        self.compares() && self.counts(&self.inner.calls)
    }

    /// Whether this rank and `peer` compare the message between them that starts now.
    pub(crate) fn compares_next_message(&self, peer: usize) -> bool {
        self.compares() && self.counts(&self.inner.messages[peer])
    }

    fn counts(&self, calls: &AtomicU64) -> bool {
        calls.fetch_add(1, Ordering::Relaxed) < self.inner.settings.compared_calls
    }

    /// The reducers of this context's groups.
    pub(crate) fn reducers(&self) -> &Reducers {
        &self.inner.settings.reducers
    }

    pub(crate) fn as_ptr(&self) -> *mut sys::ddp_group {
        self.inner.raw.as_ptr()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Some(open) = self.open.take() {
            process().deferred.defer(open);
        }
    }
}
