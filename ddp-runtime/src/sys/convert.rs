//! Rust's numbers as C's.

use std::time::Duration;

pub(crate) fn milliseconds(duration: Duration) -> i64 {
    // C++ adds it to the present time, in nanoseconds.
    i64::try_from(duration.min(FOREVER).as_millis()).unwrap_or(i64::MAX)
}

/// A hundred years.
const FOREVER: Duration = Duration::from_secs(100 * 365 * 86_400);

/// Ranks and world sizes were checked to be small when they were read.
pub(crate) fn to_i32(n: usize) -> i32 {
    i32::try_from(n).unwrap_or(i32::MAX)
}
