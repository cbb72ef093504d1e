//! A checksum of a tensor's bytes, computed where the tensor is.

use tch::{Kind, TchError, Tensor};

/// Bytes that are looked at together: on a GPU, the memory that is needed is a few times as large.
const CHUNK: i64 = 4 << 20;
/// Constants of splitmix64 (Steele, Lea and Flood, `10.1145/2660193.2660195`).
const GOLDEN: i64 = 0x9e37_79b9_7f4a_7c15_u64.cast_signed();
const FACTORS: [i64; 2] = [0xbf58_476d_1ce4_e5b9_u64.cast_signed(), 0x94d0_49bb_1331_11eb_u64.cast_signed()];
const SHIFTS: [i64; 3] = [30, 27, 31];

/// A tensor's elements in one dimension, in the order of its indices: a view, or a copy of one that is not contiguous.
pub(super) fn flat(tensor: &Tensor) -> Result<Tensor, TchError> {
    tensor.f_detach()?.f_resolve_conj()?.f_resolve_neg()?.f_reshape([-1])
}

/// A checksum of `len` elements from `start` on: the same for the same bytes, on every device. Each word is mixed with its
/// place, so that changes do not cancel each other, and the results are added, in any order.
pub(super) fn checksum(flat: &Tensor, start: i64, len: i64) -> Result<i64, TchError> {
    let _guard = tch::no_grad_guard();
    let (end, chunk) = (start + len, CHUNK / size_of(flat)?);
    let (mut sum, mut place): (Option<Tensor>, i64) = (None, 0);
    let mut at = start;
    while at < end {
        let count = chunk.min(end - at);
        let words = words(&flat.f_narrow(0, at, count)?)?;
        let length = words.size1()?;
        let mixed = mixed(&words, place)?;
        sum = Some(match sum {
            Some(mut sum) => sum.f_add_(&mixed)?,
            None => mixed,
        });
        (at, place) = (at + count, place + length);
    }
    sum.map_or(Ok(0), |sum| sum.f_int64_value(&[]))
}

/// The bytes of one element, as they are in memory.
pub(super) fn bytes_of(flat: &Tensor, index: i64) -> Result<Vec<u8>, TchError> {
    let words = as_kind(&flat.f_narrow(0, index, 1)?, Kind::Uint8, 1)?;
    let mut bytes = vec![0; words.size1()?.unsigned_abs() as usize];
    let length = bytes.len();
    words.f_copy_data_u8(&mut bytes, length)?;
    Ok(bytes)
}

/// The bytes of a contiguous tensor as integers, as wide as its length allows.
fn words(chunk: &Tensor) -> Result<Tensor, TchError> {
    let bytes = chunk.size1()? * size_of(chunk)?;
    let widths = [(8, Kind::Int64), (4, Kind::Int), (2, Kind::Int16)];
    let (width, kind) = widths.into_iter().find(|(width, _)| bytes % width == 0).unwrap_or((1, Kind::Uint8));
    as_kind(chunk, kind, width)
}

/// The same bytes as another dtype. A tensor that begins between two of its words, such as a view of DDP's bucket, is copied.
fn as_kind(tensor: &Tensor, kind: Kind, width: i64) -> Result<Tensor, TchError> {
    let is_aligned = tensor.f_storage_offset()? * size_of(tensor)? % width == 0;
    if is_aligned {
        return tensor.f_view_dtype(kind);
    }
    let mut copy = tensor.f_empty_like()?;
    copy.f_copy_(tensor)?;
    copy.f_view_dtype(kind)
}

/// The sum of all words, each with its place and mixed as in splitmix64. Integers wrap.
fn mixed(words: &Tensor, place: i64) -> Result<Tensor, TchError> {
    let length = words.size1()?;
    let mut z = Tensor::f_arange_start(place, place + length, (Kind::Int64, words.device()))?;
    z = z.f_mul_scalar_(GOLDEN)?.f_add_(words)?;
    for (shift, factor) in SHIFTS.into_iter().zip(FACTORS.map(Some).into_iter().chain([None])) {
        // The shift is one of signed numbers.
        let mut shifted = z.f_bitwise_right_shift_tensor_scalar(shift)?;
        z = z.f_bitwise_xor_tensor_(&shifted.f_bitwise_and_((1_i64 << (64 - shift)) - 1)?)?;
        if let Some(factor) = factor {
            z = z.f_mul_scalar_(factor)?;
        }
    }
    z.f_sum(Kind::Int64)
}

fn size_of(tensor: &Tensor) -> Result<i64, TchError> {
    Ok(tensor.f_kind()?.elt_size_in_bytes() as i64)
}

#[cfg(test)]
mod tests {
    use tch::Device;

    use super::*;

    const KINDS: [Kind; 12] = [
        Kind::Float,
        Kind::Double,
        Kind::Half,
        Kind::BFloat16,
        Kind::Int64,
        Kind::Int,
        Kind::Int16,
        Kind::Int8,
        Kind::Uint8,
        Kind::Bool,
        Kind::ComplexFloat,
        Kind::ComplexDouble,
    ];

    fn of(tensor: &Tensor) -> i64 {
        let flat = flat(tensor).unwrap();
        checksum(&flat, 0, flat.numel() as i64).unwrap()
    }

    /// `count` elements whose bytes are 0 or 1, which every dtype accepts.
    fn tensor(kind: Kind, count: i64) -> Tensor {
        let bytes = count * kind.elt_size_in_bytes() as i64;
        let bytes = Tensor::arange(bytes, (Kind::Int64, Device::Cpu)).fmod(2).to_kind(Kind::Uint8);
        bytes.view_dtype(kind)
    }

    #[test]
    fn checksum_changes_with_each_bit_of_each_dtype() {
        for kind in KINDS {
            for count in [1, 3, 8] {
                let original = tensor(kind, count);
                assert_eq!(of(&original), of(&original.copy()), "{kind:?}");
                let bytes = original.copy().view_dtype(Kind::Uint8);
                for place in [0, bytes.size()[0] - 1] {
                    for bit in 0..8 {
                        let flip = |byte: &mut Tensor| drop(byte.bitwise_xor_(1 << bit));
                        flip(&mut bytes.narrow(0, place, 1));
                        assert_ne!(of(&original), of(&bytes.view_dtype(kind)), "{kind:?} {count} {place} {bit}");
                        flip(&mut bytes.narrow(0, place, 1));
                    }
                }
                assert_eq!(of(&original), of(&bytes.view_dtype(kind)), "{kind:?}");
            }
        }
    }

    #[test]
    fn changes_of_several_words_do_not_cancel_each_other() {
        let zeros = Tensor::zeros([64], (Kind::Float, Device::Cpu));
        let negative = zeros.neg();
        assert_ne!(of(&zeros), of(&negative), "the sign alone");
        let (one, two) = (Tensor::from_slice(&[1.0_f64, 2.0]), Tensor::from_slice(&[2.0_f64, 1.0]));
        assert_ne!(of(&one), of(&two), "the order");
        assert_ne!(of(&Tensor::from_slice(&[0_i64])), of(&Tensor::from_slice(&[0_i64, 0])), "the length");
    }

    #[test]
    fn nans_with_the_same_bits_are_equal() {
        let nan = |bits: u32| Tensor::from_slice(&[1.0, f32::from_bits(bits)]);
        assert_eq!(of(&nan(0x7fc0_0000)), of(&nan(0x7fc0_0000)));
        assert_ne!(of(&nan(0x7fc0_0000)), of(&nan(0x7fc0_0001)));
    }

    #[test]
    fn strides_offsets_and_dimensions_do_not_count() {
        let x = Tensor::arange(35, (Kind::Float, Device::Cpu)).view([5, 7]).sin();
        assert_eq!(of(&x.transpose(0, 1)), of(&x.transpose(0, 1).contiguous()));
        for start in 0..4 {
            let view = x.flatten(0, -1).narrow(0, start, 6);
            assert_eq!(of(&view), of(&view.copy()), "{start}");
        }
        let scalar = Tensor::from(2.5_f32);
        assert_eq!(of(&scalar), of(&Tensor::from_slice(&[2.5_f32])));
        assert_eq!(of(&Tensor::zeros([0, 3], (Kind::Half, Device::Cpu))), 0);
        let original = x.copy();
        of(&x.to_kind(Kind::Int64));
        assert_eq!(x, original, "nothing is written to the tensor");
    }

    #[test]
    fn tensor_of_several_chunks_is_looked_at_completely() {
        let count = CHUNK / 2 * 5 / 2 + 1; // of two bytes
        let x = Tensor::zeros([count], (Kind::BFloat16, Device::Cpu));
        let before = of(&x);
        for place in [0, CHUNK / 2 - 1, CHUNK / 2, count - 1] {
            let _ = x.narrow(0, place, 1).fill_(1.0);
            assert_ne!(of(&x), before, "{place}");
            let _ = x.narrow(0, place, 1).fill_(0.0);
        }
        assert_eq!(of(&x), before);
    }

    #[test]
    #[ignore = "needs a GPU"]
    fn checksum_of_a_gpu_tensor_is_that_of_its_copy_on_the_cpu() {
        for kind in KINDS {
            let x = tensor(kind, 3_000_001);
            let on_gpu = x.to_device(Device::Cuda(0));
            assert_eq!(of(&on_gpu), of(&x), "{kind:?}");
            assert_eq!(bytes_of(&on_gpu, 2_999_999).unwrap(), bytes_of(&x, 2_999_999).unwrap(), "{kind:?}");
        }
    }
}
