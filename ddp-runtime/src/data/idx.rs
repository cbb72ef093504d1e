//! Reads IDX files, the format of MNIST and its relatives (<http://yann.lecun.com/exdb/mnist/>): a header of big-endian
//! numbers (magic, sizes), then one byte per element.
//!
//! ```no_run
//! use ddp_runtime::data::{TensorDataset, idx};
//! # fn main() -> Result<(), ddp_runtime::Error> {
//! let images = idx::images("data/train-images-idx3-ubyte")?; // Uint8 [60000, 28, 28]
//! let labels = idx::labels("data/train-labels-idx1-ubyte")?; // Int64 [60000]
//! let train = TensorDataset::new((images, labels))?;
//! # Ok(())
//! # }
//! ```

use std::fs;
use std::path::Path;

use tch::{Kind, Tensor};

use crate::{Error, Result};

/// The third byte of the magic number for unsigned bytes.
const UBYTE: u8 = 0x08;

/// The images of an `idx3-ubyte` file: `Uint8`, [images, rows, columns], 0 to 255.
///
/// # Errors
/// [`Error::Io`] when the file can't be read; [`Error::BadFile`] when it is not of this format, or not of the size that
/// its header announces.
pub fn images(path: impl AsRef<Path>) -> Result<Tensor> {
    read(path.as_ref(), 3)
}

/// The labels of an `idx1-ubyte` file: `Int64` (what `cross_entropy_for_logits` takes), [labels].
///
/// # Errors
/// As [`images`].
pub fn labels(path: impl AsRef<Path>) -> Result<Tensor> {
    read(path.as_ref(), 1)?.f_to_kind(Kind::Int64).map_err(Error::tch("reading labels"))
}

/// The `Uint8` tensor of `dims` dimensions in the file at `path`.
fn read(path: &Path, dims: u8) -> Result<Tensor> {
    let bytes = fs::read(path).map_err(Error::io("can't read", path))?;
    let (sizes, data) = parse(&bytes, dims).map_err(|problem| Error::BadFile { path: path.to_owned(), problem })?;
    let failed = Error::tch("reading an IDX file");
    Tensor::f_from_slice(data).and_then(|tensor| tensor.f_view(sizes.as_slice())).map_err(failed)
}

/// Sizes and elements, or what is wrong.
fn parse(bytes: &[u8], dims: u8) -> Result<(Vec<i64>, &[u8]), String> {
    if bytes.starts_with(&[0x1f, 0x8b]) {
        return Err("compressed with gzip".into());
    }
    let header = 4 + 4 * usize::from(dims);
    let magic = [0, 0, UBYTE, dims];
    if !bytes.starts_with(&magic) {
        let found = bytes.get(..4).map_or("it is too short".into(), |found| format!("it starts with {found:02x?}"));
        return Err(format!("not an idx{dims}-ubyte file: {found}, expected {magic:02x?}"));
    }
    let Some((header, data)) = bytes.split_at_checked(header) else {
        return Err(format!("truncated: its header ends after {} of {header} bytes", bytes.len()));
    };
    let sizes = header[4..].chunks_exact(4).map(|size| u32::from_be_bytes([size[0], size[1], size[2], size[3]]));
    let sizes: Vec<i64> = sizes.map(i64::from).collect();
    let announced = sizes.iter().try_fold(1i64, |product, &size| product.checked_mul(size));
    let found = data.len();
    match announced.and_then(|announced| usize::try_from(announced).ok()) {
        Some(announced) if announced == found => Ok((sizes, data)),
        Some(announced) if announced > found => {
            Err(format!("truncated: {found} of {announced} bytes of data for sizes {sizes:?}"))
        }
        Some(announced) => Err(format!("{found} bytes of data, but sizes {sizes:?} need {announced}")),
        None => Err(format!("sizes {sizes:?} are too large")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(dims: u8, sizes: &[u32], data: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0, 0, UBYTE, dims];
        bytes.extend(sizes.iter().flat_map(|size| size.to_be_bytes()));
        bytes.extend(data);
        bytes
    }

    #[test]
    fn idx_images_and_labels_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("images"), dir.path().join("labels"));
        fs::write(&a, file(3, &[2, 1, 3], &[0, 1, 2, 253, 254, 255])).unwrap();
        fs::write(&b, file(1, &[2], &[7, 200])).unwrap();
        let images = images(&a).unwrap();
        assert_eq!((images.size(), images.kind()), (vec![2, 1, 3], Kind::Uint8));
        assert_eq!(Vec::<u8>::try_from(images.flatten(0, -1)).unwrap(), [0, 1, 2, 253, 254, 255]);
        assert_eq!(labels(&b).unwrap(), Tensor::from_slice(&[7i64, 200]));
        // One for the other.
        let err = labels(&a).unwrap_err().to_string();
        assert!(err.contains("not an idx1-ubyte file: it starts with [00, 00, 08, 03]"), "{err}");
        assert!(matches!(labels(dir.path().join("none")), Err(Error::Io { .. })));
    }

    #[test]
    fn idx_file_that_is_invalid_is_explained() {
        let whole = file(3, &[2, 1, 3], &[0; 6]);
        let problem = |bytes: &[u8]| parse(bytes, 3).unwrap_err();
        assert_eq!(problem(&whole[..whole.len() - 1]), "truncated: 5 of 6 bytes of data for sizes [2, 1, 3]");
        assert_eq!(problem(&whole[..10]), "truncated: its header ends after 10 of 16 bytes");
        assert!(problem(&[]).contains("it is too short"));
        assert_eq!(problem(&file(3, &[2, 1, 2], &[0; 6])), "6 bytes of data, but sizes [2, 1, 2] need 4");
        assert!(problem(&file(3, &[u32::MAX; 3], &[])).contains("too large"));
        let err = Error::BadFile { path: "x".into(), problem: problem(&[0x1f, 0x8b, 8, 0]) };
        assert_eq!(err.to_string(), "x: compressed with gzip");
        assert!(err.hint().unwrap().contains("gunzip"));
    }
}
