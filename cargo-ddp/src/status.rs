//! How code below the user interface reports what it does. `ui` implements it.

/// The receiver of progress reports.
pub trait Status {
    /// A step of the work: `Fetching`, `libtorch 2.13.0`.
    fn status(&self, verb: &str, message: &str);

    /// Something that may surprise.
    fn warn(&self, message: &str);

    /// Long work whose end is not known begins. It ends when the result is dropped.
    fn begin(&self, message: &str) -> Box<dyn Task + '_>;
}

/// Long work.
pub trait Task {
    /// Whether the user sees [`set`](Self::set) at all.
    fn is_visible(&self) -> bool;

    /// How far the work is.
    fn set(&self, message: &str);

    /// A step of the work, as a line that stays.
    fn status(&self, verb: &str, message: &str);
}
