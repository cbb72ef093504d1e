//! Plain Rust values between ranks.

use serde::Serialize;
use serde::de::DeserializeOwned;
use tch::{Device, Kind, Tensor};

use crate::dist::work::Work;
use crate::sys::convert::to_i32;
use crate::{Error, ProcessGroup, Result, sys};

impl ProcessGroup {
    /// Rank `src`'s value, on every rank (`torch.distributed.broadcast_object_list`). Only that rank's `value` is looked at.
    ///
    /// Values travel as MessagePack, over Gloo; nothing is executed on arrival.
    ///
    /// # Errors
    /// [`Error::RankOutOfRange`]; [`Error::Invalid`] for a value that serde can't write or read.
    pub fn broadcast_value<T: Serialize + DeserializeOwned>(&self, value: &T, src: usize) -> Result<T> {
        let bytes = if self.rank() == src { encode(value)? } else { Vec::new() };
        decode(&self.broadcast_bytes(&bytes, src)?)
    }

    /// Every rank's value, in the order of ranks, on every rank (`torch.distributed.all_gather_object`).
    ///
    /// # Errors
    /// As [`ProcessGroup::broadcast_value`].
    pub fn all_gather_value<T: Serialize + DeserializeOwned>(&self, value: &T) -> Result<Vec<T>> {
        self.all_gather_bytes(&encode(value)?)?.iter().map(|bytes| decode(bytes)).collect()
    }

    /// Every rank's value, in the order of ranks, on rank `dst`; `None` elsewhere (`torch.distributed.gather_object`).
    ///
    /// # Errors
    /// As [`ProcessGroup::broadcast_value`].
    pub fn gather_value<T: Serialize + DeserializeOwned>(&self, value: &T, dst: usize) -> Result<Option<Vec<T>>> {
        self.check_rank(dst)?;
        let all = self.all_gather_bytes(&encode(value)?)?;
        if self.rank() != dst {
            return Ok(None);
        }
        all.iter().map(|bytes| decode(bytes)).collect::<Result<_>>().map(Some)
    }

    /// Every rank's bytes, in the order of ranks; lengths may differ.
    pub(crate) fn all_gather_bytes(&self, bytes: &[u8]) -> Result<Vec<Vec<u8>>> {
        let lengths = self.gather_raw("exchanging values", &Tensor::from_slice(&[to_i64(bytes.len())]))?;
        let lengths: Vec<usize> = lengths.iter().map(|n| n.int64_value(&[0]).unsigned_abs() as usize).collect();
        let longest = lengths.iter().copied().max().unwrap_or(0);
        if longest == 0 {
            return Ok(vec![Vec::new(); lengths.len()]);
        }
        let mut padded = bytes.to_vec();
        padded.resize(longest, 0);
        let gathered = self.gather_raw("exchanging values", &Tensor::from_slice(&padded))?;
        Ok(gathered.iter().zip(lengths).map(|(tensor, length)| to_bytes(tensor, length)).collect())
    }

    /// Rank `src`'s bytes, on every rank.
    pub(crate) fn broadcast_bytes(&self, bytes: &[u8], src: usize) -> Result<Vec<u8>> {
        self.check_rank(src)?;
        let mut length = Tensor::from_slice(&[to_i64(bytes.len())]);
        self.broadcast_raw(&mut length, src)?;
        let length = length.int64_value(&[0]).unsigned_abs() as usize;
        if length == 0 {
            return Ok(Vec::new());
        }
        let mut tensor = if self.rank() == src {
            Tensor::from_slice(bytes)
        } else {
            Tensor::zeros([to_i64(length)], (Kind::Uint8, Device::Cpu))
        };
        self.broadcast_raw(&mut tensor, src)?;
        Ok(to_bytes(&tensor, length))
    }

    /// An all_gather of CPU tensors of one size, without comparing calls first.
    pub(crate) fn gather_raw(&self, operation: &'static str, input: &Tensor) -> Result<Vec<Tensor>> {
        let outputs: Vec<Tensor> = (0..self.world_size()).map(|_| input.empty_like()).collect();
        let pointers: Vec<_> = outputs.iter().map(|output| output.as_ptr().cast_mut()).collect();
        let (group, input) = (self.as_ptr(), input.as_ptr().cast_mut());
        // SAFETY: `pointers` holds world_size live tensors like `input`, all of which outlive the call.
        Work::start(operation, (), |work, error| unsafe {
            sys::ddp_all_gather(group, pointers.as_ptr(), input, false, work, error)
        })?
        .wait()?;
        Ok(outputs)
    }

    /// The largest of the ranks' numbers, each by itself; without comparing calls first.
    pub(crate) fn largest<const N: usize>(&self, operation: &'static str, numbers: [i64; N]) -> Result<[i64; N]> {
        let mut out = [0; N];
        out.copy_from_slice(&self.largest_of(operation, numbers.to_vec())?);
        Ok(out)
    }

    /// As [`largest`](Self::largest), for any number of numbers, the same on all ranks.
    pub(crate) fn largest_of(&self, operation: &'static str, mut numbers: Vec<i64>) -> Result<Vec<i64>> {
        const MAX: i32 = crate::ReduceOp::Max as i32;
        if self.world_size() == 1 || numbers.is_empty() {
            return Ok(numbers);
        }
        let mut tensor = Tensor::from_slice(&numbers);
        let (group, raw) = (self.as_ptr(), tensor.as_mut_ptr());
        // SAFETY: both are live until the work is done.
        Work::start(operation, (), |work, error| unsafe { sys::ddp_all_reduce(group, raw, MAX, false, work, error) })?
            .wait()?;
        let count = numbers.len();
        tensor.f_copy_data(&mut numbers, count).map_err(Error::tch(operation))?;
        Ok(numbers)
    }

    fn broadcast_raw(&self, tensor: &mut Tensor, src: usize) -> Result<()> {
        let (group, tensor) = (self.as_ptr(), tensor.as_mut_ptr());
        // SAFETY: `group` and `tensor` are live for the call.
        Work::start("exchanging values", (), |work, error| unsafe {
            sys::ddp_broadcast(group, tensor, to_i32(src), false, work, error)
        })?
        .wait()
    }
}

fn encode(value: &impl Serialize) -> Result<Vec<u8>> {
    rmp_serde::to_vec_named(value).map_err(|err| Error::Invalid(format!("can't send a value: {err}")))
}

fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T> {
    rmp_serde::from_slice(bytes).map_err(|err| Error::Invalid(format!("can't receive a value: {err}")))
}

fn to_bytes(tensor: &Tensor, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    tensor.copy_data_u8(&mut bytes, length);
    bytes
}

fn to_i64(n: usize) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}
