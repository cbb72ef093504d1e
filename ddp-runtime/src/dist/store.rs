//! The c10d store through which the ranks find each other.

use std::ffi::CString;
use std::ptr::NonNull;
use std::sync::PoisonError;
use std::time::Duration;

use crate::dist::world::Master;
use tracing::debug;

use crate::error::check;
use crate::os::fd::RawFd;
use crate::sys::convert::{milliseconds, to_i32};
use crate::worker::process::process;
use crate::{Result, World, sys};

/// The store of the job, for all contexts that this process makes.
struct JobStore {
    master: Master,
    store: Store,
    contexts: u32,
}

/// A c10d store: where the ranks of a group exchange addresses before they talk to each other.
#[derive(Debug)]
pub(crate) struct Store {
    raw: NonNull<sys::ddp_store>,
}

impl Store {
    /// A store inside this process, for a world of one.
    pub(crate) fn local() -> Result<Self> {
        let mut raw = std::ptr::null_mut();
        // SAFETY: `raw` is written on success only.
        check("creating a store", |error| unsafe { sys::ddp_store_local(&mut raw, error) })?;
        Ok(Self::from_raw(raw))
    }

    /// The TCP store at `master`, with its own keys for each context: the first call connects. Rank 0 serves the store, on
    /// the socket that `listen_fd` gives, if any.
    pub(crate) fn of_job(
        world: &World,
        master: &Master,
        listen_fd: impl FnOnce() -> Option<RawFd>,
        timeout: Duration,
    ) -> Result<Self> {
        let mut kept = process().rendezvous.lock().unwrap_or_else(PoisonError::into_inner);
        let job = kept.take().and_then(|job| job.downcast::<JobStore>().ok()).filter(|job| job.master == *master);
        let mut job = match job {
            Some(job) => job,
            None => {
                let store = Self::tcp(world, master, listen_fd(), timeout)?;
                Box::new(JobStore { master: master.clone(), store, contexts: 0 })
            }
        };
        job.contexts += 1;
        let store = job.store.prefixed(&format!("context-{}", job.contexts));
        *kept = Some(job);
        store
    }

    fn tcp(world: &World, master: &Master, listen_fd: Option<RawFd>, timeout: Duration) -> Result<Self> {
        let host = CString::new(master.addr.as_str())?;
        // torchrun keeps one store for all attempts, so each attempt has its own keys there
        // (torch/distributed/rendezvous.py, _create_c10d_store).
        let prefix = match master.agent_store {
            true => CString::new(format!("/worker/attempt_{}", world.restart_count))?,
            false => CString::default(),
        };
        let options = sys::ddp_tcp_store_options {
            host: host.as_ptr(),
            prefix: prefix.as_ptr(),
            timeout_ms: milliseconds(timeout),
            world_size: to_i32(world.world_size),
            port: master.port,
            is_server: world.rank == 0 && !master.agent_store,
            listen_fd: listen_fd.unwrap_or(-1),
        };
        debug!(addr = %master.addr, port = master.port, serves = options.is_server, "connecting to the job's store");
        let mut raw = std::ptr::null_mut();
        // SAFETY: `options` and the strings it points to live until the call returns; `raw` is written on success only.
        check("connecting to the other ranks", |error| unsafe { sys::ddp_store_tcp(&options, &mut raw, error) })?;
        debug!("connected to the job's store");
        Ok(Self::from_raw(raw))
    }

    /// This store, with its own keys.
    pub(crate) fn prefixed(&self, prefix: &str) -> Result<Self> {
        let prefix = CString::new(prefix)?;
        let mut raw = std::ptr::null_mut();
        // SAFETY: `self` and `prefix` live until the call returns; `raw` is written on success only.
        check("creating a store", |error| unsafe {
            sys::ddp_store_prefixed(self.as_ptr(), prefix.as_ptr(), &mut raw, error)
        })?;
        Ok(Self::from_raw(raw))
    }

    pub(crate) fn as_ptr(&self) -> *const sys::ddp_store {
        self.raw.as_ptr()
    }

    fn from_raw(raw: *mut sys::ddp_store) -> Self {
        Self { raw: NonNull::new(raw).expect("a store that was made is not null") }
    }
}

// SAFETY: c10d's stores lock what they share (PyTorch uses one from several threads).
unsafe impl Send for Store {}
// SAFETY: as above.
unsafe impl Sync for Store {}

impl Drop for Store {
    fn drop(&mut self) {
        // SAFETY: `raw` came from `ddp_store_*`; only `drop` frees it. A group keeps its own reference.
        unsafe { sys::ddp_store_free(self.raw.as_ptr()) }
    }
}
