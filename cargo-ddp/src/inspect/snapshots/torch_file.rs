//! PyTorch's file of a state dict: a zip archive of the tensors' bytes, with a pickle that names them.
//!
//! The pickle is made of ten fixed opcodes and calls one function, `torch._utils._rebuild_tensor_v2`, as PyTorch's own do:
//! `torch.load(path, weights_only=True)`, which runs nothing else, reads it. The layout is that of `torch.save` since 1.6
//! (torch/serialization.py, `_save`).

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::path::Path;
use std::rc::Rc;

use safetensors::tensor::{Dtype, TensorView};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

/// Where PyTorch puts the bytes of tensors, so that they can be mapped.
const ALIGNMENT: u16 = 64;

/// `aliases`: further names, each with the one that its tensor is under; both share the bytes, as in PyTorch's own files.
pub(super) fn write(
    path: &Path,
    tensors: &[(String, TensorView<'_>)],
    aliases: &BTreeMap<String, String>,
) -> io::Result<()> {
    write_to(BufWriter::new(File::create(path)?), tensors, aliases)
}

fn write_to(
    file: impl Write + Seek,
    tensors: &[(String, TensorView<'_>)],
    aliases: &BTreeMap<String, String>,
) -> io::Result<()> {
    let failure = Rc::default();
    let mut zip = ZipWriter::new(Silent { file, position: 0, failure: Rc::clone(&failure), has_failed: false });
    let plain = SimpleFileOptions::default()
        .compression_method(CompressionMethod::Stored)
        .last_modified_time(zip::DateTime::default())
        .with_alignment(ALIGNMENT);
    let mut put = |name: String, bytes: &[u8]| -> io::Result<()> {
        zip.start_file(name, plain.large_file(bytes.len() > u32::MAX as usize)).map_err(io::Error::other)?;
        zip.write_all(bytes)?;
        failure.take().map_or(Ok(()), Err)
    };
    put("archive/data.pkl".into(), &pickle(tensors, aliases)?)?;
    put("archive/byteorder".into(), b"little")?;
    for (key, (_, view)) in tensors.iter().enumerate() {
        put(format!("archive/data/{key}"), view.data())?;
    }
    put("archive/version".into(), b"3\n")?;
    zip.finish().map_err(io::Error::other)?.flush()?;
    failure.take().map_or(Ok(()), Err)
}

/// A file whose failures are kept here: [`ZipWriter`] prints those that it meets when it is dropped. After the first one
/// nothing more is written.
struct Silent<F> {
    file: F,
    position: u64,
    failure: Rc<RefCell<Option<io::Error>>>,
    has_failed: bool,
}

impl<F> Silent<F> {
    /// What the file gives, or, once it has failed, what it would give.
    fn result<T>(&mut self, action: impl FnOnce(&mut F) -> io::Result<T>, otherwise: T) -> T {
        if self.has_failed {
            return otherwise;
        }
        action(&mut self.file).unwrap_or_else(|err| {
            self.has_failed = true;
            *self.failure.borrow_mut() = Some(err);
            otherwise
        })
    }
}

impl<F: Write> Write for Silent<F> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.result(|file| file.write_all(bytes), ());
        self.position += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.result(F::flush, ());
        Ok(())
    }
}

impl<F: Seek> Seek for Silent<F> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let otherwise = match to {
            SeekFrom::Start(position) => position,
            SeekFrom::Current(offset) | SeekFrom::End(offset) => self.position.saturating_add_signed(offset),
        };
        self.position = self.result(|file| file.seek(to), otherwise);
        Ok(self.position)
    }
}

/// `{name: _rebuild_tensor_v2(storage, 0, shape, strides, False, OrderedDict()), …}`
fn pickle(tensors: &[(String, TensorView<'_>)], aliases: &BTreeMap<String, String>) -> io::Result<Vec<u8>> {
    // Protocol 2, as PyTorch's.
    let mut out = b"\x80\x02}(".to_vec();
    let names = tensors.iter().enumerate().flat_map(|(key, (name, view))| {
        let further = aliases.iter().filter(move |(_, of)| *of == name).map(|(alias, _)| alias);
        std::iter::once(name).chain(further).map(move |name| (key, name, view))
    });
    for (key, name, view) in names {
        text(&mut out, name);
        out.extend(b"ctorch._utils\n_rebuild_tensor_v2\n((");
        text(&mut out, "storage");
        let storage = storage(view.dtype()).ok_or_else(|| {
            io::Error::other(format!("{name} is {:?}, which .pt files can't store: use .safetensors", view.dtype()))
        })?;
        out.extend(format!("ctorch\n{storage}\n").as_bytes());
        text(&mut out, &key.to_string());
        text(&mut out, "cpu");
        int(&mut out, view.shape().iter().product());
        out.extend(b"tQ"); // the tuple is a persistent id: torch.load gives the storage for it
        int(&mut out, 0);
        tuple(&mut out, view.shape());
        tuple(&mut out, &strides(view.shape()));
        out.extend(b"\x89ccollections\nOrderedDict\n)RtR");
    }
    out.extend(b"u.");
    Ok(out)
}

fn text(out: &mut Vec<u8>, text: &str) {
    out.push(b'X');
    // Longer names than 4 GB there are not.
    out.extend(u32::try_from(text.len()).unwrap_or(u32::MAX).to_le_bytes());
    out.extend(text.as_bytes());
}

fn int(out: &mut Vec<u8>, n: usize) {
    match i32::try_from(n) {
        Ok(small) => {
            out.push(b'J');
            out.extend(small.to_le_bytes());
        }
        // LONG1: a byte count, then that many bytes, signed.
        Err(_) => {
            out.extend(b"\x8a\x09");
            out.extend((n as u64).to_le_bytes());
            out.push(0);
        }
    }
}

fn tuple(out: &mut Vec<u8>, numbers: &[usize]) {
    out.push(b'(');
    numbers.iter().for_each(|&n| int(out, n));
    out.push(b't');
}

fn strides(shape: &[usize]) -> Vec<usize> {
    let mut strides: Vec<_> =
        shape.iter().rev().scan(1, |stride, &n| Some(std::mem::replace(stride, *stride * n.max(1)))).collect();
    strides.reverse();
    strides
}

fn storage(dtype: Dtype) -> Option<&'static str> {
    Some(match dtype {
        Dtype::F64 => "DoubleStorage",
        Dtype::F32 => "FloatStorage",
        Dtype::F16 => "HalfStorage",
        Dtype::BF16 => "BFloat16Storage",
        Dtype::I64 => "LongStorage",
        Dtype::I32 => "IntStorage",
        Dtype::I16 => "ShortStorage",
        Dtype::I8 => "CharStorage",
        Dtype::U8 => "ByteStorage",
        Dtype::BOOL => "BoolStorage",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A disk that is full after this many bytes.
    struct Disk(io::Cursor<Vec<u8>>, usize);

    impl Write for Disk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            match self.0.get_ref().len() + bytes.len() <= self.1 {
                true => self.0.write(bytes),
                false => Err(io::ErrorKind::StorageFull.into()),
            }
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Seek for Disk {
        fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
            self.0.seek(to)
        }
    }

    #[test]
    fn full_disk_is_an_error_wherever_it_happens() {
        let tensors = [("w".to_owned(), TensorView::new(Dtype::F32, vec![256], &[0; 1024]).unwrap())];
        let to = |disk| write_to(disk, &tensors, &BTreeMap::new());
        to(Disk(io::Cursor::default(), usize::MAX)).unwrap();
        let errors: Vec<_> = (0..).step_by(7).map_while(|size| to(Disk(io::Cursor::default(), size)).err()).collect();
        assert!(errors.len() > 1024 / 7);
        assert!(errors.iter().all(|err| err.kind() == io::ErrorKind::StorageFull), "{errors:?}");
        // The library meets none.
        let failure = Rc::default();
        let mut file = Silent {
            file: Disk(io::Cursor::default(), 4),
            position: 0,
            failure: Rc::clone(&failure),
            has_failed: false,
        };
        file.write_all(b"123").unwrap();
        file.write_all(b"456").unwrap();
        assert_eq!(file.stream_position().unwrap(), 6);
        file.seek(SeekFrom::Start(2)).unwrap();
        file.flush().unwrap();
        assert_eq!(failure.take().map(|err| err.kind()), Some(io::ErrorKind::StorageFull));
    }
}
