//! Lets the built program find libtorch where ddp-runtime found it, without LD_LIBRARY_PATH.

use std::env;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if let Ok(lib) = env::var("DEP_DDP_RUNTIME_LIBTORCH_LIB") {
        println!("cargo::rustc-link-arg=-Wl,-rpath,{lib}");
    }
    if env::var("DEP_DDP_RUNTIME_CUDA").as_deref() == Ok("1") {
        // libtorch_cuda registers its kernels when it is loaded; nothing else refers to it.
        println!("cargo::rustc-link-arg=-Wl,--no-as-needed");
        println!("cargo::rustc-link-arg=-ltorch");
    }
}
