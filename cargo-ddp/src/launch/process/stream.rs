//! What a worker writes: pipes that are never waited for.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};

use super::tail::Tail;
use crate::launch::run::logs::Log;

/// The reading end of a pipe, never waited on.
pub(crate) struct Pipe {
    file: Option<File>,
}

impl Pipe {
    pub(crate) fn new(fd: Option<OwnedFd>) -> io::Result<Self> {
        if let Some(fd) = &fd {
            fcntl_setfl(fd, fcntl_getfl(fd)? | OFlags::NONBLOCK)?;
        }
        Ok(Self { file: fd.map(File::from) })
    }

    pub(crate) fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.file.as_ref().map(AsFd::as_fd)
    }

    /// Reads at most `limit` bytes of what there is now. At the end of the pipe it is closed.
    pub(crate) fn drain(&mut self, buffer: &mut [u8], limit: usize, mut take: impl FnMut(&[u8])) {
        let mut left = limit;
        while let Some(file) = self.file.as_mut().filter(|_| left > 0) {
            let most = left.min(buffer.len());
            match file.read(&mut buffer[..most]) {
                Ok(0) => self.file = None,
                Ok(n) => {
                    left -= n;
                    take(&buffer[..n]);
                }
                Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
                Err(err) if err.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => self.file = None,
            }
        }
    }

    /// Bytes that can be read now.
    pub(crate) fn waiting(&self) -> usize {
        let count = self.file.as_ref().and_then(|file| rustix::io::ioctl_fionread(file).ok());
        count.and_then(|count| usize::try_from(count).ok()).unwrap_or(0)
    }

    /// Nothing more is read.
    pub(crate) fn close(&mut self) {
        self.file = None;
    }
}

/// A worker's stdout or stderr.
pub(crate) struct Stream {
    pub(crate) pipe: Pipe,
    pub(crate) tail: Tail,
    log: Log,
    /// Why the log was given up, until that is reported.
    pub(crate) log_failed: Option<io::Error>,
}

impl Stream {
    pub(super) fn new(fd: Option<OwnedFd>, (log, log_failed): (Log, Option<io::Error>)) -> io::Result<Self> {
        Ok(Self { pipe: Pipe::new(fd)?, tail: Tail::default(), log, log_failed })
    }

    /// Keeps what was written, and appends it to `out`.
    pub(crate) fn read(&mut self, buffer: &mut [u8], limit: usize, out: &mut Vec<u8>) {
        let Self { pipe, tail, log, log_failed } = self;
        pipe.drain(buffer, limit, |piece| {
            if let Err(err) = log.write(piece) {
                *log_failed = Some(err);
            }
            tail.push(piece);
            out.extend_from_slice(piece);
        });
    }

    /// The worker is gone: reads what it wrote, without waiting for other writers.
    pub(crate) fn close(&mut self, buffer: &mut [u8], out: &mut Vec<u8>) {
        // No more than it wrote: what it left running may write forever.
        self.read(buffer, self.pipe.waiting(), out);
        self.pipe.close();
    }

    /// Whether the stream has ended.
    pub(crate) fn has_ended(&self) -> bool {
        self.pipe.fd().is_none()
    }

    pub(crate) fn log_path(&self) -> &Path {
        self.log.path()
    }
}
