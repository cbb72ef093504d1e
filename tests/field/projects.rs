//! Cargo workspaces, configurations, names and files as people have them.
