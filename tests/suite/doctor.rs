//! `cargo ddp doctor` on machines that are broken in one way each.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use ddp_tests::{CudaTorch, Ddp, repo};
use serde_json::Value;
use tempfile::{TempDir, tempdir};

use crate::console::shown;
use crate::nvml::stand_in;

/// A project without libtorch, an empty cache, an empty home, and its own PATH.
struct Place {
    dir: TempDir,
}

impl Place {
    fn new() -> Self {
        let dir = tempdir().unwrap();
        for folder in ["project/src", "cache", "home", "bin"] {
            fs::create_dir_all(dir.path().join(folder)).unwrap();
        }
        fs::write(dir.path().join("project/Cargo.toml"), "[package]\nname = \"p\"\nedition = \"2024\"\n").unwrap();
        fs::write(dir.path().join("project/src/main.rs"), "fn main() {}\n").unwrap();
        Self { dir }
    }

    fn path(&self, below: &str) -> PathBuf {
        self.dir.path().join(below)
    }

    fn doctor(&self, flags: &[&str]) -> Ddp {
        let ddp = Ddp::new(["doctor"].iter().chain(flags)).dir(&self.path("project"));
        let ddp = ddp.env("XDG_CACHE_HOME", self.path("cache")).env("HOME", self.path("home"));
        // rustup finds its toolchain through the home.
        let home = std::env::var_os("HOME").map(PathBuf::from).unwrap();
        let rustup = std::env::var_os("RUSTUP_HOME").map_or_else(|| home.join(".rustup"), PathBuf::from);
        // A compiler that is ccache would make a folder in the cache.
        let ddp = ddp.env("RUSTUP_HOME", rustup).env("CCACHE_DISABLE", "1").env_remove("CARGO_TARGET_DIR");
        ddp.env_remove("LIBTORCH").env_remove("VIRTUAL_ENV").env_remove("CONDA_PREFIX")
    }

    fn script(&self, name: &str, text: &str) {
        let path = self.path("bin").join(name);
        fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }
}

/// The line of a check.
fn line(ddp: Ddp, check: &str) -> (String, String, String) {
    let done = ddp.run();
    let report: Value = serde_json::from_str(&done.stdout).unwrap_or_else(|_| panic!("{}{}", done.stdout, done.stderr));
    let lines = report["lines"].as_array().unwrap();
    let errors = lines.iter().filter(|line| line["level"] == "error").count();
    assert_eq!(report["version"], 1);
    assert_eq!(report["errors"], errors);
    assert_eq!(done.status.code(), Some(if errors == 0 { 0 } else { 6 }), "{report}");
    let line = lines.iter().find(|line| line["check"] == check).unwrap_or_else(|| panic!("no {check}: {report}"));
    let text = |key: &str| line[key].as_str().unwrap_or_default().to_owned();
    (text("level"), text("says"), text("hint"))
}

#[track_caller]
fn is(found: (String, String, String), level: &str, says: &str, hint: &str) {
    assert!(found.0 == level && found.1.contains(says) && found.2.contains(hint), "{found:?}");
}

fn real() -> PathBuf {
    repo().join(".ddp/libtorch").canonicalize().unwrap()
}

/// A libtorch whose libraries are links to the real ones, but for one, and whose headers state a version.
fn fake_libtorch(home: &Path, version: [u32; 3], without: &str) {
    fs::create_dir_all(home.join("lib")).unwrap();
    for entry in fs::read_dir(real().join("lib")).unwrap() {
        let name = entry.unwrap().file_name();
        if name != without {
            symlink(real().join("lib").join(&name), home.join("lib").join(&name)).unwrap();
        }
    }
    fs::create_dir_all(home.join("include/torch/csrc/distributed/c10d")).unwrap();
    fs::write(home.join("include/torch/csrc/distributed/c10d/reducer.hpp"), "").unwrap();
    fs::create_dir_all(home.join("include/torch/headeronly")).unwrap();
    let [major, minor, patch] = version;
    let header = format!(
        "#define TORCH_VERSION_MAJOR {major}\n#define TORCH_VERSION_MINOR {minor}\n#define TORCH_VERSION_PATCH {patch}\n"
    );
    fs::write(home.join("include/torch/headeronly/version.h"), header).unwrap();
}

#[test]
fn doctor_passes_on_this_machine() {
    ddp_tests::worker("toy");
    let done = Ddp::new(["doctor"]).run().succeeds();
    assert!(done.stdout.lines().any(|line| line.starts_with("ok       libtorch          2.13.0 (")), "{}", done.stdout);
    assert!(done.stdout.contains("finds libtorch through its rpath"), "{}", done.stdout);
    assert!(done.stdout.lines().last().unwrap().starts_with("0 errors, "), "{}", done.stdout);
}

#[test]
fn doctor_warns_about_libtorch_before_setup() {
    let place = Place::new();
    is(line(place.doctor(&["--json"]), "libtorch"), "warning", "2.13.0 not found", "cargo ddp setup");
    assert!(fs::read_dir(place.path("cache")).unwrap().next().is_none(), "doctor makes nothing");
    assert!(!place.path("project/.ddp").exists());
}

#[test]
fn doctor_names_a_libtorch_of_another_version() {
    let place = Place::new();
    fake_libtorch(&place.path("old"), [2, 12, 1], "");
    let doctor = || place.doctor(&["--json"]).env("LIBTORCH", place.path("old"));
    is(line(doctor(), "libtorch"), "error", "found libtorch 2.12.1, but tch requires exactly 2.13.0", "unset it");
    let done = place.doctor(&[]).env("LIBTORCH", place.path("old")).run().ends_with(6);
    let at = done.stdout.lines().position(|line| line.starts_with("error    libtorch ")).unwrap();
    assert!(
        done.stdout
            .lines()
            .nth(at + 1)
            .unwrap()
            .trim_start()
            .starts_with("-> set LIBTORCH to a libtorch 2.13.0, or unset it"),
        "{}",
        done.stdout
    );
    // If the project links to it, the hint is to set up again.
    fs::create_dir(place.path("project/.ddp")).unwrap();
    symlink(place.path("old"), place.path("project/.ddp/libtorch")).unwrap();
    is(line(place.doctor(&["--json"]), "libtorch"), "error", "(the project is linked to it)", "cargo ddp setup");
    fs::remove_dir_all(place.path("old")).unwrap();
    is(line(place.doctor(&["--json"]), "libtorch"), "error", "No such file", "cargo ddp setup");
}

#[test]
fn doctor_names_a_missing_library_and_what_needs_it() {
    let place = Place::new();
    let doctor = |without: &str| {
        let _ = fs::remove_dir_all(place.path("torch"));
        fake_libtorch(&place.path("torch"), [2, 13, 0], without);
        place.doctor(&["--json"]).env("LIBTORCH", place.path("torch"))
    };
    is(line(doctor(""), "shared libraries"), "ok", "libtorch finds all of them", "");
    let missing = "libcudart.so.13";
    is(line(doctor(missing), "shared libraries"), "error", &format!("{missing} is missing, which libtorch"), "setup");
    is(line(doctor("libc10.so"), "libtorch"), "error", "lib/libc10.so is missing", "unset it");
}

#[test]
fn doctor_names_a_missing_python_and_a_missing_pip() {
    let place = Place::new();
    let doctor = || place.doctor(&["--json"]).env("PATH", place.path("bin"));
    is(line(doctor(), "Python"), "error", "no Python 3 found", "python3-pip");
    place.script("python3", "case \"$1$2\" in -c*version*) echo '{\"python\": \"3.12.0\", \"version\": null, \"folder\": null}'; exit 0;; esac; exit 1");
    is(line(doctor(), "Python"), "error", "has neither pip nor venv", "python3-pip");
    // With a libtorch, Python is not needed any more.
    is(line(doctor().env("LIBTORCH", real()), "Python"), "warning", "(libtorch is already installed)", "");
}

#[test]
fn doctor_names_missing_tools() {
    let place = Place::new();
    let doctor = || place.doctor(&["--json"]).env("PATH", place.path("bin"));
    is(line(doctor(), "rustc"), "error", "rustc not found on PATH", "rustup");
    is(line(doctor(), "linker"), "error", "cc not found on PATH", "gcc");
    is(line(doctor(), "C++ compiler"), "error", "c++ not found on PATH", "g++");
    is(line(doctor(), "stacks"), "warning", "gdb not found", "gdb");
    place.script("rustc", "echo 'rustc 1.75.0 (82e1608df 2023-12-21)'");
    is(line(doctor(), "rustc"), "error", "1.75.0", "rustup update");
    place.script("c++", "exit 1");
    is(line(doctor(), "C++ compiler"), "error", "does not compile C++20", "CXX");
}

#[test]
fn doctor_names_a_cache_that_cannot_be_used() {
    let place = Place::new();
    fs::write(place.path("cache/cargo-ddp"), "a file where a folder should be").unwrap();
    is(line(place.doctor(&["--json"]), "cache"), "error", "cargo-ddp is not a folder", "XDG_CACHE_HOME");
    let nowhere = place.doctor(&["--json"]).env_remove("XDG_CACHE_HOME").env_remove("HOME");
    is(line(nowhere, "cache"), "error", "neither XDG_CACHE_HOME nor HOME is set", "XDG_CACHE_HOME");
}

#[test]
fn doctor_compares_gpus_with_libtorchs_architectures() {
    let Some(torch) = CudaTorch::find() else { return };
    let (place, nvml) = (Place::new(), stand_in());
    let doctor = || place.doctor(&["--json"]).env("LD_LIBRARY_PATH", nvml.path()).env("LIBTORCH", &torch.home);
    is(line(doctor(), "NVIDIA driver"), "ok", "580.65.06, supports CUDA up to 13.0", "");
    is(line(doctor(), "GPUs"), "warning", "4 x Stand-in 9000; GPU 3: 10.2 GB of 80.0 GB in use", "cargo ddp gpus");
    let built = "sm_75, sm_80, sm_86, sm_90, sm_100, sm_120";
    is(
        line(doctor(), "compute capability"),
        "error",
        &format!("GPU 2 has 6.0, but this libtorch is built for {built}"),
        "--gpus",
    );
    is(line(doctor(), "peer access"), "warning", "1 of 6 pairs of GPUs have none, such as 0 and 1", "topo -p2p");
    is(line(doctor(), "NCCL"), "ok", "2.29", "");
    is(line(doctor().env("LIBTORCH", real()), "NVIDIA driver"), "warning", "has no CUDA", "setup --cuda");
}

/// A line's words without what differs between machines: paths and numbers.
fn redacted(line: &str) -> String {
    let word = |word: &str| -> String {
        let path = word.contains('/') && !word.starts_with("/dev/");
        let number = word.chars().any(|c| c.is_ascii_digit());
        if path || number { "N".into() } else { word.into() }
    };
    line.split_whitespace().map(word).collect::<Vec<_>>().join(" ")
}

#[test]
fn docs_of_doctor_show_the_printed_output() {
    ddp_tests::worker("toy");
    let shown = shown("doctor.md");
    let done = Ddp::new(&shown[0].command).run().succeeds();
    let lines = |text: &str| -> Vec<(String, String)> {
        let of_check = |line: &&str| ["ok ", "warning ", "error "].iter().any(|level| line.starts_with(level));
        // The checks are those of a machine without GPUs.
        let gpus = ["GPUs", "NCCL", "compute capability", "peer access"];
        let lines = text.lines().filter(of_check).map(|line| (line[..8].trim().to_owned(), line[9..].to_owned()));
        lines.filter(|(_, line)| !gpus.iter().any(|check| line.starts_with(check))).collect()
    };
    let check = |line: &str| line[..17.min(line.len())].trim().to_owned();
    let (expected, found) = (lines(&shown[0].output), lines(&done.stdout));
    let checks = |lines: &[(String, String)]| lines.iter().map(|(_, line)| check(line)).collect::<Vec<_>>();
    assert_eq!(checks(&found), checks(&expected));
    // Where this machine gets the same result, the words are the same.
    let mut same = 0;
    for ((level, line), (expected_level, expected)) in found.iter().zip(&expected) {
        // These depend on the installed software.
        if level == expected_level
            && !["NVIDIA driver", "C++ compiler", "debugger", "VS Code"].contains(&check(line).as_str())
        {
            assert_eq!(redacted(line), redacted(expected));
            same += 1;
        }
    }
    assert!(same >= 8, "{}", done.stdout);
}
