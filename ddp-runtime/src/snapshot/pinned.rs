//! Page-locked memory for the copies that a snapshot is written from.

use tch::{Kind, TchError, Tensor};

use crate::Result;
use crate::cuda::side_stream::pinned_bytes;
use crate::error::Error;

/// Page-locked memory, cut from large pieces: libtorch rounds each request up to a power of two, and asking the system for
/// each tensor is slow.
#[derive(Debug, Default)]
pub(super) struct Pinned {
    /// The piece with the most room, of bytes.
    piece: Option<Tensor>,
    used: i64,
}

/// A power of two.
const PIECE_BYTES: i64 = 64 << 20;
/// Where tensors start.
const ALIGNMENT: i64 = 64;

impl Pinned {
    /// A contiguous tensor without content.
    pub(super) fn take(&mut self, size: &[i64], kind: Kind) -> Result<Tensor> {
        self.take_from(size, kind, pinned_bytes)
    }

    fn take_from(&mut self, size: &[i64], kind: Kind, allocate: impl Fn(i64) -> Result<Tensor>) -> Result<Tensor> {
        let bytes = size.iter().product::<i64>() * kind.elt_size_in_bytes() as i64;
        let view = |piece: &Tensor, start| -> std::result::Result<Tensor, TchError> {
            piece.f_narrow(0, start, bytes)?.f_view_dtype(kind)?.f_view(size)
        };
        let failed = Error::tch("allocating pinned memory");
        let end = self.used + bytes;
        match &self.piece {
            Some(piece) if end <= piece.numel() as i64 => {
                let start = self.used;
                self.used = (end + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
                view(piece, start.min(piece.numel() as i64)).map_err(failed)
            }
            piece => {
                // The rest of the power of two is of use, too.
                let capacity = bytes.max(PIECE_BYTES).cast_unsigned().next_power_of_two().cast_signed();
                let fresh = allocate(capacity)?;
                let tensor = view(&fresh, 0).map_err(failed)?;
                let room = piece.as_ref().map_or(0, |piece| piece.numel() as i64 - self.used);
                if capacity - bytes > room {
                    self.used = (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
                    self.piece = Some(fresh);
                }
                Ok(tensor)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;
    use tch::Device;

    /// Ordinary memory replaces pinned memory.
    #[test]
    fn pinned_memory_is_cut_from_few_pieces_without_overlap() {
        let asked = RefCell::new(Vec::new());
        let allocate = |bytes: i64| {
            asked.borrow_mut().push(bytes);
            Ok(Tensor::zeros([bytes], (Kind::Uint8, Device::Cpu)))
        };
        let mut pinned = Pinned::default();
        let mut take = |size: &[i64], kind| pinned.take_from(size, kind, allocate).unwrap();
        let mut tensors = [
            take(&[3], Kind::Uint8),
            take(&[2, 3], Kind::Double),
            take(&[], Kind::Float),
            take(&[0, 5], Kind::Half),
            take(&[(100 << 20) / 4], Kind::Float),
            take(&[20 << 20], Kind::Uint8),
            take(&[7], Kind::Int64),
        ];
        assert_eq!(*asked.borrow(), [64 << 20, 128 << 20], "the rest of a large piece does not go to waste");
        for (i, tensor) in tensors.iter_mut().enumerate() {
            assert!(tensor.is_contiguous() && tensor.data_ptr() as i64 % ALIGNMENT == 0);
            let _ = tensor.fill_(i as i64 + 1);
        }
        for (i, tensor) in tensors.iter().enumerate().filter(|(_, tensor)| tensor.numel() > 0) {
            let (least, most) = tensor.aminmax(None, false);
            assert_eq!((least.double_value(&[]), most.double_value(&[])), (i as f64 + 1.0, i as f64 + 1.0));
        }
        assert_eq!((tensors[1].size(), tensors[1].kind()), (vec![2, 3], Kind::Double));
    }
}
