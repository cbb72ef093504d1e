//! A project: finding and building it with cargo, the libtorch that it links, and the builds that it shares with others.
//!
//! None of these imports from one above it:
//!
//! | module | what it does |
//! |---|---|
//! | `build` | builds a project |
//! | `shared` | the dependencies that projects share |
//! | `libtorch` | the libtorch that a project links |
//! | `cargo` | where a project is, what it has, and how cargo is configured |
//! | `trainable` | programs that train |

mod build;
pub mod cargo;
pub mod libtorch;
pub mod shared;
pub mod trainable;
