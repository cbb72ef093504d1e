//! Run directories, logs, reports and the registry of jobs: nothing of the user is removed.
