//! What listens on the network, and what a stranger or a peer can do to a job.
