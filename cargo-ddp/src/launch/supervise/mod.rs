//! What happens while a job runs: the event loop, the dispatcher, and who decides in jobs on several nodes.

pub(crate) mod command;
pub(crate) mod dispatch;
pub(crate) mod events;
pub(crate) mod stall;
pub(crate) mod watch;
