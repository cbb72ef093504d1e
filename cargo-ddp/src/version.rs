//! The versions that everything is pinned to.

/// The libtorch that tch 0.26 is made for. Its C++ ABI, and our C++ on it, are pinned with it.
pub const LIBTORCH: &str = "2.13.0";
