//! One rank to another.

use tch::{Device, Kind, Tensor};

use super::call::{SIZE, fixed, shape};
use super::start::contiguous;
use crate::sys::convert::to_i32;
use crate::{Backend, Error, ProcessGroup, Result, Work, sys};

/// The tag by which two ranks compare their calls: beyond those of messages.
const COMPARE: i32 = 1 << 16;
/// The tag of an optimizer's state on its way to rank 0.
pub(crate) const STATE: i32 = COMPARE + 1;

/// A message of [`ProcessGroup::batch_send_recv`] (`torch.distributed.P2POp`).
#[derive(Debug)]
pub enum P2pOp<'a> {
    /// Sends a tensor.
    Send {
        /// Which tensor.
        tensor: &'a Tensor,
        /// The rank that receives it.
        dst: usize,
    },
    /// Receives into a tensor.
    Recv {
        /// Which tensor: contiguous, of the shape and dtype that the other rank sends.
        tensor: &'a mut Tensor,
        /// The rank that sends it.
        src: usize,
    },
}

impl ProcessGroup {
    /// Sends `tensor` to rank `dst`, which must [`recv`](ProcessGroup::recv) a tensor of this shape and dtype.
    ///
    /// # Errors
    /// [`Error::RankOutOfRange`]; [`Error::Invalid`] for this rank itself and, on both ranks, when the other one receives
    /// something else or sends, too; [`Error::Torch`] and [`Error::Timeout`].
    pub fn send(&self, tensor: &Tensor, dst: usize) -> Result<()> {
        self.check_peer(dst)?;
        self.compare_with(dst, "send", "recv", &shape(tensor))?;
        self.send_async(tensor, dst, 0)?.wait()
    }

    /// Starts [`send`](ProcessGroup::send), without comparing it with what the other rank does: a size that is another
    /// there is undefined, as in PyTorch. Messages between two ranks are matched by `tag` (Gloo; NCCL keeps their order
    /// and ignores it).
    ///
    /// # Errors
    /// As there, here or from [`Work::wait`].
    pub fn send_async(&self, tensor: &Tensor, dst: usize, tag: u16) -> Result<Work> {
        self.check_peer(dst)?;
        self.start_send(&contiguous(tensor)?, dst, tag.into())
    }

    /// Gloo takes the address of the numbers as one of the CPU's memory, without a check.
    fn check_sendable(&self, tensor: &Tensor) -> Result<()> {
        if self.backend() == Backend::Gloo && tensor.device().is_cuda() {
            let problem = "Gloo can't send or receive a tensor on a GPU: use NCCL or a tensor on the CPU";
            return Err(Error::Invalid(problem.into()));
        }
        Ok(())
    }

    pub(crate) fn start_send(&self, tensor: &Tensor, dst: usize, tag: i32) -> Result<Work> {
        self.check_sendable(tensor)?;
        let (group, tensor) = (self.as_ptr(), tensor.as_ptr().cast_mut());
        // SAFETY: `group` and `tensor` are live for the call, and the work keeps its own reference to the tensor.
        Work::start("send", (), |work, error| unsafe { sys::ddp_send(group, tensor, to_i32(dst), tag, work, error) })
    }

    /// Receives into `tensor` what rank `src` sends.
    ///
    /// # Errors
    /// As [`send`](ProcessGroup::send).
    pub fn recv(&self, tensor: &mut Tensor, src: usize) -> Result<()> {
        self.check_peer(src)?;
        self.compare_with(src, "recv", "send", &shape(tensor))?;
        self.recv_async(tensor, src, 0)?.wait()
    }

    /// Starts [`recv`](ProcessGroup::recv).
    ///
    /// # Errors
    /// As there, here or from [`Work::wait`].
    pub fn recv_async(&self, tensor: &mut Tensor, src: usize, tag: u16) -> Result<Work> {
        self.check_peer(src)?;
        self.start_recv(tensor, src, tag.into())
    }

    pub(crate) fn start_recv(&self, tensor: &mut Tensor, src: usize, tag: i32) -> Result<Work> {
        self.check_sendable(tensor)?;
        let (group, tensor) = (self.as_ptr(), tensor.as_mut_ptr());
        // SAFETY: as in `start_send`.
        Work::start("recv", (), |work, error| unsafe { sys::ddp_recv(group, tensor, to_i32(src), tag, work, error) })
    }

    /// Sends and receives several tensors at the same time, such as the borders that neighbors exchange. Two ranks that both
    /// [`send_async`](ProcessGroup::send_async) first and [`recv_async`](ProcessGroup::recv_async) then wait for each other
    /// forever on NCCL, which runs one operation after the other; here, they do not (`torch.distributed.batch_isend_irecv`).
    ///
    /// Messages from one rank to another are matched in order, and are not compared. All tensors must be on one device.
    ///
    /// ```
    /// use ddp_runtime::P2pOp;
    /// use tch::Tensor;
    ///
    /// # fn main() -> ddp_runtime::Result<()> {
    /// let context = ddp_runtime::Context::init()?;
    /// let (rank, ranks) = (context.rank(), context.world_size());
    /// if ranks > 1 {
    ///     // Around a ring:
    ///     let mine = Tensor::full([3], rank as i64, (tch::Kind::Int64, context.device()));
    ///     let mut left = mine.zeros_like();
    ///     let send = P2pOp::Send { tensor: &mine, dst: (rank + 1) % ranks };
    ///     let recv = P2pOp::Recv { tensor: &mut left, src: (rank + ranks - 1) % ranks };
    ///     context.group().batch_send_recv(&mut [send, recv])?;
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::RankOutOfRange`]; [`Error::Invalid`] for this rank itself, and for a tensor to receive into that is not
    /// contiguous; [`Error::Torch`] and [`Error::Timeout`].
    pub fn batch_send_recv(&self, ops: &mut [P2pOp<'_>]) -> Result<()> {
        let mut kept = Vec::with_capacity(ops.len());
        for op in ops {
            let (tensor, peer, is_send) = match op {
                P2pOp::Send { tensor, dst } => (contiguous(tensor)?, *dst, true),
                P2pOp::Recv { tensor, src } if tensor.is_contiguous() => (tensor.shallow_clone(), *src, false),
                P2pOp::Recv { tensor, .. } => {
                    let shape = shape(tensor);
                    return Err(Error::Invalid(format!(
                        "batch_send_recv: can't receive into {shape}, which is not contiguous"
                    )));
                }
            };
            self.check_peer(peer)?;
            self.check_sendable(&tensor)?;
            kept.push((tensor, peer, is_send));
        }
        if kept.is_empty() {
            return Ok(());
        }
        let raw: Vec<_> = kept
            .iter()
            .map(|(tensor, peer, is_send)| sys::ddp_p2p_op {
                tensor: tensor.as_ptr().cast_mut(),
                peer: to_i32(*peer),
                is_send: *is_send,
            })
            .collect();
        let group = self.as_ptr();
        // SAFETY: `group` and the tensors in `raw` are live for the call; the work keeps its own references to them.
        Work::start("batch_send_recv", (), |work, error| unsafe {
            sys::ddp_batch_send_recv(group, raw.as_ptr(), raw.len(), work, error)
        })?
        .wait()
    }

    /// Has two ranks state what they do: the same error on both when the one does not go with the other.
    fn compare_with(&self, peer: usize, here: &'static str, there: &str, shape: &str) -> Result<()> {
        if !self.compares_next_message(peer) {
            return Ok(());
        }
        let mine = Tensor::from_slice(&fixed(&format!("{here} of {shape}")));
        let mut theirs = Tensor::zeros([SIZE as i64], (Kind::Uint8, Device::Cpu));
        let sent = self.start_send(&mine, peer, COMPARE)?;
        let received = self.start_recv(&mut theirs, peer, COMPARE)?;
        received.wait()?;
        sent.wait()?;
        let mut bytes = [0; SIZE];
        theirs.copy_data_u8(&mut bytes, SIZE);
        if bytes == fixed(&format!("{there} of {shape}")) {
            return Ok(());
        }
        let theirs = String::from_utf8_lossy(&bytes).trim_end_matches('\0').to_owned();
        let rank = self.rank();
        Err(Error::Invalid(format!(
            "message mismatch: rank {rank} called {here} of {shape}, rank {peer} called {theirs}"
        )))
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
