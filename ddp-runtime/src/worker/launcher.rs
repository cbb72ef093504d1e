//! What the launcher passed on to this worker: a pipe for events, and the socket that rank 0's store listens on.

use std::sync::Arc;

use ddp_contract::{Event, env};

use super::variables;
use crate::os::fd::{self, OwnedFd, RawFd};

/// The pipe to the launcher, if one listens. Clones share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct EventPipe(Option<Arc<OwnedFd>>);

impl EventPipe {
    /// The pipe that the launcher passed on. A launcher that does not keep up must not stall the training: writes never wait.
    pub(crate) fn inherited() -> Self {
        Self(number_in(env::EVENT_FD).and_then(fd::pipe).map(Arc::new))
    }

    /// Whether a launcher has started this worker.
    pub(crate) fn is_open(&self) -> bool {
        self.0.is_some()
    }

    /// Sends an event. One that can't be sent (full pipe, no launcher any more) is lost: training continues.
    pub(crate) fn send(&self, event: &Event) {
        let Some(pipe) = &self.0 else { return };
        if let Ok(mut line) = serde_json::to_vec(event) {
            line.push(b'\n');
            let _ = fd::write(pipe, &line);
        }
    }
}

/// The socket that `MASTER_PORT` is already listening on, for the rank that serves the store. libtorch closes it with the
/// store.
///
/// A descriptor that is anything else (the variable was inherited, the descriptor was not) is left alone.
pub(crate) fn listening_socket(port: u16) -> Option<RawFd> {
    fd::listening_socket(number_in(env::STORE_FD)?, port)
}

/// Sees that the variables hold numbers.
///
/// # Errors
/// [`Error::BadVariable`](crate::Error::BadVariable).
pub(crate) fn check() -> crate::Result<()> {
    [env::STORE_FD, env::EVENT_FD].into_iter().try_for_each(|name| variables::number::<RawFd>(name).map(drop))
}

fn number_in(variable: &str) -> Option<RawFd> {
    std::env::var(variable).ok()?.parse().ok()
}
