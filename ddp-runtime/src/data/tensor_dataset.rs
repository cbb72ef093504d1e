//! `TensorDataset`: samples that are rows of tensors in memory.

use tch::{Device, Kind, Tensor};

use crate::data::loader::transfer;
use crate::data::{BatchDataset, Shared, Tensors};
use crate::{Error, Result};

/// Tensors of the same first dimension, whose rows are the samples: PyTorch's `TensorDataset`.
///
/// A batch has one `index_select` of each tensor, on the device where the tensor is.
///
/// ```
/// use ddp_runtime::data::{BatchDataset, TensorDataset};
/// use tch::Tensor;
///
/// let x = Tensor::from_slice(&[0f32, 0.1, 0.2, 0.3]);
/// let y = Tensor::from_slice(&[0i64, 1, 2, 3]);
/// let (x, y) = TensorDataset::new((x, y))?.batch(&[2, 0])?;
/// assert_eq!(x, Tensor::from_slice(&[0.2f32, 0.0]));
/// assert_eq!(y, Tensor::from_slice(&[2i64, 0]));
/// # Ok::<(), ddp_runtime::Error>(())
/// ```
#[derive(Debug)]
pub struct TensorDataset<T> {
    tensors: Shared<T>,
    len: usize,
}

impl<T: Tensors> TensorDataset<T> {
    /// A dataset of the rows of `tensors`: a tensor of shape [samples, ...], or a tuple or list of such, of any dtypes.
    /// Their memory is not copied: don't change it afterwards.
    ///
    /// # Errors
    /// [`Error::Invalid`] when a tensor has no dimension or another number of rows than the first, or there is none.
    pub fn new(tensors: T) -> Result<Self> {
        let mut sizes = Vec::new();
        let tensors = Shared::new(tensors)?;
        tensors.get()?.map(&mut |tensor| {
            sizes.push(tensor.size().first().copied());
            Ok(tensor.shallow_clone())
        })?;
        let Some(&first) = sizes.first() else {
            return Err(Error::Invalid("a dataset needs at least one tensor".into()));
        };
        if let Some(position) = sizes.iter().position(|&size| size.is_none() || size != first) {
            let problem = match (sizes[position], first) {
                (Some(size), Some(first)) => format!("has {size} rows, but the first tensor has {first}"),
                _ => "has no dimension, so it has no rows".into(),
            };
            return Err(Error::Invalid(format!("tensor {position} of a dataset {problem}")));
        }
        let len = usize::try_from(first.unwrap_or(0)).unwrap_or(0);
        Ok(Self { tensors, len })
    }
}

impl<T: Tensors> BatchDataset for TensorDataset<T> {
    type Batch = T;

    fn len(&self) -> usize {
        self.len
    }

    fn batch(&self, indices: &[i64]) -> Result<T> {
        let _guard = tch::no_grad_guard(); // a graph would keep the index
        // SAFETY: `indices` outlives the tensor, which is read before this function ends: `index_select` on the CPU
        // makes a new tensor immediately, and no graph is made; a copy to another device is made from its own memory.
        let index = unsafe {
            Tensor::from_blob(indices.as_ptr().cast(), &[indices.len() as i64], &[1], Kind::Int64, Device::Cpu)
        };
        let mut elsewhere: Option<Tensor> = None;
        self.tensors.get()?.map(&mut |tensor| {
            let device = tensor.device();
            let index = match &elsewhere {
                _ if device == Device::Cpu => &index,
                Some(moved) if moved.device() == device => moved,
                _ => elsewhere.insert(transfer::to_device(&transfer::pinned_for(&index, device)?, device)?),
            };
            tensor.f_index_select(0, index).map_err(Error::tch("gathering a batch"))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tensors_with_different_numbers_of_rows_are_refused() {
        let (x, y) = (Tensor::zeros([3, 2], (Kind::Float, Device::Cpu)), Tensor::from_slice(&[1i64, 2]));
        let err = TensorDataset::new((x, y)).unwrap_err();
        assert_eq!(err.to_string(), "tensor 1 of a dataset has 2 rows, but the first tensor has 3");
        assert!(TensorDataset::new(Tensor::from(1.0)).unwrap_err().to_string().contains("no dimension"));
        assert!(TensorDataset::new(Vec::<Tensor>::new()).is_err());
    }

    #[test]
    fn batches_have_no_graph_and_their_own_memory() {
        let x = Tensor::from_slice(&[1f32, 2.0, 3.0]).set_requires_grad(true);
        let dataset = TensorDataset::new(vec![x]).unwrap();
        let mut batch = dataset.batch(&[2, 2, 0]).unwrap().remove(0);
        assert!(!batch.requires_grad());
        let _ = batch.fill_(7.0);
        assert_eq!(dataset.batch(&[0, 1, 2]).unwrap()[0], Tensor::from_slice(&[1f32, 2.0, 3.0]));
    }

    #[test]
    fn index_out_of_range_is_an_error() {
        let dataset = TensorDataset::new(Tensor::from_slice(&[1, 2])).unwrap();
        assert!(matches!(dataset.batch(&[2]), Err(Error::Torch { operation: "gathering a batch", .. })));
    }
}
