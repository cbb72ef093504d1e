use std::os::fd::OwnedFd;
use std::sync::{Arc, OnceLock};

use ddp_contract::Event;

/// The pipe to the launcher, if one listens. Clones share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Events {
    pipe: Option<Arc<OwnedFd>>,
    /// The step that training went on from, in this process.
    resumed: Arc<OnceLock<u64>>,
}

impl Events {
    pub(crate) fn to(pipe: Option<OwnedFd>) -> Self {
        Self { pipe: pipe.map(Arc::new), resumed: Arc::default() }
    }

    /// Sends an event. One that can't be sent (full pipe, no launcher any more) is lost: training goes on.
    pub(crate) fn send(&self, event: &Event) {
        if let Event::Resumed { step, .. } = event {
            let _ = self.resumed.set(*step);
        }
        let Some(pipe) = &self.pipe else { return };
        if let Ok(mut line) = serde_json::to_vec(event) {
            line.push(b'\n');
            let _ = rustix::io::write(&**pipe, &line);
        }
    }

    /// The optimizer steps that were done when training went on from a snapshot, if it did.
    pub(crate) fn resumed_at(&self) -> Option<u64> {
        self.resumed.get().copied()
    }
}
