//! Ends the process, with a reason, when an NCCL operation or connecting takes longer than the group's timeout, or when the
//! connections break.
//!
//! When a rank is missing, a collective blocks only the GPU, so no call returns an error. NCCL's own watchdog waits up to a
//! minute for its dump and then aborts the process, without a reason for the launcher.

use std::ptr::NonNull;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::sys;
use crate::sys::convert::milliseconds;
use crate::worker::failure::fail_now;
use crate::worker::process::process;

/// How often a group is checked. NCCL's watchdog checks its operations every second.
const INTERVAL: Duration = Duration::from_millis(250);

/// Checks a group until it is dropped.
#[derive(Debug)]
pub(crate) struct Watch {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

struct Group(NonNull<sys::ddp_group>);

// SAFETY: the thread only asks for the group's error, which c10d guards with a lock; see `Watch::drop`.
unsafe impl Send for Group {}

impl Watch {
    /// Watches `group`, which must live until the watch is dropped; `None` if the user has turned it off.
    pub fn begin(group: NonNull<sys::ddp_group>, limit: Duration) -> Option<Self> {
        // PyTorch's variable: with 0, its watchdog leaves the process alone.
        let left_alone = std::env::var("TORCH_NCCL_ASYNC_ERROR_HANDLING").is_ok_and(|value| value.trim() == "0");
        if left_alone {
            return None;
        }
        let (stop, stopped) = mpsc::channel();
        let group = Group(group);
        let watch = move || {
            let group = group;
            while stopped.recv_timeout(INTERVAL) == Err(RecvTimeoutError::Timeout) {
                // SAFETY: the group lives until `Watch::drop` has joined this thread.
                let state = unsafe { sys::ddp_group_get_state(group.0.as_ptr(), milliseconds(limit)) };
                if let Some(reason) = reason(state, process().last_step(), limit) {
                    fail_now(&reason);
                }
            }
        };
        let thread = std::thread::Builder::new().name("ddp-overdue".into()).spawn(watch).ok()?;
        Some(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn reason(state: i32, step: Option<u64>, limit: Duration) -> Option<String> {
    let place = step.map_or_else(|| "before the first step".to_owned(), |step| format!("after step {step}"));
    let seconds = limit.as_secs_f64();
    match state {
        sys::DDP_GROUP_TIMED_OUT => Some(format!(
            "a collective {place} timed out after {seconds} s: a rank did not take part in it, or ranks wait for each \
                 other"
        )),
        sys::DDP_GROUP_NOT_CONNECTED => Some(format!(
            "connecting to the other ranks for a collective {place} timed out after {seconds} s: a rank did not take part in it"
        )),
        // The launcher looks for these words: see `cargo-ddp/src/launch/supervise/dispatch/similar.rs`.
        sys::DDP_GROUP_BROKEN => {
            Some(format!("NCCL lost the connection to another rank {place}: that rank ended, or the network failed"))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeout_reason_names_the_step_and_the_limit() {
        let timed_out = |step, limit| reason(sys::DDP_GROUP_TIMED_OUT, step, limit).unwrap();
        assert_eq!(
            timed_out(Some(50), Duration::from_secs(20)),
            "a collective after step 50 timed out after 20 s: a rank did not take part in it, or ranks wait for each other"
        );
        let early = timed_out(None, Duration::from_millis(500));
        assert!(early.starts_with("a collective before the first step timed out after 0.5 s: "), "{early}");
        let broken = reason(sys::DDP_GROUP_BROKEN, Some(7), Duration::ZERO).unwrap();
        assert!(broken.starts_with("NCCL lost the connection to another rank after step 7"), "{broken}");
        let alone = reason(sys::DDP_GROUP_NOT_CONNECTED, None, Duration::from_secs(20)).unwrap();
        assert!(
            alone.ends_with("before the first step timed out after 20 s: a rank did not take part in it"),
            "{alone}"
        );
        assert_eq!(reason(0, Some(7), Duration::ZERO), None);
    }
}
