//! One rank to another.

use tch::Tensor;

use super::contiguous;
use crate::store::to_i32;
use crate::{Error, ProcessGroup, Result, Work, sys};

impl ProcessGroup {
    /// Sends `tensor` to rank `dst`, which must [`recv`](ProcessGroup::recv) a tensor of this size and dtype.
    ///
    /// # Errors
    /// [`Error::RankOutOfRange`], [`Error::Invalid`] for this rank itself; [`Error::Torch`] and [`Error::Timeout`].
    pub fn send(&self, tensor: &Tensor, dst: usize) -> Result<()> {
        self.send_async(tensor, dst, 0)?.wait()
    }

    /// Starts [`send`](ProcessGroup::send). Messages between two ranks are matched by `tag` (Gloo; NCCL keeps their order
    /// and ignores it).
    ///
    /// # Errors
    /// As there, here or from [`Work::wait`].
    pub fn send_async(&self, tensor: &Tensor, dst: usize, tag: u16) -> Result<Work> {
        self.check_peer(dst)?;
        let tensor = contiguous(tensor)?;
        let (group, tensor) = (self.as_ptr(), tensor.as_ptr().cast_mut());
        // SAFETY: `group` and `tensor` are live for the call, and the work keeps its own reference to the tensor.
        Work::start("send", (), |work, error| unsafe {
            sys::ddp_send(group, tensor, to_i32(dst), i32::from(tag), work, error)
        })
    }

    /// Receives into `tensor` what rank `src` sends.
    ///
    /// # Errors
    /// As [`send`](ProcessGroup::send).
    pub fn recv(&self, tensor: &mut Tensor, src: usize) -> Result<()> {
        self.recv_async(tensor, src, 0)?.wait()
    }

    /// Starts [`recv`](ProcessGroup::recv).
    ///
    /// # Errors
    /// As there, here or from [`Work::wait`].
    pub fn recv_async(&self, tensor: &mut Tensor, src: usize, tag: u16) -> Result<Work> {
        self.check_peer(src)?;
        let (group, tensor) = (self.as_ptr(), tensor.as_mut_ptr());
        // SAFETY: as in `send_async`.
        Work::start("recv", (), |work, error| unsafe {
            sys::ddp_recv(group, tensor, to_i32(src), i32::from(tag), work, error)
        })
    }

    fn check_peer(&self, rank: usize) -> Result<()> {
        self.check_rank(rank)?;
        if rank == self.rank() {
            Err(Error::Invalid(format!("rank {rank} can't exchange messages with itself")))
        } else {
            Ok(())
        }
    }
}
