//! Homes that link into a Python site-packages folder with a torch in it.

use std::ffi::OsStr;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use super::flavor::Flavor;
use super::home::Home;
use crate::machine::cache;
use crate::version::LIBTORCH;

/// A home in the cache that links into a Python's own `site`.
pub(super) fn of_python(site: &Path, flavor: Flavor) -> Result<Home, String> {
    let mut hasher = DefaultHasher::new();
    site.hash(&mut hasher);
    let name = format!("python-{:016x}-{LIBTORCH}-{}", hasher.finish(), flavor.name());
    let folder = cache::dir().map_err(|err| err.to_string())?.join(name);
    if let Ok(home) = Home::inspect(&folder) {
        return Ok(home);
    }
    missing_for(site, flavor)?;
    let staging = folder.with_extension(format!("{}.partial", std::process::id()));
    let made = fs::create_dir_all(&staging).and_then(|()| fill(&staging, site, flavor));
    let made = made.and_then(|()| match fs::remove_dir_all(&folder) {
        Err(err) if err.kind() != io::ErrorKind::NotFound => Err(err),
        _ => fs::rename(&staging, &folder),
    });
    let home = made.map_err(|err| err.to_string()).and_then(|()| Home::inspect(&folder));
    let _ = fs::remove_dir_all(&staging);
    home
}

/// What `site` lacks to be a libtorch of this flavor.
pub(super) fn missing_for(site: &Path, flavor: Flavor) -> Result<(), String> {
    let needed: &[&str] = match flavor {
        Flavor::Cpu => &["torch/lib/libtorch_cpu.so", "torch/include/torch/csrc/distributed/c10d/reducer.hpp"],
        Flavor::Cuda => &[
            "torch/lib/libtorch_cuda.so",
            "torch/include/torch/csrc/distributed/c10d/reducer.hpp",
            "nvidia/cu13/include/cuda_runtime.h",
            "nvidia/cu13/include/crt/host_config.h",
            "nvidia/nccl/include/nccl.h",
        ],
    };
    match needed.iter().find(|name| !site.join(name).exists()) {
        Some(name) => Err(format!("{name} is missing")),
        None => Ok(()),
    }
}

/// Makes `home` a libtorch that links into `site`. Links are absolute, unless `site` lies in `home` itself.
pub(super) fn fill(home: &Path, site: &Path, flavor: Flavor) -> io::Result<()> {
    let target = |below: &str| -> PathBuf {
        match site.strip_prefix(home) {
            Ok(inside) => inside.join(below),
            Err(_) => site.join(below),
        }
    };
    symlink(target("torch/include"), home.join("include"))?;
    match flavor {
        Flavor::Cuda => {
            symlink(target("torch/lib"), home.join("lib"))?;
            symlink(target("nvidia/cu13/include"), home.join("cuda-include"))?;
            symlink(target("nvidia/nccl/include"), home.join("nccl-include"))?;
        }
        Flavor::Cpu => {
            let lib = home.join("lib");
            fs::create_dir(&lib)?;
            // From `lib/`, a target inside of `home` is one folder up.
            let up = |path: PathBuf| if path.is_relative() { Path::new("..").join(path) } else { path };
            for library in cpu_libraries(&site.join("torch/lib"))? {
                symlink(up(target(&format!("torch/lib/{library}"))), lib.join(library))?;
            }
            // A wheel's libtorch_cpu.so refers to these two even when no CUDA is used; a CPU-only wheel's does not.
            for library in ["libcupti.so.13", "libcudart.so.13"] {
                let below = format!("nvidia/cu13/lib/{library}");
                if site.join(&below).exists() {
                    symlink(up(target(&below)), lib.join(library))?;
                }
            }
            // The wheel's own libtorch.so would load libtorch_cuda.so.
            symlink("libtorch_cpu.so", lib.join("libtorch.so"))?;
        }
    }
    // torch-sys compares this with what it is made for.
    fs::write(home.join("build-version"), format!("{LIBTORCH}+{}\n", flavor.name()))
}

/// The shared libraries of a torch package, less those for CUDA, Python and `libtorch.so`.
fn cpu_libraries(lib: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(lib)? {
        let name = entry?.file_name();
        let text = name.to_string_lossy();
        let other = ["cuda", "nvrtc", "nvshmem", "python", "global_deps"].iter().any(|word| text.contains(word));
        if is_shared_library(&name) && !other && text != "libtorch.so" {
            names.push(text.into_owned());
        }
    }
    Ok(names)
}

fn is_shared_library(name: &OsStr) -> bool {
    let name = name.to_string_lossy();
    name.ends_with(".so") || name.contains(".so.")
}
