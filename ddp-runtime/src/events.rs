use std::os::fd::OwnedFd;

use ddp_contract::Event;

/// The pipe to the launcher, if one listens. Clones share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Events {
    pipe: Option<std::sync::Arc<OwnedFd>>,
}

impl Events {
    pub(crate) fn to(pipe: Option<OwnedFd>) -> Self {
        Self { pipe: pipe.map(std::sync::Arc::new) }
    }

    /// Sends an event. One that can't be sent (full pipe, no launcher any more) is lost: training goes on.
    pub(crate) fn send(&self, event: &Event) {
        let Some(pipe) = &self.pipe else { return };
        if let Ok(mut line) = serde_json::to_vec(event) {
            line.push(b'\n');
            let _ = rustix::io::write(&**pipe, &line);
        }
    }
}
