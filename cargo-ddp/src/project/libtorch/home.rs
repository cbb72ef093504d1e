//! Whether a folder has a complete libtorch of the right version, and which flavor it is.

use std::path::{Path, PathBuf};

use ddp_contract::file;

use super::flavor::Flavor;
use crate::version::LIBTORCH;

/// A folder that LIBTORCH may point to: `include/` and `lib/` of a libtorch of the right version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Home {
    path: PathBuf,
    flavor: Flavor,
}

impl Home {
    /// Checks that `path` holds a complete libtorch of the right version.
    ///
    /// # Errors
    /// What is missing or wrong, in words.
    pub fn inspect(path: &Path) -> Result<Self, String> {
        // Resolves links, so that a project's link names its target.
        let path = path.canonicalize().map_err(|err| err.to_string())?;
        for needed in [
            "lib/libtorch_cpu.so",
            "lib/libtorch.so",
            "lib/libc10.so",
            "include/torch/csrc/distributed/c10d/reducer.hpp",
        ] {
            if !path.join(needed).exists() {
                return Err(format!("{needed} is missing"));
            }
        }
        let version = version(&path).ok_or("unknown version (no torch/headeronly/version.h)")?;
        if version != LIBTORCH {
            return Err(format!("found libtorch {version}, but tch requires exactly {LIBTORCH}"));
        }
        let flavor = if path.join("lib/libtorch_cuda.so").exists() { Flavor::Cuda } else { Flavor::Cpu };
        Ok(Self { path, flavor })
    }

    /// The folder, without links.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// With or without CUDA.
    pub fn flavor(&self) -> Flavor {
        self.flavor
    }
}

/// The version in the headers (`#define TORCH_VERSION_MAJOR 2` …).
fn version(home: &Path) -> Option<String> {
    let header = ["include/torch/headeronly/version.h", "include/torch/csrc/api/include/torch/version.h"]
        .iter()
        .map(|name| text_of(&home.join(name)))
        .find(|text| text.contains("TORCH_VERSION_MAJOR"))?;
    let number = |name: &str| {
        let line = header.lines().find(|line| line.starts_with(&format!("#define TORCH_VERSION_{name} ")))?;
        line.split_whitespace().nth(2)?.parse::<u32>().ok()
    };
    Some(format!("{}.{}.{}", number("MAJOR")?, number("MINOR")?, number("PATCH")?))
}

/// What is in a regular file; nothing, if it can't be read.
pub(crate) fn text_of(path: &Path) -> String {
    let bytes = file::read(path, file::SMALL).unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
pub(super) mod tests {
    use std::fs;

    use super::*;

    pub(crate) fn fake(version: [u32; 3]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        for name in ["libtorch_cpu.so", "libtorch.so", "libc10.so"] {
            write(&format!("lib/{name}"), "");
        }
        write("include/torch/csrc/distributed/c10d/reducer.hpp", "");
        let [major, minor, patch] = version;
        let header = format!(
            "#define TORCH_VERSION_MAJOR {major}\n#define TORCH_VERSION_MINOR {minor}\n#define TORCH_VERSION_PATCH {patch}\n"
        );
        write("include/torch/headeronly/version.h", &header);
        dir
    }

    #[test]
    fn home_must_be_complete_and_of_the_right_version() {
        let right = fake([2, 13, 0]);
        assert_eq!(Home::inspect(right.path()).unwrap().flavor(), Flavor::Cpu);
        fs::write(right.path().join("lib/libtorch_cuda.so"), "").unwrap();
        assert_eq!(Home::inspect(right.path()).unwrap().flavor(), Flavor::Cuda);
        fs::remove_file(right.path().join("lib/libc10.so")).unwrap();
        assert_eq!(Home::inspect(right.path()).unwrap_err(), "lib/libc10.so is missing");

        let wrong = fake([2, 12, 1]);
        assert_eq!(Home::inspect(wrong.path()).unwrap_err(), "found libtorch 2.12.1, but tch requires exactly 2.13.0");
        assert!(Home::inspect(Path::new("/nonexistent/libtorch")).is_err());
    }

    // A FIFO had doctor, setup and every build wait forever.
    #[test]
    fn header_that_is_a_fifo_is_not_waited_for() {
        use rustix::fs::{CWD, FileType, Mode, mknodat};
        let home = fake([2, 13, 0]);
        let header = home.path().join("include/torch/headeronly/version.h");
        fs::remove_file(&header).unwrap();
        mknodat(CWD, &header, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        assert!(Home::inspect(home.path()).unwrap_err().contains("no torch/headeronly/version.h"));
        let other = home.path().join("include/torch/csrc/api/include/torch/version.h");
        fs::create_dir_all(other.parent().unwrap()).unwrap();
        fs::write(other, "#define TORCH_VERSION_MAJOR 2\n").unwrap();
        assert!(Home::inspect(home.path()).unwrap_err().contains("unknown version"));
    }
}
