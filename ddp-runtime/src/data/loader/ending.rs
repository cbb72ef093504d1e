//! Worker threads whose batches are no longer needed.

use std::sync::atomic::Ordering;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::worker::deferred::Deferred;
use crate::worker::process::process;
use crate::worker::say::say;

/// How long a dropped epoch waits for its threads: one may be reading a sample from a file system that does not answer.
const PATIENCE: Duration = Duration::from_secs(5);
const INTERVAL: Duration = Duration::from_millis(1);

struct Ending(Vec<JoinHandle<()>>);

/// Waits for threads that end by themselves; in [`main`](crate::main) later.
pub(crate) fn join(threads: Vec<JoinHandle<()>>) {
    process().deferred.defer(Ending(threads));
}

impl Deferred for Ending {
    fn finish(self: Box<Self>) {
        let deadline = Instant::now() + PATIENCE;
        for thread in self.0 {
            while !thread.is_finished() {
                if Instant::now() >= deadline {
                    let name = thread.thread().name().unwrap_or_default();
                    let seconds = PATIENCE.as_secs();
                    say(format_args!(
                        "warning: {name} is still loading an unneeded batch after {seconds} s; not waiting for it"
                    ));
                    process().has_stuck_thread.store(true, Ordering::Relaxed);
                    return;
                }
                thread::sleep(INTERVAL);
            }
            let _ = thread.join(); // panics were caught and sent
        }
    }
}
