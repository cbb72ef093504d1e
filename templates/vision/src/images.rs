//! Images from MNIST's files, each turned, scaled and moved a little in training.

use std::path::Path;

use anyhow::{Result, ensure};
use ddp_runtime::data::{BatchDataset, TensorDataset, idx, sample_seed};
use ddp_runtime::{Error, Result as DdpResult};
use tch::{Kind, Tensor};

/// How far augmentation goes, at most.
const TURN: f32 = 0.2; // radians
const SCALE: f32 = 0.1; // of the size
const MOVE: f32 = 0.2; // of half the size

/// The images of a part, with their labels.
pub struct Images {
    samples: TensorDataset<(Tensor, Tensor)>,
    size: i64,
    /// The seed of the augmentation, if there is one.
    augment: Option<u64>,
}

impl Images {
    /// The files `<part>-images-idx3-ubyte` and `<part>-labels-idx1-ubyte` in `folder`; with `augment`, a seed, each image
    /// is another in each epoch.
    pub fn open(folder: &Path, part: &str, augment: Option<u64>) -> Result<Self> {
        let images = idx::images(folder.join(format!("{part}-images-idx3-ubyte")))?;
        let labels = idx::labels(folder.join(format!("{part}-labels-idx1-ubyte")))?;
        let (_, rows, columns) = images.size3()?;
        ensure!(
            rows == columns && rows >= 4,
            "images of {rows} x {columns} pixels: they must be square, and at least 4 x 4"
        );
        Ok(Self { samples: TensorDataset::new((images, labels))?, size: rows, augment })
    }

    /// Rows and columns of an image.
    pub fn size(&self) -> i64 {
        self.size
    }
}

/// A batch: `Float` images of shape [images, 1, size, size] from 0 to 1, and `Int64` labels of shape [images].
impl BatchDataset for Images {
    type Batch = (Tensor, Tensor);

    fn len(&self) -> usize {
        self.samples.len()
    }

    fn batch(&self, indices: &[i64]) -> DdpResult<Self::Batch> {
        let (images, labels) = self.samples.batch(indices)?;
        Ok((images.to_kind(Kind::Float).unsqueeze(1) / 255.0, labels))
    }

    fn batch_in_epoch(&self, epoch: u64, indices: &[i64]) -> DdpResult<Self::Batch> {
        let (images, labels) = self.batch(indices)?;
        let Some(seed) = self.augment else { return Ok((images, labels)) };
        // Chosen by epoch and sample alone, so that a run that was stopped sees the same images.
        let maps: Vec<f32> =
            indices.iter().flat_map(|&index| random_map(sample_seed(seed, epoch, index.unsigned_abs()))).collect();
        let maps = Tensor::from_slice(&maps).view([-1, 2, 3]);
        let grid = Tensor::f_affine_grid_generator(&maps, images.size(), false).map_err(Error::other)?;
        let (bilinear, zeros) = (0, 0);
        Ok((images.f_grid_sampler(&grid, bilinear, zeros, false).map_err(Error::other)?, labels))
    }
}

/// An affine map, the two rows of its matrix: where each place of the new image comes from, with -1 to 1 across it.
fn random_map(seed: u64) -> [f32; 6] {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut up_to = |most: f32| (2.0 * random.f32() - 1.0) * most;
    let (sin, cos) = up_to(TURN).sin_cos();
    let scale = 1.0 + up_to(SCALE);
    [scale * cos, -scale * sin, up_to(MOVE), scale * sin, scale * cos, up_to(MOVE)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn images(part: &str, augment: Option<u64>) -> Images {
        Images::open(Path::new("data"), part, augment).unwrap()
    }

    #[test]
    fn digits_are_complete() {
        let (train, test) = (images("train", None), images("t10k", None));
        assert_eq!((train.len(), test.len(), train.size()), (1438, 359, 8));
        let (x, y) = test.batch(&(0..359).collect::<Vec<_>>()).unwrap();
        assert_eq!((x.size(), x.min().double_value(&[]), x.max().double_value(&[])), (vec![359, 1, 8, 8], 0.0, 1.0));
        let counts: Vec<i64> = y.bincount::<Tensor>(None, 10).try_into().unwrap();
        assert!(counts.iter().all(|&count| count > 20), "{counts:?}");
    }

    #[test]
    fn image_changes_only_with_the_epoch() {
        let train = images("train", Some(1));
        let in_epoch = |epoch, indices: &[i64]| train.batch_in_epoch(epoch, indices).unwrap().0;
        assert_eq!(in_epoch(3, &[7, 9]).get(1), in_epoch(3, &[9]).get(0));
        assert_ne!(in_epoch(3, &[7]), in_epoch(4, &[7]));
        assert_ne!(in_epoch(3, &[7]), images("train", Some(2)).batch_in_epoch(3, &[7]).unwrap().0);
        let plain = images("train", None);
        assert_eq!(plain.batch_in_epoch(3, &[7]).unwrap().0, plain.batch(&[7]).unwrap().0);
    }

    #[test]
    fn identity_map_keeps_the_image() {
        let (x, _) = images("train", None).batch(&[5]).unwrap();
        let same = Tensor::from_slice(&[1f32, 0.0, 0.0, 0.0, 1.0, 0.0]).view([1, 2, 3]);
        let grid = Tensor::affine_grid_generator(&same, x.size(), false);
        assert!(x.grid_sampler(&grid, 0, 0, false).allclose(&x, 0.0, 1e-5, false));
    }
}
