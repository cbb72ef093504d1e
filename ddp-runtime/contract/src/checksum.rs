//! CRC-32C (Castagnoli) of files, as [`FileInfo`] states it.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::thread;

use serde::{Deserialize, Serialize};

/// What a file of a snapshot must be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileInfo {
    /// Size in bytes.
    pub bytes: u64,
    /// CRC-32C (Castagnoli) of its content, as eight hexadecimal digits.
    pub crc32c: String,
}

/// Files are read by several threads in parts of at least this many bytes.
const PART: u64 = 32 << 20;
const MAX_THREADS: u64 = 4;
const BUFFER: usize = 1 << 20;

impl FileInfo {
    /// Size and checksum of the file at `path`.
    ///
    /// # Errors
    /// Those of reading it.
    pub fn read(path: &Path) -> io::Result<Self> {
        let file = crate::file::open(path)?;
        let bytes = file.metadata()?.len();
        let cores = thread::available_parallelism().map_or(1, |n| n.get() as u64);
        let parts = (bytes / PART).clamp(1, cores.min(MAX_THREADS));
        Ok(Self { bytes, crc32c: hex(crc_in_parts(&file, bytes, parts)?) })
    }

    /// The size and checksum of content whose CRC-32C was taken while it was written.
    pub fn written(bytes: u64, crc: u32) -> Self {
        Self { bytes, crc32c: hex(crc) }
    }
}

pub(crate) fn hex(crc: u32) -> String {
    format!("{crc:08x}")
}

fn crc_in_parts(file: &File, bytes: u64, parts: u64) -> io::Result<u32> {
    let ends = (1..=parts).map(|part| bytes * part / parts);
    let ranges: Vec<_> = ends.scan(0, |start, end| Some((std::mem::replace(start, end), end))).collect();
    let crcs = thread::scope(|scope| {
        let threads: Vec<_> =
            ranges[1..].iter().map(|&(start, end)| scope.spawn(move || crc_of(file, start, end))).collect();
        let first = crc_of(file, ranges[0].0, ranges[0].1);
        let rest = threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|_| Err(io::Error::other("a checksum thread panicked"))));
        std::iter::once(first).chain(rest).collect::<io::Result<Vec<_>>>()
    })?;
    let joined = crcs.iter().zip(&ranges).fold(0, |whole, (&crc, &(start, end))| {
        crc32c::crc32c_combine(whole, crc, usize::try_from(end - start).unwrap_or(usize::MAX))
    });
    Ok(joined)
}

fn crc_of(file: &File, start: u64, end: u64) -> io::Result<u32> {
    let mut buffer = vec![0; BUFFER];
    let (mut at, mut crc) = (start, 0);
    while at < end {
        let wanted = usize::try_from(end - at).unwrap_or(BUFFER).min(BUFFER);
        let n = file.read_at(&mut buffer[..wanted], at)?;
        if n == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into()); // it shrank meanwhile
        }
        crc = crc32c::crc32c_append(crc, &buffer[..n]);
        at += n as u64;
    }
    Ok(crc)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksum_of_a_file_does_not_depend_on_how_it_is_split() {
        let path = std::env::temp_dir().join(format!("ddp-contract-checksum-{}", std::process::id()));
        let content: Vec<u8> = (0..3_000_001u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        std::fs::write(&path, &content).expect("a temporary file");
        let file = File::open(&path).expect("it is there");
        for parts in 1..=4 {
            let crc = crc_in_parts(&file, content.len() as u64, parts).expect("it can be read");
            assert_eq!(crc, crc32c::crc32c(&content), "{parts} parts");
        }
        assert_eq!(
            FileInfo::read(&path).expect("it can be read"),
            FileInfo::written(3_000_001, crc32c::crc32c(&content))
        );
        std::fs::write(&path, b"123456789").expect("a temporary file");
        // The check value of CRC-32/ISCSI.
        assert_eq!(FileInfo::read(&path).expect("it can be read").crc32c, "e3069283");
        std::fs::remove_file(&path).expect("it is there");
    }
}
