//! Closed pipes, floods, signals and hopeless restarts: the launcher ends in time, with the right exit code.
