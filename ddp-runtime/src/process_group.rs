use std::ffi::CString;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::error::check;
use crate::overdue::Watch;
use crate::reducer::Reducers;
use crate::store::{Store, milliseconds, to_i32};
use crate::{Error, Result, comm_hook, sys};

/// The library that moves tensors between ranks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// Gloo: CPU tensors, over TCP.
    Gloo,
    /// NCCL for CUDA tensors, with Gloo beside it for CPU tensors.
    Nccl,
}

impl Backend {
    /// Whether this build can use the backend. NCCL is there when libtorch was built with CUDA.
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
/// Every rank must call the same operations in the same order. Each call returns when its result can be used: at once
/// on the CPU, in stream order on CUDA. A rank that is gone is an error on the others (at once with Gloo on one node,
/// after the group's time-out at the latest). Clones are handles of the same group; the last one to go destroys it.
#[derive(Clone, Debug)]
pub struct ProcessGroup {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// Goes before `raw` does.
    watch: Option<Watch>,
    raw: NonNull<sys::ddp_group>,
    store: Store,
    settings: Settings,
    rank: usize,
    world_size: usize,
    /// Groups that were made from this one: each has a number of its own, the same on all ranks.
    children: AtomicU64,
}

/// What a group hands on to the groups that are made from it.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub backend: Backend,
    pub timeout: Duration,
    /// The address that Gloo binds to; `None` leaves the choice to c10d.
    pub gloo_host: Option<String>,
    pub cuda_device: Option<usize>,
    /// Compare what the ranks call before each collective.
    pub check_collectives: bool,
    pub reducers: Reducers,
}

// SAFETY: c10d's process groups are used from several threads by PyTorch itself (autograd's and the watchdog's); the
// handle is immutable after construction.
unsafe impl Send for Inner {}
// SAFETY: as above; which thread's collective comes first is the caller's affair, and no memory is at stake.
unsafe impl Sync for Inner {}

impl ProcessGroup {
    pub(crate) fn new(store: Store, settings: Settings, rank: usize, world_size: usize) -> Result<Self> {
        let gloo_host = settings.gloo_host.as_deref().map(CString::new).transpose()?;
        let options = sys::ddp_group_options {
            backend: settings.backend as i32,
            rank: to_i32(rank),
            world_size: to_i32(world_size),
            timeout_ms: milliseconds(settings.timeout),
            gloo_host: gloo_host.as_ref().map_or(std::ptr::null(), |host| host.as_ptr()),
            cuda_device: settings.cuda_device.map_or(-1, to_i32),
        };
        let operation = match settings.backend {
            Backend::Gloo => "creating a Gloo process group",
            Backend::Nccl => "creating an NCCL process group",
        };
        let mut raw = std::ptr::null_mut();
        // SAFETY: the store, the options and the string in them live until the call returns; `raw` is written on success
        // only.
        check(operation, |error| unsafe { sys::ddp_group_new(store.as_ptr(), &options, &mut raw, error) })?;
        let raw = NonNull::new(raw).expect("a group that was made is not null");
        let children = AtomicU64::new(0);
        let watch = Watch::begin(raw, &settings, world_size);
        Ok(Self { inner: Arc::new(Inner { watch, raw, store, settings, rank, world_size, children }) })
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
            return Err(Error::Invalid(format!("rank {} is in the new group twice", ranks[twice])));
        }
        self.check_equal("new_group", &format!("new_group({ranks:?})"))?;
        let number = self.inner.children.fetch_add(1, Ordering::Relaxed);
        let Some(rank) = ranks.iter().position(|rank| *rank == self.rank()) else { return Ok(None) };
        let store = self.inner.store.prefixed(&format!("group-{number}"))?;
        Self::new(store, self.inner.settings.clone(), rank, ranks.len()).map(Some)
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

    pub(crate) fn checks_collectives(&self) -> bool {
        self.inner.settings.check_collectives && self.world_size() > 1 && !comm_hook::is_running()
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
        drop(self.watch.take());
        // After a panic the other ranks may be gone already, so nothing is waited for.
        let limit = if std::thread::panicking() { 0 } else { milliseconds(self.settings.timeout) };
        // SAFETY: `raw` came from `ddp_group_new`; only `drop` frees it. A reducer keeps its own reference.
        unsafe { sys::ddp_group_free(self.raw.as_ptr(), limit) }
    }
}
