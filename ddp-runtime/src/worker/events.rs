use std::fmt;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use ddp_contract::Event;

use crate::Result;

/// The pipe to the launcher, if one listens. Clones share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Events {
    pipe: Option<Arc<OwnedFd>>,
    /// The step that training went on from, in this process.
    resumed: Arc<OnceLock<u64>>,
    before_saving: Arc<Hooks>,
}

/// What is done before a snapshot is saved, until it says that there is nothing more to do.
type Hook = Box<dyn Fn() -> Option<Result<()>> + Send>;

#[derive(Default)]
struct Hooks(Mutex<Vec<Hook>>);

impl fmt::Debug for Hooks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hooks")
    }
}

impl Events {
    pub(crate) fn to(pipe: Option<OwnedFd>) -> Self {
        Self { pipe: pipe.map(Arc::new), ..Self::default() }
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

    /// Has `hook` called before each snapshot, on every rank.
    pub(crate) fn before_saving(&self, hook: impl Fn() -> Option<Result<()>> + Send + 'static) {
        self.before_saving.0.lock().unwrap_or_else(PoisonError::into_inner).push(Box::new(hook));
    }

    /// A snapshot is about to be saved.
    pub(crate) fn saving(&self) -> Result<()> {
        let mut hooks = self.before_saving.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut outcome = Ok(());
        hooks.retain(|hook| match hook() {
            Some(result) => {
                outcome = std::mem::replace(&mut outcome, Ok(())).and(result);
                true
            }
            None => false,
        });
        outcome
    }
}
