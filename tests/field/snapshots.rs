//! Snapshots: retention, sharing, damage, and values that are not finite.
