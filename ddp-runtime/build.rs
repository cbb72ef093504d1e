//! Compiles `csrc/` against the libtorch that torch-sys found, with NCCL when that libtorch has it.

#[path = "build/nccl.rs"]
mod nccl;

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::exit;

/// Each includes half of the other files of `csrc/`. Most of the time goes into libtorch's headers, which each unit parses once.
/// One unit per file would take four times as much processor time.
const UNITS: [&str; 2] = ["csrc/dist.cpp", "csrc/train.cpp"];

fn main() {
    println!("cargo::rerun-if-changed=csrc");
    println!("cargo::rerun-if-changed=build");
    println!("cargo::rustc-check-cfg=cfg(ddp_cuda)");
    if cfg!(feature = "doc-only") {
        return;
    }
    // torch-sys (links = "tch") tells its direct dependents where the libraries are.
    let lib = rerun_env("DEP_TCH_LIBTORCH_LIB").map(PathBuf::from).unwrap_or_else(|| {
        fail("torch-sys did not report the path of libtorch", &["use torch-sys 0.26 without its `doc-only` feature"])
    });
    let home = lib.parent().unwrap_or(&lib);
    let include =
        rerun_env("LIBTORCH_INCLUDE").map_or_else(|| home.join("include"), |dir| Path::new(&dir).join("include"));
    let c10d = include.join("torch/csrc/distributed/c10d/reducer.hpp");
    if !c10d.exists() {
        fail(
            &format!("c10d headers not found: {} is missing", c10d.display()),
            &["run `cargo ddp setup`", "set LIBTORCH to a complete libtorch 2.13.0, with `include` and `lib`"],
        );
    }

    let mut build = cc::Build::new();
    build.cpp(true).std("c++20").warnings(false).include("csrc").include(&include);
    build.include(include.join("torch/csrc/api/include"));
    for define in ["USE_DISTRIBUTED", "USE_C10D_GLOO", "GLOG_USE_GLOG_EXPORT"] {
        build.define(define, None);
    }
    let cuda = lib.join("libtorch_cuda.so").exists();
    if cuda {
        println!("cargo::rustc-cfg=ddp_cuda");
    }
    let nccl = cuda && rerun_env("DDP_WITHOUT_NCCL").is_none();
    if nccl {
        build.includes(cuda_includes(home)).define("USE_C10D_NCCL", None);
    }
    build.files(UNITS);
    build.compile("ddp_runtime");

    println!("cargo::rustc-link-search=native={}", lib.display());
    for name in ["torch_cpu", "c10"] {
        println!("cargo::rustc-link-lib={name}");
    }
    if nccl {
        for name in ["torch_cuda", "c10_cuda"] {
            println!("cargo::rustc-link-lib={name}");
        }
    }

    // Our own tests and examples run as they are; a project's build script does the same with what is printed here
    // (DEP_DDP_RUNTIME_LIBTORCH_LIB, DEP_DDP_RUNTIME_CUDA).
    let lib = lib.canonicalize().unwrap_or(lib);
    println!("cargo::metadata=LIBTORCH_LIB={}", lib.display());
    println!("cargo::metadata=CUDA={}", i32::from(cuda));
    println!("cargo::rustc-link-arg=-Wl,-rpath,{}", lib.display());
    if cuda {
        // libtorch_cuda registers its kernels when it is loaded; nothing else refers to it.
        println!("cargo::rustc-link-arg=-Wl,--no-as-needed");
        println!("cargo::rustc-link-arg=-ltorch");
    }
}

/// The folders that hold `cuda_runtime.h` and `nccl.h`: those that `cargo ddp setup` linked, the Python wheel's
/// neighbors, or a CUDA toolkit.
fn cuda_includes(home: &Path) -> Vec<PathBuf> {
    let mut candidates = vec![home.join("cuda-include"), home.join("nccl-include")];
    if let Some(site) = home.canonicalize().ok().as_deref().and_then(Path::parent) {
        candidates.push(site.join("nvidia/cu13/include"));
        candidates.push(site.join("nvidia/nccl/include"));
    }
    for name in ["CUDA_HOME", "CUDA_PATH"] {
        candidates.extend(rerun_env(name).map(|dir| Path::new(&dir).join("include")));
    }
    candidates.extend(["/usr/local/cuda/include", "/usr/include"].map(PathBuf::from));

    let mut found = Vec::new();
    for header in ["cuda_runtime.h", "crt/host_config.h", "nccl.h"] {
        let place = candidates.iter().find(|dir| dir.join(header).exists());
        if let Some(path) = place.filter(|_| header == "nccl.h").map(|dir| dir.join(header)) {
            check_nccl(&path);
        }
        match place {
            Some(dir) if found.contains(dir) || dir == Path::new("/usr/include") => {}
            Some(dir) => found.push(dir.clone()),
            None => fail(
                &format!("libtorch at {} has CUDA, but {header} was not found", home.display()),
                &[
                    "run `cargo ddp setup --cuda`, which installs the headers",
                    "set CUDA_HOME to a CUDA 13 toolkit, and install NCCL's headers (libnccl-dev)",
                    "set DDP_WITHOUT_NCCL=1 to build without NCCL",
                ],
            ),
        }
    }
    found
}

fn check_nccl(header: &Path) {
    println!("cargo::rerun-if-changed={}", header.display());
    let checked = fs::read(header).map_err(|err| format!("can't be read: {err}"));
    if let Err(problem) = checked.and_then(|text| nccl::check_header(&String::from_utf8_lossy(&text))) {
        fail(
            &format!("{} {problem}", header.display()),
            &[
                "run `cargo ddp setup --cuda`, which installs the right header",
                "install that version's header (pip's nvidia-nccl-cu13, libnccl-dev)",
                "set DDP_WITHOUT_NCCL=1 to build without NCCL",
            ],
        );
    }
}

fn rerun_env(name: &str) -> Option<String> {
    println!("cargo::rerun-if-env-changed={name}");
    env::var(name).ok().filter(|value| !value.is_empty())
}

fn fail(problem: &str, help: &[&str]) -> ! {
    println!("cargo::error=ddp-runtime: {problem}");
    for help in help {
        println!("cargo::error=  help: {help}");
    }
    exit(1)
}
