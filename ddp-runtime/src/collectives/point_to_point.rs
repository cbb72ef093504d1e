//! One rank to another.

use tch::{Device, Kind, Tensor};

use super::call::{SIZE, fixed, shape};
use super::contiguous;
use crate::store::to_i32;
use crate::{Error, ProcessGroup, Result, Work, sys};

/// The tag by which two ranks compare their calls: beyond those of messages.
const COMPARE: i32 = 1 << 16;
/// The tag of an optimizer's state on its way to rank 0.
pub(crate) const STATE: i32 = COMPARE + 1;

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

    pub(crate) fn start_send(&self, tensor: &Tensor, dst: usize, tag: i32) -> Result<Work> {
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
        let (group, tensor) = (self.as_ptr(), tensor.as_mut_ptr());
        // SAFETY: as in `start_send`.
        Work::start("recv", (), |work, error| unsafe { sys::ddp_recv(group, tensor, to_i32(src), tag, work, error) })
    }

    /// Has two ranks state what they do: the same error on both when the one does not go with the other.
    fn compare_with(&self, peer: usize, here: &'static str, there: &str, shape: &str) -> Result<()> {
        if !self.checks_collectives() {
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
        Err(Error::Invalid(format!("rank {rank} calls {here} of {shape}, and rank {peer} {theirs}")))
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
