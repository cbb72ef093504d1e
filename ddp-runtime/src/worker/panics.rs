//! Panics of the program's own code that become errors.

use std::any::Any;
use std::cell::RefCell;
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::error::without_trace;
use crate::{Error, Result};

thread_local! {
    /// What this thread's next panic becomes. (Each thread has its own, so it is not a field of `Process`.)
    static PANIC: RefCell<Panic> = const { RefCell::new(Panic::Failure) };
}

enum Panic {
    /// The end of the thread, or of whatever else lies outside of `caught`.
    Failure,
    /// An error.
    Caught,
    /// An error; it was at this place.
    CaughtAt(String),
}

/// `call`'s result, or its panic as an [`Error::Panicked`].
pub(crate) fn caught<T>(call: impl FnOnce() -> Result<T>) -> Result<T> {
    let outside = PANIC.replace(Panic::Caught);
    // What `call` leaves half done is the user's dataset or hook, which is not used after an error.
    let result = catch_unwind(AssertUnwindSafe(call));
    let location = match PANIC.replace(outside) {
        Panic::CaughtAt(location) => Some(location),
        _ => None,
    };
    result.unwrap_or_else(|panic| Err(Error::Panicked { message: message(panic.as_ref()), location }))
}

/// For the panic hook: whether the panic at `location` in this thread becomes an error, which will report it.
pub(crate) fn becomes_an_error(location: &str) -> bool {
    let caught = |panic: &RefCell<Panic>| match &mut *panic.borrow_mut() {
        Panic::Failure => false,
        panic => {
            // A second panic may be one in a destructor, after which the process is aborted: no error would report it.
            matches!(mem::replace(panic, Panic::CaughtAt(location.to_owned())), Panic::Caught)
        }
    };
    PANIC.try_with(caught).unwrap_or(false)
}

fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    without_trace(text.unwrap_or("without a message"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_panic_inside_is_left_to_the_error_and_no_other() {
        assert!(!becomes_an_error("a.rs:1:1"));
        let result: Result<()> = caught(|| {
            caught(|| Ok(())).unwrap(); // ends, and the outer one is still there
            assert!(becomes_an_error("b.rs:2:2"));
            assert!(!becomes_an_error("c.rs:3:3"));
            std::panic::resume_unwind(Box::new("gone")) // calls no hook
        });
        assert!(!becomes_an_error("d.rs:4:4"));
        assert_eq!(result.unwrap_err().to_string(), "panicked at c.rs:3:3: gone");
    }
}
