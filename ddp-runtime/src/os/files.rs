//! Files and folders.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;

use rustix::fs::{Access, CWD, FallocateFlags, RenameFlags, fallocate, renameat_with};
use rustix::io::Errno;

/// An open flag: a FIFO or a device is opened, read and written without waiting.
pub(crate) const NONBLOCK: i32 = libc::O_NONBLOCK;

/// Whether this process may write to `path`.
pub(crate) fn check_writable(path: &Path) -> io::Result<()> {
    Ok(rustix::fs::access(path, Access::WRITE_OK)?)
}

/// Whether opening a FIFO for writing failed because nobody reads it.
pub(crate) fn has_no_reader(err: &io::Error) -> bool {
    err.raw_os_error() == Some(libc::ENXIO)
}

/// Reserves room for `bytes` on the disk, where the file system can promise it.
///
/// # Errors
/// Only that the disk is full: what can't be promised is found when it is written.
pub(crate) fn reserve(file: &File, bytes: u64) -> io::Result<()> {
    match fallocate(file, FallocateFlags::KEEP_SIZE, 0, bytes) {
        Err(Errno::NOSPC) => Err(Errno::NOSPC.into()),
        _ => Ok(()),
    }
}

/// Has the disk begin to write that part of the file, so that it works while the rest is still on its way.
pub(crate) fn start_writing(file: &File, from: u64, to: u64) {
    let (from, length) = (from.cast_signed(), (to - from).cast_signed());
    // SAFETY: plain numbers and an open file. A file system that can't, does not, which only costs time.
    unsafe { libc::sync_file_range(file.as_raw_fd(), from, length, libc::SYNC_FILE_RANGE_WRITE) };
}

/// Exchanges the names of two files or folders in one step.
pub(crate) fn exchange(one: &Path, other: &Path) -> io::Result<()> {
    Ok(renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE)?)
}
