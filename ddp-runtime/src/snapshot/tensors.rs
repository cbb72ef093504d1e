//! safetensors files of named tensors: written from memory in one pass, read where they lie.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::Path;

use ddp_contract::snapshot::{FileInfo, aliases as aliases_in};
use memmap2::MmapOptions;
use safetensors::tensor::{Dtype, Metadata, SafeTensors, TensorInfo};
use tch::{Device, Kind, Tensor};

use crate::os::files::{reserve, start_writing};
use crate::{Error, Result};

/// What is checksummed and handed to the kernel at a time, in bytes: it stays in the processor's cache between the two.
const CHUNK: usize = 1 << 20;
/// After how many bytes the disk is asked to begin with them.
const START_EVERY: u64 = 16 << 20;

/// A tensor in host memory, contiguous, without a graph.
pub(super) struct HostTensor {
    name: String,
    tensor: Tensor,
    dtype: Dtype,
}

impl HostTensor {
    /// `tensor` must be as this type says. dtypes that safetensors lacks (complex, quantized) are errors.
    pub(super) fn new(name: String, tensor: Tensor) -> Result<Self> {
        let kind = tensor.kind();
        match dtype_of(kind) {
            Some(dtype) => Ok(Self { name, tensor, dtype }),
            None => Err(Error::Invalid(format!("safetensors can't store {name}, which is {kind:?}"))),
        }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Whether all of its elements are finite numbers.
    pub(super) fn is_finite(&self) -> bool {
        self.extremes().is_none_or(|(least, most)| least.is_finite() && most.is_finite())
    }

    /// Whether one of its elements is a NaN.
    pub(super) fn has_nan(&self) -> bool {
        self.extremes().is_some_and(|(least, most)| least.is_nan() || most.is_nan())
    }

    /// The least and the greatest element of floating-point numbers; a NaN is both.
    fn extremes(&self) -> Option<(f64, f64)> {
        let is_float = matches!(self.tensor.kind(), Kind::Float | Kind::Double | Kind::Half | Kind::BFloat16);
        if !is_float || self.tensor.numel() == 0 {
            return None;
        }
        // In one pass, without memory for its outcome.
        let (least, most) = tch::no_grad(|| self.tensor.f_aminmax(None, false)).ok()?;
        let value = |extreme: &Tensor| extreme.f_double_value(&[]).unwrap_or(f64::NAN);
        Some((value(&least), value(&most)))
    }

    pub(super) fn into_tensor(self) -> Tensor {
        self.tensor
    }

    fn bytes(&self) -> &[u8] {
        let length = self.tensor.numel() * self.tensor.kind().elt_size_in_bytes();
        if length == 0 {
            return &[];
        }
        // SAFETY: a contiguous CPU tensor holds its elements in one run of `length` bytes, for as long as it lives.
        unsafe { std::slice::from_raw_parts(self.tensor.data_ptr().cast::<u8>(), length) }
    }
}

/// Writes `tensors` to `path`, row-major, with plain names, and their further names (`aliases`). Nothing is waited for: if
/// it is to be `durable`, the file is still to be synced.
pub(super) fn write(
    path: &Path,
    tensors: &[HostTensor],
    aliases: &BTreeMap<String, String>,
    durable: bool,
) -> Result<FileInfo> {
    // Wide elements first, so that all are aligned, as the safetensors crate does it.
    let mut order: Vec<&HostTensor> = tensors.iter().collect();
    order.sort_by_key(|t| (std::cmp::Reverse(t.tensor.kind().elt_size_in_bytes()), &t.name));
    let mut end = 0;
    let infos = order.iter().map(|t| {
        let start = end;
        end += t.bytes().len();
        let shape = t.tensor.size().into_iter().map(|n| n.unsigned_abs() as usize).collect();
        (t.name.clone(), TensorInfo { dtype: t.dtype, shape, data_offsets: (start, end) })
    });
    let aliases = (!aliases.is_empty()).then(|| aliases.clone().into_iter().collect());
    let header = Metadata::new(aliases, infos.collect()).map_err(io::Error::other);
    let header = header.and_then(|metadata| serde_json::to_vec(&metadata).map_err(io::Error::other));

    let written = header.and_then(|mut header| {
        header.resize(header.len().next_multiple_of(8), b' ');
        let mut out = Out::create(path, (8 + header.len() + end) as u64, durable)?;
        out.write(&(header.len() as u64).to_le_bytes())?;
        out.write(&header)?;
        order.iter().try_for_each(|t| out.write(t.bytes()))?;
        out.finish()
    });
    written.map_err(Error::writing(path))
}

/// A file whose checksum is taken as it is written.
struct Out {
    file: BufWriter<File>,
    bytes: u64,
    /// How many of them the disk has been asked to write.
    started: u64,
    durable: bool,
    crc: u32,
}

impl Out {
    /// A new file, with room for `bytes` on the disk where the file system can promise it.
    fn create(path: &Path, bytes: u64, durable: bool) -> io::Result<Self> {
        let file = File::create(path)?;
        reserve(&file, bytes)?;
        Ok(Self { file: BufWriter::with_capacity(CHUNK, file), bytes: 0, started: 0, durable, crc: 0 })
    }

    fn write(&mut self, content: &[u8]) -> io::Result<()> {
        for chunk in content.chunks(CHUNK) {
            self.crc = crc32c::crc32c_append(self.crc, chunk);
            self.file.write_all(chunk)?;
        }
        self.bytes += content.len() as u64;
        if self.durable && self.bytes - self.started >= START_EVERY {
            self.file.flush()?;
            start_writing(self.file.get_ref(), self.started, self.bytes);
            self.started = self.bytes;
        }
        Ok(())
    }

    fn finish(self) -> io::Result<FileInfo> {
        self.file.into_inner()?;
        Ok(FileInfo::written(self.bytes, self.crc))
    }
}

/// Gives `read` the tensors of the file at `path`, on the CPU. They lie in the file, which is mapped: they must not be
/// written to, nor kept.
pub(super) fn with_tensors<T>(path: &Path, read: impl FnOnce(HashMap<String, Tensor>) -> Result<T>) -> Result<T> {
    with_model(path, |tensors, _| read(tensors))
}

/// As [`with_tensors`], with their further names, too.
pub(super) fn with_model<T>(
    path: &Path,
    read: impl FnOnce(HashMap<String, Tensor>, BTreeMap<String, String>) -> Result<T>,
) -> Result<T> {
    let bad = |problem: String| Error::BadFile { path: path.to_owned(), problem };
    let file = File::open(path).map_err(Error::io("can't read", path))?;
    let bytes = if fs::metadata(path).is_ok_and(|metadata| metadata.len() == 0) {
        return Err(bad("the file is empty".into()));
    } else {
        // SAFETY: a snapshot's files are never changed in place: a new one has new files.
        unsafe { MmapOptions::new().map(&file) }.map_err(Error::io("can't map", path))?
    };
    let parsed = SafeTensors::deserialize(&bytes).map_err(|err| bad(err.to_string()))?;
    let mut tensors = HashMap::new();
    for (name, view) in parsed.iter() {
        let kind =
            kind_of(view.dtype()).ok_or_else(|| bad(format!("unsupported dtype {:?} of {name}", view.dtype())))?;
        let shape: Vec<i64> = view.shape().iter().map(|&n| n as i64).collect();
        let data = view.data();
        let aligned = data.as_ptr().align_offset(kind.elt_size_in_bytes()) == 0;
        let tensor = if aligned && !data.is_empty() {
            // SAFETY: `data` holds the elements of that shape, one after another, and outlives `read`.
            unsafe { Tensor::f_from_blob(data.as_ptr(), &shape, &strides(&shape), kind, Device::Cpu) }
        } else {
            Tensor::f_from_data_size(data, &shape, kind)
        };
        tensors.insert(name.to_owned(), tensor.map_err(Error::tch("reading a snapshot"))?);
    }
    let (_, header) = SafeTensors::read_metadata(&bytes).map_err(|err| bad(err.to_string()))?;
    let aliases = aliases_in(header.metadata().iter().flatten(), |name| tensors.contains_key(name));
    read(tensors, aliases)
}

/// Of a contiguous tensor.
fn strides(shape: &[i64]) -> Vec<i64> {
    let mut strides: Vec<i64> =
        shape.iter().rev().scan(1, |stride, &n| Some(std::mem::replace(stride, *stride * n.max(1)))).collect();
    strides.reverse();
    strides
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

/// The dtypes that a file can hold.
pub(super) fn kinds() -> [Kind; KINDS.len()] {
    KINDS.map(|(kind, _)| kind)
}

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
    fn dtypes_match_the_contract() {
        let mut ours = KINDS.map(|(_, dtype)| format!("{dtype:?}"));
        let mut theirs = ddp_contract::snapshot::DTYPES.map(str::to_owned);
        ours.sort();
        theirs.sort();
        assert_eq!(ours, theirs);
    }

    #[test]
    fn tensors_of_every_dtype_and_odd_shape_survive_a_file() {
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
        tensors.push(("large".into(), Tensor::arange(1 << 20, (Kind::Int64, Device::Cpu)).view([1 << 10, 1 << 10])));
        let host = tensors.iter().map(|(name, t)| HostTensor::new(name.clone(), t.shallow_clone()).unwrap());
        let info = write(&path, &host.collect::<Vec<_>>(), &BTreeMap::new(), true).unwrap();
        assert_eq!(info, FileInfo::read(&path).unwrap());
        with_tensors(&path, |read| {
            assert_eq!(read.len(), tensors.len());
            for (name, tensor) in &tensors {
                assert_eq!(read[name].kind(), tensor.kind(), "{name}");
                assert_eq!(&read[name], tensor, "{name}");
            }
            Ok(())
        })
        .unwrap();
    }

    #[test]
    fn tensor_of_a_dtype_that_safetensors_lacks_is_refused_by_name() {
        let complex = Tensor::zeros([1], (Kind::ComplexFloat, Device::Cpu));
        let err = HostTensor::new("c".into(), complex).err().unwrap();
        assert_eq!(err.to_string(), "safetensors can't store c, which is ComplexFloat");
    }

    /// Not ours, and with data at odd addresses.
    #[test]
    fn unaligned_files_of_others_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t.safetensors");
        let header = r#"{"x":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}  "#;
        assert_eq!(header.len() % 4, 0);
        for padding in 0..4 {
            let header = format!("{header}{}", " ".repeat(padding));
            let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
            bytes.extend(header.as_bytes());
            bytes.extend([1.5f32, -2.0].iter().flat_map(|x| x.to_le_bytes()));
            fs::write(&path, bytes).unwrap();
            with_tensors(&path, |read| {
                assert_eq!(read["x"], Tensor::from_slice(&[1.5f32, -2.0]));
                Ok(())
            })
            .unwrap();
        }
    }
}
