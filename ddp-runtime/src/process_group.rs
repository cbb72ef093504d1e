use std::ffi::CString;
use std::ptr::NonNull;
use std::sync::Arc;
use std::time::Duration;

use tch::{Kind, Tensor};

use crate::error::check;
use crate::store::{Store, milliseconds, to_i32};
use crate::{Error, Result, sys};

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
    raw: NonNull<sys::ddp_group>,
    backend: Backend,
    rank: usize,
    world_size: usize,
}

// SAFETY: c10d's process groups are used from several threads by PyTorch itself (autograd's and the watchdog's); the
// handle is immutable after construction.
unsafe impl Send for Inner {}
// SAFETY: as above; which thread's collective comes first is the caller's affair, and no memory is at stake.
unsafe impl Sync for Inner {}

pub(crate) struct GroupOptions<'a> {
    pub backend: Backend,
    pub rank: usize,
    pub world_size: usize,
    pub timeout: Duration,
    /// The address that Gloo binds to; `None` leaves the choice to c10d.
    pub gloo_host: Option<&'a str>,
    pub cuda_device: Option<usize>,
}

impl ProcessGroup {
    pub(crate) fn new(store: &Store, options: &GroupOptions<'_>) -> Result<Self> {
        let gloo_host = options.gloo_host.map(CString::new).transpose()?;
        let raw_options = sys::ddp_group_options {
            backend: options.backend as i32,
            rank: to_i32(options.rank),
            world_size: to_i32(options.world_size),
            timeout_ms: milliseconds(options.timeout),
            gloo_host: gloo_host.as_ref().map_or(std::ptr::null(), |host| host.as_ptr()),
            cuda_device: options.cuda_device.map_or(-1, to_i32),
        };
        let operation = match options.backend {
            Backend::Gloo => "creating a Gloo process group",
            Backend::Nccl => "creating an NCCL process group",
        };
        let mut raw = std::ptr::null_mut();
        // SAFETY: the store, the options and the string in them live until the call returns; `raw` is written on success only.
        check(operation, |error| unsafe { sys::ddp_group_new(store.as_ptr(), &raw_options, &mut raw, error) })?;
        let raw = NonNull::new(raw).expect("a group that was made is not null");
        let &GroupOptions { backend, rank, world_size, .. } = options;
        Ok(Self { inner: Arc::new(Inner { raw, backend, rank, world_size }) })
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
        self.inner.backend
    }

    /// Joins the ranks' tensors by `op`; every rank's `tensor` becomes the result.
    ///
    /// `tensor`: any shape and numeric dtype, the same on all ranks, on the CPU or (with NCCL) on this rank's GPU.
    ///
    /// # Errors
    /// [`Error::Torch`] when a rank is gone or the dtype is not supported, [`Error::Timeout`] when ranks do not come.
    pub fn all_reduce(&self, tensor: &mut Tensor, op: ReduceOp) -> Result<()> {
        let group = self.as_ptr();
        // SAFETY: `group` and `tensor` are live for the call, which ends after the operation.
        check("all_reduce", |error| unsafe { sys::ddp_all_reduce(group, tensor.as_mut_ptr(), op as i32, error) })
    }

    /// Makes every rank's `tensor` equal to that of rank `src`. Shape and dtype must be the same on all ranks.
    ///
    /// # Errors
    /// [`Error::RankOutOfRange`]; else as [`ProcessGroup::all_reduce`].
    pub fn broadcast(&self, tensor: &mut Tensor, src: usize) -> Result<()> {
        let world_size = self.world_size();
        if src >= world_size {
            return Err(Error::RankOutOfRange { rank: src, world_size });
        }
        let group = self.as_ptr();
        // SAFETY: `group` and `tensor` are live for the call, which ends after the operation.
        check("broadcast", |error| unsafe { sys::ddp_broadcast(group, tensor.as_mut_ptr(), to_i32(src), error) })
    }

    /// Every rank's tensor, in the order of ranks. Shape and dtype must be the same on all ranks.
    ///
    /// # Errors
    /// As [`ProcessGroup::all_reduce`].
    pub fn all_gather(&self, tensor: &Tensor) -> Result<Vec<Tensor>> {
        let input = tensor.f_contiguous().map_err(Error::tch("all_gather"))?;
        let outputs: Vec<Tensor> = (0..self.world_size()).map(|_| input.empty_like()).collect();
        let pointers: Vec<_> = outputs.iter().map(|output| output.as_ptr().cast_mut()).collect();
        let group = self.as_ptr();
        let input = input.as_ptr().cast_mut();
        // SAFETY: `pointers` holds world_size live tensors like `input`, all of which outlive the call.
        check("all_gather", |error| unsafe { sys::ddp_all_gather(group, pointers.as_ptr(), input, error) })?;
        Ok(outputs)
    }

    /// Waits until every rank of the group has come here.
    ///
    /// # Errors
    /// As [`ProcessGroup::all_reduce`].
    pub fn barrier(&self) -> Result<()> {
        let group = self.as_ptr();
        // SAFETY: `group` is live.
        check("barrier", |error| unsafe { sys::ddp_barrier(group, error) })
    }

    /// Every rank's bytes, in the order of ranks; lengths may differ.
    pub(crate) fn all_gather_bytes(&self, bytes: &[u8]) -> Result<Vec<Vec<u8>>> {
        let lengths = self.all_gather(&Tensor::from_slice(&[to_i64(bytes.len())]))?;
        let lengths: Vec<usize> = lengths.iter().map(|n| n.int64_value(&[0]).unsigned_abs() as usize).collect();
        let longest = lengths.iter().copied().max().unwrap_or(0);
        if longest == 0 {
            return Ok(vec![Vec::new(); lengths.len()]);
        }
        let mut padded = bytes.to_vec();
        padded.resize(longest, 0);
        let gathered = self.all_gather(&Tensor::from_slice(&padded))?;
        Ok(gathered.iter().zip(lengths).map(|(tensor, length)| to_bytes(tensor, length)).collect())
    }

    /// Rank 0's bytes, on every rank.
    pub(crate) fn broadcast_bytes(&self, bytes: &[u8]) -> Result<Vec<u8>> {
        let mut length = Tensor::from_slice(&[to_i64(bytes.len())]);
        self.broadcast(&mut length, 0)?;
        let length = length.int64_value(&[0]).unsigned_abs() as usize;
        if length == 0 {
            return Ok(Vec::new());
        }
        let mut tensor = match self.rank() {
            0 => Tensor::from_slice(bytes),
            _ => Tensor::zeros([to_i64(length)], (Kind::Uint8, tch::Device::Cpu)),
        };
        self.broadcast(&mut tensor, 0)?;
        Ok(to_bytes(&tensor, length))
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

    pub(crate) fn as_ptr(&self) -> *mut sys::ddp_group {
        self.inner.raw.as_ptr()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // SAFETY: `raw` came from `ddp_group_new`; only `drop` frees it. A reducer keeps a reference of its own.
        unsafe { sys::ddp_group_free(self.raw.as_ptr()) }
    }
}

fn to_bytes(tensor: &Tensor, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    tensor.copy_data_u8(&mut bytes, length);
    bytes
}

fn to_i64(n: usize) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}
