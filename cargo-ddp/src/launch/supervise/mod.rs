//! What happens while a job runs.
//!
//! | file | what it does |
//! |---|---|
//! | `watch` | the event loop: asks the decider, and does what it says |
//! | `sources` | what the loop waits for, and what it reads there |
//! | `decider` | who decides in jobs on several nodes: the dispatcher here, or node 0's |
//! | `dispatch` | the dispatcher: a state machine that knows no processes |
//! | `other_nodes` | what the launchers of other nodes send and are sent |
//! | `crew` | the workers of the attempt in progress |
//! | `pauses` | workers that are paused in a debugger |
//! | `stalls` | what the ranks of a stalled job do |
//! | `reports` | what is reported and recorded |

mod crew;
mod decider;
pub(crate) mod dispatch;
mod other_nodes;
mod pauses;
mod reports;
mod sources;
mod stalls;
pub(crate) mod watch;
