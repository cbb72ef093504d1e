//! Worker processes and what watches them.
//!
//! | file | what it does |
//! |---|---|
//! | `worker` | one worker: started, signaled, reaped |
//! | `port` | where the ranks of an attempt meet |
//! | `stream`, `tail`, `events` | what a worker writes: output, its last lines, events |
//! | `debugged`, `exit` | workers that a debugger starts, and that join the launcher; how they end |
//! | `stacks` | what the ranks of a stalled job do |
//! | `guard` | the processes around the launcher |

pub(crate) mod debugged;
pub(crate) mod events;
mod exit;
pub(crate) mod guard;
pub(crate) mod port;
pub(crate) mod stacks;
pub(crate) mod stream;
mod tail;
pub(crate) mod worker;
