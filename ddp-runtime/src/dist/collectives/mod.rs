//! What the ranks of a group do together, each operation in two forms: `op` waits, `op_async` returns a [`Work`].
//!
//! Every rank must call the same operations in the same order. Unless this is turned off for the group, the ranks first compare
//! what they call, so that a mistake is [`Error::CallsDiffer`] on every rank.

mod call;
pub(crate) mod point_to_point;
mod start;

use std::time::Duration;

use tch::Tensor;

use crate::error::check;
use crate::sys::convert::milliseconds;
use crate::{Error, ProcessGroup, ReduceOp, Result, Work, sys};

pub(crate) use call::form;
pub use point_to_point::P2pOp;

use start::Mode;

impl ProcessGroup {
    /// Joins the ranks' tensors by `op`; every rank's `tensor` becomes the result.
    ///
    /// `tensor`: any shape and numeric dtype, the same on all ranks, contiguous, on the CPU or (with NCCL) on this rank's
    /// GPU. Floating point sums may differ in the last bits between backends and numbers of ranks, never between ranks.
    ///
    /// # Errors
    /// [`Error::CallsDiffer`]; [`Error::Torch`] when a rank is gone or the backend does not know the op for this dtype;
    /// [`Error::Timeout`] when ranks do not join.
    pub fn all_reduce(&self, tensor: &mut Tensor, op: ReduceOp) -> Result<()> {
        self.start_all_reduce(tensor, op, Mode::Blocking)?.wait()
    }

    /// Starts [`all_reduce`](ProcessGroup::all_reduce).
    ///
    /// # Errors
    /// As there, here or from [`Work::wait`].
    pub fn all_reduce_async(&self, tensor: &mut Tensor, op: ReduceOp) -> Result<Work> {
        self.start_all_reduce(tensor, op, Mode::Async)
    }

    /// As [`all_reduce`](ProcessGroup::all_reduce), with the result on rank `dst` only; what the others' tensors hold
    /// afterwards is unspecified.
    ///
    /// # Errors
    /// [`Error::RankOutOfRange`]; else as there.
    pub fn reduce(&self, tensor: &mut Tensor, dst: usize, op: ReduceOp) -> Result<()> {
        self.start_reduce(tensor, dst, op, Mode::Blocking)?.wait()
    }

    /// Starts [`reduce`](ProcessGroup::reduce).
    ///
    /// # Errors
    /// As there, here or from [`Work::wait`].
    pub fn reduce_async(&self, tensor: &mut Tensor, dst: usize, op: ReduceOp) -> Result<Work> {
        self.start_reduce(tensor, dst, op, Mode::Async)
    }

    /// Makes every rank's `tensor` equal to that of rank `src`. Shape and dtype must be the same on all ranks.
    ///
    /// # Errors
    /// [`Error::RankOutOfRange`]; else as [`ProcessGroup::all_reduce`].
    pub fn broadcast(&self, tensor: &mut Tensor, src: usize) -> Result<()> {
        self.start_broadcast(tensor, src, Mode::Blocking)?.wait()
    }

    /// Starts [`broadcast`](ProcessGroup::broadcast).
    ///
    /// # Errors
    /// As there, here or from [`Work::wait`].
    pub fn broadcast_async(&self, tensor: &mut Tensor, src: usize) -> Result<Work> {
        self.start_broadcast(tensor, src, Mode::Async)
    }

    /// Every rank's tensor, in the order of ranks. Shape and dtype must be the same on all ranks.
    ///
    /// # Errors
    /// As [`ProcessGroup::all_reduce`].
    pub fn all_gather(&self, tensor: &Tensor) -> Result<Vec<Tensor>> {
        self.start_all_gather(tensor, Mode::Blocking)?.wait()
    }

    /// Starts [`all_gather`](ProcessGroup::all_gather).
    ///
    /// # Errors
    /// As there, here or from [`Work::wait`].
    pub fn all_gather_async(&self, tensor: &Tensor) -> Result<Work<Vec<Tensor>>> {
        self.start_all_gather(tensor, Mode::Async)
    }

    /// Every rank's tensor in one: `output` has the shape of `tensor` with its first dimension world_size times as long, or
    /// with world_size as a new first dimension; contiguous, and of the same dtype (`all_gather_into_tensor`).
    ///
    /// # Errors
    /// [`Error::Invalid`] when `output` has another size or is not contiguous; else as [`ProcessGroup::all_reduce`].
    pub fn all_gather_into(&self, output: &mut Tensor, tensor: &Tensor) -> Result<()> {
        self.start_all_gather_into(output, tensor, Mode::Blocking)?.wait()
    }

    /// Starts [`all_gather_into`](ProcessGroup::all_gather_into).
    ///
    /// # Errors
    /// As there, here or from [`Work::wait`].
    pub fn all_gather_into_async(&self, output: &mut Tensor, tensor: &Tensor) -> Result<Work> {
        self.start_all_gather_into(output, tensor, Mode::Async)
    }

    /// Every rank's tensor, in the order of ranks, on rank `dst`; `None` elsewhere.
    ///
    /// # Errors
    /// [`Error::RankOutOfRange`]; else as [`ProcessGroup::all_reduce`].
    pub fn gather(&self, tensor: &Tensor, dst: usize) -> Result<Option<Vec<Tensor>>> {
        self.start_gather(tensor, dst, Mode::Blocking)?.wait()
    }

    /// Starts [`gather`](ProcessGroup::gather).
    ///
    /// # Errors
    /// As there, here or from [`Work::wait`].
    pub fn gather_async(&self, tensor: &Tensor, dst: usize) -> Result<Work<Option<Vec<Tensor>>>> {
        self.start_gather(tensor, dst, Mode::Async)
    }

    /// Gives each rank its tensor of rank `src`'s list, in the order of ranks: `output` becomes it. `inputs` is looked at
    /// on rank `src` only, where it holds one tensor per rank, of `output`'s shape and dtype.
    ///
    /// # Errors
    /// [`Error::RankOutOfRange`]; [`Error::Invalid`] on rank `src` (and [`Error::CallsDiffer`] on the others) for a list
    /// that does not fit; else as [`ProcessGroup::all_reduce`].
    pub fn scatter(&self, output: &mut Tensor, inputs: &[Tensor], src: usize) -> Result<()> {
        self.start_scatter(output, inputs, src, Mode::Blocking)?.wait()
    }

    /// Starts [`scatter`](ProcessGroup::scatter).
    ///
    /// # Errors
    /// As there, here or from [`Work::wait`].
    pub fn scatter_async(&self, output: &mut Tensor, inputs: &[Tensor], src: usize) -> Result<Work> {
        self.start_scatter(output, inputs, src, Mode::Async)
    }

    /// Joins the ranks' lists by `op`, item by item, and gives rank N the N-th result in `output`. `inputs` holds one
    /// tensor per rank, all of `output`'s shape and dtype.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a list that does not fit; else as [`ProcessGroup::all_reduce`].
    pub fn reduce_scatter(&self, output: &mut Tensor, inputs: &[Tensor], op: ReduceOp) -> Result<()> {
        self.start_reduce_scatter(output, inputs, op, Mode::Blocking)?.wait()
    }

    /// Starts [`reduce_scatter`](ProcessGroup::reduce_scatter).
    ///
    /// # Errors
    /// As there, here or from [`Work::wait`].
    pub fn reduce_scatter_async(&self, output: &mut Tensor, inputs: &[Tensor], op: ReduceOp) -> Result<Work> {
        self.start_reduce_scatter(output, inputs, op, Mode::Async)
    }

    /// Sends the N-th tensor of `inputs` to rank N, and receives rank N's tensor for this rank as the N-th of the result.
    /// All tensors have one shape and dtype, the same on all ranks.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a list that does not fit; else as [`ProcessGroup::all_reduce`].
    pub fn all_to_all(&self, inputs: &[Tensor]) -> Result<Vec<Tensor>> {
        self.start_all_to_all(inputs, Mode::Blocking)?.wait()
    }

    /// Starts [`all_to_all`](ProcessGroup::all_to_all).
    ///
    /// # Errors
    /// As there, here or from [`Work::wait`].
    pub fn all_to_all_async(&self, inputs: &[Tensor]) -> Result<Work<Vec<Tensor>>> {
        self.start_all_to_all(inputs, Mode::Async)
    }

    /// Waits until every rank of the group has reached this call.
    ///
    /// # Errors
    /// As [`ProcessGroup::all_reduce`].
    pub fn barrier(&self) -> Result<()> {
        self.start_barrier(Mode::Blocking)?.wait()
    }

    /// Starts [`barrier`](ProcessGroup::barrier).
    ///
    /// # Errors
    /// As there, here or from [`Work::wait`].
    pub fn barrier_async(&self) -> Result<Work> {
        self.start_barrier(Mode::Async)
    }

    /// A barrier that ends on rank 0, after `timeout`, with an error that names every rank that did not arrive; the others
    /// end with an error too. It goes over Gloo.
    ///
    /// # Errors
    /// [`Error::Timeout`] or [`Error::Torch`], with PyTorch's words.
    pub fn monitored_barrier(&self, timeout: Duration) -> Result<()> {
        let group = self.as_ptr();
        // SAFETY: `group` is live.
        check("monitored_barrier", |error| unsafe {
            sys::ddp_monitored_barrier(group, milliseconds(timeout).max(1), error)
        })
    }

    pub(crate) fn check_rank(&self, rank: usize) -> Result<()> {
        let world_size = self.world_size();
        if rank < world_size { Ok(()) } else { Err(Error::RankOutOfRange { rank, world_size }) }
    }
}
