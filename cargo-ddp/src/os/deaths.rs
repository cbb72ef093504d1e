//! The ends of several processes, in the order in which they happened.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{Timespec, epoll};

/// Watches processes by their pidfds: epoll lists them in the order of their ends, however late it is asked.
pub(crate) struct Deaths(OwnedFd);

impl Deaths {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self(epoll::create(epoll::CreateFlags::CLOEXEC)?))
    }

    /// Watches a process. `index` is what [`ended`](Self::ended) calls it.
    pub(crate) fn watch(&self, index: usize, pidfd: &OwnedFd) -> io::Result<()> {
        Ok(epoll::add(&self.0, pidfd, epoll::EventData::new_u64(index as u64), epoll::EventFlags::IN)?)
    }

    /// Lists this process no longer.
    pub(crate) fn forget(&self, pidfd: &OwnedFd) {
        let _ = epoll::delete(&self.0, pidfd);
    }

    /// The indices of processes that have ended, in the order in which they did.
    pub(crate) fn ended(&self) -> io::Result<Vec<usize>> {
        let mut list = [const { MaybeUninit::uninit() }; 64];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        let (ended, _) = match epoll::wait(&self.0, &mut list, Some(&now)) {
            Ok(ended) => ended,
            Err(rustix::io::Errno::INTR) => return Ok(vec![]),
            Err(err) => return Err(err.into()),
        };
        Ok(ended.iter().filter_map(|event| usize::try_from(event.data.u64()).ok()).collect())
    }

    /// Readable when a process has ended.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
