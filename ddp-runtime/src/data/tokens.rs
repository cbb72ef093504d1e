//! Token files in nanoGPT's format, for language models.

use std::fs::File;
use std::mem::MaybeUninit;
use std::path::Path;

use memmap2::Mmap;
use tch::{Device, Kind, Tensor};

use crate::data::BatchDataset;
use crate::{Error, Result};

/// How a token file holds its tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenKind {
    /// Two bytes each, little-endian.
    U16,
    /// Four bytes each, little-endian.
    U32,
}

impl TokenKind {
    fn bytes(self) -> usize {
        match self {
            Self::U16 => 2,
            Self::U32 => 4,
        }
    }
}

/// Windows of a file of tokens, for language models, in nanoGPT's format: nothing but the tokens, one after the other.
///
/// Sample i is the `block` tokens from i on, with the `block` tokens from i + 1 on as targets; with
/// [`stride`](Self::stride), from i · stride on. A batch is two `Int64` tensors of shape [samples, block].
///
/// The file is mapped, not read: it may be larger than the memory, and ranks on one node share what is cached. It must
/// not change while it is in use.
///
/// ```no_run
/// use ddp_runtime::data::{BatchDataset, TokenDataset, TokenKind};
/// # fn main() -> Result<(), ddp_runtime::Error> {
/// let train = TokenDataset::open("data/train.bin", TokenKind::U16, 256)?;
/// let (x, y) = train.batch(&[0, 100])?; // [2, 256] each
/// let valid = TokenDataset::open("data/valid.bin", TokenKind::U16, 256)?.stride(256)?; // each token once
/// println!("{} tokens in {} windows", valid.tokens(), valid.len());
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct TokenDataset {
    map: Mmap,
    kind: TokenKind,
    block: usize,
    stride: usize,
}

impl TokenDataset {
    /// The windows of `block` tokens in the file at `path`.
    ///
    /// # Errors
    /// [`Error::Io`] when the file can't be opened; [`Error::BadFile`] when its size is not a multiple of the token size or
    /// less than `block + 1` of them; [`Error::Invalid`] when `block` is 0.
    pub fn open(path: impl AsRef<Path>, kind: TokenKind, block: usize) -> Result<Self> {
        let path = path.as_ref();
        if block == 0 {
            return Err(Error::Invalid("a token dataset needs blocks of at least 1 token".into()));
        }
        let bad = |problem| Error::BadFile { path: path.to_owned(), problem };
        let file = File::open(path).map_err(Error::io("can't open", path))?;
        let bytes = file.metadata().map_err(Error::io("can't open", path))?.len();
        let tokens = bytes / kind.bytes() as u64;
        if bytes % kind.bytes() as u64 != 0 {
            return Err(bad(format!("{bytes} bytes are not a multiple of the {}-byte tokens", kind.bytes())));
        }
        if tokens <= block as u64 {
            return Err(bad(format!("{tokens} tokens are too few for a block of {block} and the next token")));
        }
        // SAFETY: that the file does not change is asked of the user above; tokens have no invalid values.
        let map = unsafe { Mmap::map(&file) }.map_err(Error::io("can't map", path))?;
        Ok(Self { map, kind, block, stride: 1 })
    }

    /// Tokens from one sample's start to the next one's: 1 by default; `block` for samples that do not overlap.
    ///
    /// # Errors
    /// [`Error::Invalid`] when it is 0.
    pub fn stride(mut self, stride: usize) -> Result<Self> {
        if stride == 0 {
            return Err(Error::Invalid("the stride of a token dataset must be at least 1".into()));
        }
        self.stride = stride;
        Ok(self)
    }

    /// Number of tokens in the file.
    pub fn tokens(&self) -> usize {
        self.map.len() / self.kind.bytes()
    }

    /// The bytes of the `block + 1` tokens of a sample.
    fn window(&self, index: i64) -> Result<&[u8]> {
        let Some(index) = usize::try_from(index).ok().filter(|&index| index < self.len()) else {
            return Err(Error::Invalid(format!(
                "sample {index} is out of range: the dataset has {} samples",
                self.len()
            )));
        };
        let start = index * self.stride * self.kind.bytes();
        Ok(&self.map[start..start + (self.block + 1) * self.kind.bytes()])
    }
}

impl BatchDataset for TokenDataset {
    type Batch = (Tensor, Tensor);

    fn len(&self) -> usize {
        (self.tokens() - self.block - 1) / self.stride + 1
    }

    fn batch(&self, indices: &[i64]) -> Result<Self::Batch> {
        let windows: Vec<&[u8]> = indices.iter().map(|&index| self.window(index)).collect::<Result<_>>()?;
        let bytes = self.kind.bytes();
        let inputs = windows.iter().map(|window| &window[..window.len() - bytes]);
        let targets = windows.iter().map(|window| &window[bytes..]);
        Ok((self.rows(inputs)?, self.rows(targets)?))
    }
}

impl TokenDataset {
    /// An `Int64` tensor of shape [rows, block] with the tokens of `rows`, each of `block` tokens.
    fn rows<'a>(&self, rows: impl ExactSizeIterator<Item = &'a [u8]>) -> Result<Tensor> {
        let shape = [rows.len() as i64, self.block as i64];
        let tensor = Tensor::f_empty(shape, (Kind::Int64, Device::Cpu)).map_err(Error::tch("allocating a batch"))?;
        if rows.len() == 0 {
            return Ok(tensor);
        }
        let memory = tensor.data_ptr().cast::<MaybeUninit<i64>>();
        // SAFETY: a new tensor is contiguous, on the CPU and nobody else's; it has room for rows · block numbers.
        let memory = unsafe { std::slice::from_raw_parts_mut(memory, rows.len() * self.block) };
        for (row, to) in rows.zip(memory.chunks_exact_mut(self.block)) {
            match self.kind {
                TokenKind::U16 => widen(row, to, |token| u16::from_le_bytes(token).into()),
                TokenKind::U32 => widen(row, to, |token| u32::from_le_bytes(token).into()),
            }
        }
        Ok(tensor)
    }
}

fn widen<const N: usize>(from: &[u8], to: &mut [MaybeUninit<i64>], token: impl Fn([u8; N]) -> i64) {
    for (bytes, to) in from.as_chunks::<N>().0.iter().zip(to) {
        to.write(token(*bytes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dataset(bytes: &[u8], kind: TokenKind, block: usize) -> Result<TokenDataset> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tokens.bin");
        std::fs::write(&path, bytes).unwrap();
        TokenDataset::open(path, kind, block)
    }

    #[test]
    fn targets_are_one_token_ahead() {
        let tokens = [0u16, 1, 2, 60000, 4, 5];
        let bytes: Vec<u8> = tokens.iter().flat_map(|token| token.to_le_bytes()).collect();
        let dataset = dataset(&bytes, TokenKind::U16, 3).unwrap();
        assert_eq!((dataset.tokens(), dataset.len()), (6, 3));
        let (x, y) = dataset.batch(&[2, 0]).unwrap();
        assert_eq!(x, Tensor::from_slice2(&[[2i64, 60000, 4], [0, 1, 2]]));
        assert_eq!(y, Tensor::from_slice2(&[[60000i64, 4, 5], [1, 2, 60000]]));
        assert_eq!(dataset.batch(&[]).unwrap().0.size(), [0, 3]);
        assert!(dataset.batch(&[3]).is_err() && dataset.batch(&[-1]).is_err());
    }

    #[test]
    fn stride_is_the_distance_between_samples() {
        let bytes: Vec<u8> = (0..10u32).map(|token| token + 70000).flat_map(u32::to_le_bytes).collect();
        let dataset = dataset(&bytes, TokenKind::U32, 3).unwrap().stride(3).unwrap();
        assert_eq!(dataset.len(), 3); // 0..3, 3..6, 6..9, and a tenth token as the last target
        let (x, y) = dataset.batch(&[2]).unwrap();
        assert_eq!(x, Tensor::from_slice2(&[[70006i64, 70007, 70008]]));
        assert_eq!(y, Tensor::from_slice2(&[[70007i64, 70008, 70009]]));
    }

    #[test]
    fn token_files_of_the_wrong_size_are_refused() {
        let problem = |bytes: &[u8], block| dataset(bytes, TokenKind::U16, block).unwrap_err().to_string();
        assert!(problem(&[1, 0, 2], 1).ends_with("3 bytes are not a multiple of the 2-byte tokens"));
        assert!(problem(&[1, 0, 2, 0], 2).ends_with("2 tokens are too few for a block of 2 and the next token"));
        assert!(problem(&[], 1).ends_with("0 tokens are too few for a block of 1 and the next token"));
        assert!(problem(&[1, 0], 0).contains("at least 1 token"));
    }
}
