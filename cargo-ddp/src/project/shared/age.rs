//! How long ago something was.

use std::time::{Duration, SystemTime};

/// Whether a time is past, by less than `age`.
pub(super) fn is_within(time: SystemTime, age: Duration) -> bool {
    // A time in the future is one of a clock that was wrong.
    SystemTime::now().duration_since(time).is_ok_and(|since| since < age)
}
