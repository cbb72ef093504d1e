//! safetensors files of named tensors.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fs;
use std::path::Path;

use safetensors::tensor::{Dtype, SafeTensors, View};
use tch::{Device, Kind, Tensor};

use crate::{Error, Result};

/// Writes `tensors` to `path`. Values are as in memory, row-major; dtypes that safetensors lacks (complex, quantized) are
/// errors.
pub(super) fn write(path: &Path, tensors: &[(String, Tensor)]) -> Result<()> {
    let views = tensors
        .iter()
        .map(|(name, tensor)| Ok((name.as_str(), HostTensor::of(name, tensor)?)))
        .collect::<Result<Vec<_>>>()?;
    safetensors::serialize_to_file(views, None, path).map_err(|err| Error::Io {
        action: "can't write",
        path: path.to_owned(),
        source: match err {
            safetensors::SafeTensorError::IoError(err) => err,
            other => std::io::Error::other(other),
        },
    })
}

/// Reads all tensors of the file at `path`, on the CPU.
pub(super) fn read(path: &Path) -> Result<HashMap<String, Tensor>> {
    let bytes = fs::read(path).map_err(Error::io("can't read", path))?;
    let bad = |problem: String| Error::Io {
        action: "can't read",
        path: path.to_owned(),
        source: std::io::Error::new(std::io::ErrorKind::InvalidData, problem),
    };
    let file = SafeTensors::deserialize(&bytes).map_err(|err| bad(err.to_string()))?;
    let mut tensors = HashMap::new();
    for (name, view) in file.iter() {
        let kind =
            kind_of(view.dtype()).ok_or_else(|| bad(format!("{name} is {:?}, which tch lacks", view.dtype())))?;
        let shape: Vec<i64> = view.shape().iter().map(|&n| n as i64).collect();
        let tensor = Tensor::f_from_data_size(view.data(), &shape, kind).map_err(|err| bad(err.to_string()))?;
        tensors.insert(name.to_owned(), tensor);
    }
    Ok(tensors)
}

/// A contiguous tensor in this computer's memory.
struct HostTensor {
    tensor: Tensor,
    shape: Vec<usize>,
    dtype: Dtype,
}

impl HostTensor {
    fn of(name: &str, tensor: &Tensor) -> Result<Self> {
        let dtype = dtype_of(tensor.kind())
            .ok_or_else(|| Error::Invalid(format!("{name} is {:?}, which safetensors can't hold", tensor.kind())))?;
        let host = tch::no_grad(|| tensor.f_detach().and_then(|t| t.f_to_device(Device::Cpu)?.f_contiguous()));
        let tensor = host.map_err(Error::tch("copying a tensor for a snapshot"))?;
        let shape = tensor.size().into_iter().map(|n| n.unsigned_abs() as usize).collect();
        Ok(Self { tensor, shape, dtype })
    }
}

impl View for HostTensor {
    fn dtype(&self) -> Dtype {
        self.dtype
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        let bytes = self.data_len();
        if bytes == 0 {
            return Cow::Borrowed(&[]);
        }
        // SAFETY: a contiguous CPU tensor holds its elements in one run of `bytes` bytes, for as long as it lives.
        Cow::Borrowed(unsafe { std::slice::from_raw_parts(self.tensor.data_ptr().cast::<u8>(), bytes) })
    }

    fn data_len(&self) -> usize {
        self.tensor.numel() * self.tensor.kind().elt_size_in_bytes()
    }
}

const KINDS: [(Kind, Dtype); 10] = [
    (Kind::Float, Dtype::F32),
    (Kind::Double, Dtype::F64),
    (Kind::Half, Dtype::F16),
    (Kind::BFloat16, Dtype::BF16),
    (Kind::Int64, Dtype::I64),
    (Kind::Int, Dtype::I32),
    (Kind::Int16, Dtype::I16),
    (Kind::Int8, Dtype::I8),
    (Kind::Uint8, Dtype::U8),
    (Kind::Bool, Dtype::BOOL),
];

fn dtype_of(kind: Kind) -> Option<Dtype> {
    KINDS.iter().find(|(k, _)| *k == kind).map(|(_, dtype)| *dtype)
}

fn kind_of(dtype: Dtype) -> Option<Kind> {
    KINDS.iter().find(|(_, d)| *d == dtype).map(|(kind, _)| *kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_dtype_and_odd_shape_survives_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t.safetensors");
        let mut tensors: Vec<(String, Tensor)> = KINDS
            .iter()
            .map(|(kind, _)| {
                (format!("{kind:?}"), Tensor::from_slice(&[0i64, 1, 1, 0, 1, 0]).to_kind(*kind).view([2, 3]))
            })
            .collect();
        tensors.push(("scalar".into(), Tensor::from(2.5f32)));
        tensors.push(("empty".into(), Tensor::zeros([0, 3], (Kind::Float, Device::Cpu))));
        tensors.push(("transposed".into(), Tensor::arange(6, (Kind::Float, Device::Cpu)).view([2, 3]).tr()));
        write(&path, &tensors).unwrap();
        let read = read(&path).unwrap();
        assert_eq!(read.len(), tensors.len());
        for (name, tensor) in &tensors {
            assert_eq!(read[name].kind(), tensor.kind(), "{name}");
            assert_eq!(&read[name], tensor, "{name}");
        }
    }
}
