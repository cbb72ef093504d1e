//! `cargo ddp setup`: which libtorch it chooses, and the help for every failure.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use ddp_tests::{Ddp, Done, SIGKILL, processes, repo, wait_until};
use tempfile::{TempDir, tempdir};

/// A project without libtorch, and an empty cache.
struct Fresh {
    dir: TempDir,
}

impl Fresh {
    fn new() -> Self {
        let dir = tempdir().unwrap();
        for folder in ["project/src", "cache", "bin"] {
            fs::create_dir_all(dir.path().join(folder)).unwrap();
        }
        fs::write(dir.path().join("project/Cargo.toml"), "[package]\nname = \"p\"\nedition = \"2024\"\n").unwrap();
        fs::write(dir.path().join("project/src/main.rs"), "fn main() {}\n").unwrap();
        Self { dir }
    }

    fn path(&self, below: &str) -> std::path::PathBuf {
        self.dir.path().join(below)
    }

    fn setup(&self, flags: &[&str]) -> Ddp {
        let ddp = Ddp::new(["setup"].iter().chain(flags)).dir(&self.path("project"));
        ddp.env("XDG_CACHE_HOME", self.path("cache")).env_remove("LIBTORCH").env_remove("VIRTUAL_ENV")
    }

    /// A program in `bin/`.
    fn script(&self, name: &str, text: &str) -> std::path::PathBuf {
        let path = self.path("bin").join(name);
        fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    #[track_caller]
    fn nothing_was_made(&self) {
        let left: Vec<_> = fs::read_dir(self.path("cache/cargo-ddp"))
            .into_iter()
            .flatten()
            .map(|entry| entry.unwrap().file_name())
            .filter(|name| name != "lock")
            .collect();
        assert!(left.is_empty(), "{left:?}");
        assert!(!self.path("project/.ddp").exists());
    }
}

/// The libtorch that this test run is built with.
fn real() -> std::path::PathBuf {
    repo().join(".ddp/libtorch").canonicalize().unwrap()
}

#[test]
fn setup_uses_libtorch_variable_if_its_version_fits() {
    let fresh = Fresh::new();
    let done = fresh.setup(&[]).env("LIBTORCH", real()).run().succeeds().says(&["LIBTORCH points to it"]);
    assert_eq!(Path::new(done.stdout.trim()), real());
}

#[test]
fn setup_refuses_a_libtorch_of_another_version() {
    let fresh = Fresh::new();
    let home = fresh.path("old");
    fs::create_dir_all(home.join("include/torch/headeronly")).unwrap();
    symlink(real().join("lib"), home.join("lib")).unwrap();
    fs::create_dir_all(home.join("include/torch/csrc/distributed/c10d")).unwrap();
    fs::write(home.join("include/torch/csrc/distributed/c10d/reducer.hpp"), "").unwrap();
    let header = "#define TORCH_VERSION_MAJOR 2\n#define TORCH_VERSION_MINOR 12\n#define TORCH_VERSION_PATCH 1\n";
    fs::write(home.join("include/torch/headeronly/version.h"), header).unwrap();
    let done = fresh.setup(&[]).env("LIBTORCH", &home).run().ends_with(3);
    done.says(&[
        "found libtorch 2.12.1, but tch requires exactly 2.13.0",
        "hint: set LIBTORCH to a libtorch 2.13.0, or unset it",
    ]);
    let done = fresh.setup(&[]).env("LIBTORCH", "/nonexistent").run().ends_with(3);
    done.says(&["invalid LIBTORCH `/nonexistent`: No such file or directory"]);
    fresh.nothing_was_made();
}

#[test]
fn setup_without_python_prints_help() {
    let fresh = Fresh::new();
    let done = fresh.setup(&["--cpu"]).env("PATH", fresh.path("bin")).run().ends_with(3);
    done.says(&["no Python 3 to fetch it with", "apt-get install python3-pip", "--python"]);
    fresh.nothing_was_made();
}

#[test]
fn setup_reports_a_python_without_pip_and_venv() {
    let fresh = Fresh::new();
    let real =
        std::process::Command::new("python3").args(["-c", "import sys; print(sys.executable)"]).output().unwrap();
    let real = String::from_utf8(real.stdout).unwrap();
    let refuse = "case \"$2\" in pip|venv|ensurepip) echo \"No module named $2\" >&2; exit 1;; esac";
    let python = fresh.script("python3", &format!("{refuse}\nexec {} \"$@\"", real.trim()));
    let done = fresh.setup(&["--cpu", "--python", python.to_str().unwrap()]).run().ends_with(3);
    done.says(&["has neither pip nor venv", "python3-pip python3-venv"]);
    fresh.nothing_was_made();
}

#[test]
fn setup_reports_a_broken_python() {
    let fresh = Fresh::new();
    let done = fresh.setup(&["--python", "/nonexistent/python"]).run().ends_with(3);
    done.says(&["/nonexistent/python is not a working Python 3", "hint: choose another Python with --python"]);
    let old = fresh.script("python2", "echo '{\"python\": \"2.7.18\", \"version\": null, \"folder\": null}'");
    fresh.setup(&["--python", old.to_str().unwrap()]).run().ends_with(3).says(&["found Python 2.7.18"]);
    fresh.nothing_was_made();
}

#[test]
fn setup_reports_a_missing_network() {
    let fresh = Fresh::new();
    // Nothing listens on port 9 (discard).
    let ddp = fresh.setup(&["--cpu"]).env("PIP_INDEX_URL", "http://127.0.0.1:9/simple").env("PIP_RETRIES", "1");
    let done = ddp.env_remove("PIP_FIND_LINKS").run().ends_with(3);
    done.says(&["pip could not fetch libtorch 2.13.0", "hint: check the network"]);
    fresh.nothing_was_made();
}

#[test]
fn setup_reports_an_index_without_a_matching_package() {
    let fresh = Fresh::new();
    let done = without_index(fresh.setup(&["--cpu"])).run().ends_with(3);
    done.says(&["hint: torch 2.13.0 has no package for this Python or platform"]);
    fresh.nothing_was_made();
}

fn without_index(ddp: Ddp) -> Ddp {
    ddp.env("PIP_NO_INDEX", "1").env_remove("PIP_FIND_LINKS")
}

#[test]
fn killed_setup_never_counts_as_finished() {
    let fresh = Fresh::new();
    // A pip that never ends: its staging folder exists, half-filled.
    let pip = "case \"$3\" in --version) exit 0;; install) echo Collecting; sleep 1000;; esac";
    let probe =
        "case \"$1\" in -c) echo '{\"python\": \"3.12.0\", \"version\": null, \"folder\": null}'; exit 0;; esac";
    let python = fresh.script("slow-python", &format!("{probe}\n{pip}"));
    let marker = format!("setup-{}", std::process::id());
    let job = fresh.setup(&["--cpu", "--python", python.to_str().unwrap()]).env("DDP_TEST_MARKER", &marker).start();
    job.wait_for("Collecting");
    job.signal(SIGKILL);
    let _: Done = job.wait();
    // pip dies with us. (A process that it started itself is not ours, and ends here.)
    wait_until(
        "end of pip",
        || format!("{:?}", processes(&marker)),
        || {
            let left = processes(&marker);
            left.iter()
                .all(|pid| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.trim() == "sleep"))
        },
    );
    for pid in processes(&marker) {
        ddp_tests::signal_process(pid, SIGKILL);
    }
    let cache = fresh.path("cache/cargo-ddp");
    assert!(!cache.join("libtorch-2.13.0-cpu").exists());
    assert!(fs::read_dir(&cache).unwrap().count() > 1, "the staging folder is there");
    // The next setup starts from scratch, and cleans up.
    without_index(fresh.setup(&["--cpu"])).run().ends_with(3);
    fresh.nothing_was_made();
}

#[test]
fn setup_uses_the_torch_of_python_if_its_version_fits() {
    let Some(torch) = ddp_tests::CudaTorch::find() else { return };
    let fresh = Fresh::new();
    let site = torch.home.join("site");
    let python = fresh.script("with-torch", &format!("PYTHONPATH={} exec python3 \"$@\"", site.display()));
    let flags = ["--cpu", "--python", python.to_str().unwrap()];
    let done = fresh.setup(&flags).run().succeeds().says(&["with-torch has it (cpu: as requested)", "Linked"]);
    let home = Path::new(done.stdout.trim());
    assert!(home.join("lib/libtorch_cpu.so").exists() && !home.join("lib/libtorch_cuda.so").exists());
    // Once linked, it is found immediately, without asking any Python.
    let again = fresh.setup(&[]).env("PATH", "/usr/bin:/bin").run().succeeds().says(&["the project is linked to it"]);
    assert_eq!(again.stdout, done.stdout);

    let other = "echo '{\"python\": \"3.12.0\", \"version\": \"2.9.1+cu128\", \"folder\": \"/x/site-packages/torch\"}'";
    let other = fresh.script("other-torch", &format!("case \"$1\" in -c) {other}; exit 0;; esac; exit 1"));
    let fresh2 = Fresh::new();
    let done = fresh2.setup(&["--cpu", "--python", other.to_str().unwrap()]).run().ends_with(3);
    done.says(&["Skipping the torch of", "found 2.9.1+cu128, but 2.13.0 is required"]);
}

#[test]
fn setup_twice_changes_nothing() {
    let before = fs::read_link(repo().join(".ddp/libtorch")).unwrap();
    let done = Ddp::new(["setup"]).run().succeeds().says(&["the project is linked to it"]);
    assert_eq!(Path::new(done.stdout.trim()), before.canonicalize().unwrap());
    assert_eq!(fs::read_link(repo().join(".ddp/libtorch")).unwrap(), before);
}
