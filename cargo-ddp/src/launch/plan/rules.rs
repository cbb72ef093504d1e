//! The rules of restarts, stalls and time limits that the dispatcher follows.

use std::time::Duration;

/// When to restart, and how long to wait for what.
#[derive(Clone, Debug)]
pub struct Rules {
    /// Maximum restarts in a row without a new snapshot.
    pub max_restarts: u32,
    /// Time before the second restart in a row; the first is immediate, and each further one waits twice as long as the one
    /// before, at most a minute.
    pub backoff: Duration,
    /// Only a program that has reported something (a step, a snapshot) is restarted: another one might begin from scratch each
    /// time.
    pub only_reporting: bool,
    /// Time between asking workers to stop and killing them.
    pub grace: Duration,
    /// Time without a sign of progress after which a job is stalled. `None`: 10 minutes for workers that send events,
    /// never for others. Zero: never.
    pub stall_timeout: Option<Duration>,
    /// Whether a stalled job is restarted.
    pub restart_on_stall: bool,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            max_restarts: 3,
            only_reporting: false,
            backoff: Duration::from_secs(1),
            grace: Duration::from_secs(10),
            stall_timeout: None,
            restart_on_stall: false,
        }
    }
}
