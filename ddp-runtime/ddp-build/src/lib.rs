//! The build script of a program that uses [ddp-runtime](https://docs.rs/ddp-runtime): call [`link`] in its `main`.
//!
//! ```
//! ddp_build::link();
//! ```

use std::env;

/// The directory of libtorch's libraries, which ddp-runtime's build script passes to those of its users.
const LIBTORCH: &str = "DEP_DDP_RUNTIME_LIBTORCH_LIB";
/// `1` if that libtorch has CUDA.
const CUDA: &str = "DEP_DDP_RUNTIME_CUDA";

/// Lets the program find libtorch where ddp-runtime found it. Call it in the build script of a package that depends on
/// ddp-runtime directly: cargo passes the place to no other.
pub fn link() {
    let lines = lines(env::var(LIBTORCH).ok().as_deref(), env::var(CUDA).as_deref() == Ok("1"));
    lines.iter().for_each(|line| println!("cargo::{line}"));
}

/// What the build script tells cargo.
fn lines(libtorch: Option<&str>, has_cuda: bool) -> Vec<String> {
    let mut lines = vec!["rerun-if-changed=build.rs".to_owned()];
    lines.extend(libtorch.map(|lib| format!("rustc-link-arg=-Wl,-rpath,{lib}")));
    if has_cuda {
        // libtorch_cuda registers its kernels when it is loaded; nothing else refers to it.
        lines.extend(["rustc-link-arg=-Wl,--no-as-needed", "rustc-link-arg=-ltorch"].map(str::to_owned));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libtorch_is_an_rpath_and_cuda_is_linked_even_if_nothing_refers_to_it() {
        assert_eq!(lines(None, false), ["rerun-if-changed=build.rs"]);
        assert_eq!(
            lines(Some("/t/lib"), true),
            [
                "rerun-if-changed=build.rs",
                "rustc-link-arg=-Wl,-rpath,/t/lib",
                "rustc-link-arg=-Wl,--no-as-needed",
                "rustc-link-arg=-ltorch",
            ]
        );
    }
}
