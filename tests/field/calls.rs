//! Calls of `cargo ddp`, and the folders and terminals that they need.

use std::fs;
use std::os::fd::{FromRawFd, OwnedFd};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use ddp_tests::{Ddp, cargo_ddp};
use tempfile::{TempDir, tempdir};

/// Longer than a launcher takes to end, on a machine that is busy with other tests.
pub(super) const BOUND: Duration = Duration::from_secs(60);

/// `cargo ddp launch FLAGS -- sh -c SCRIPT` in `dir`.
pub(super) fn launch(dir: &Path, flags: &[&str], script: &str) -> Ddp {
    Ddp::new(["launch"].iter().chain(flags).chain(&["--", "sh", "-c", script]))
        .dir(dir)
        .env("XDG_CACHE_HOME", dir.join("cache"))
}

/// A call of `cargo ddp` with the given stdout.
pub(super) fn with_stdout(dir: &Path, args: &[&str], stdout: impl Into<Stdio>) -> Output {
    let mut command = Command::new(cargo_ddp());
    command.arg("ddp").args(args).current_dir(dir).env("XDG_CACHE_HOME", dir.join("cache"));
    for name in ["LD_LIBRARY_PATH", "OMP_NUM_THREADS", "CARGO_MANIFEST_DIR"] {
        command.env_remove(name);
    }
    command.stdin(Stdio::null()).stdout(stdout).stderr(Stdio::piped()).output().unwrap()
}

pub(super) fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A folder with a snapshot, a run with metrics, and a crate.
pub(super) fn project() -> TempDir {
    let dir = tempdir().unwrap();
    fs::create_dir(dir.path().join("src")).unwrap();
    fs::write(dir.path().join("src/main.rs"), "fn main() {}\n").unwrap();
    fs::write(dir.path().join("Cargo.toml"), "[package]\nname = \"plain\"\nedition = \"2024\"\n[workspace]\n").unwrap();
    let header = r#"{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#;
    let model = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &[0; 4]].concat();
    fs::write(dir.path().join("model.safetensors"), model).unwrap();
    let import = ["snapshot", "import", "model.safetensors", "--to", "snapshots"];
    let output = with_stdout(dir.path(), &import, Stdio::null());
    assert!(output.status.success(), "{}", stderr(&output));
    metrics(&dir.path().join("run"), &[("loss".into(), 1, 0.5), ("loss".into(), 2, 0.25)]);
    dir
}

/// A run's folder with these metrics.
pub(super) fn metrics(run: &Path, points: &[(String, u64, f64)]) {
    fs::create_dir_all(run).unwrap();
    let start = r#"{"event":"start","format":1,"step":0,"attempt":0,"world_size":1,"time":1.0}"#;
    let mut text = format!("{start}\n");
    for (name, step, value) in points {
        let line = serde_json::json!({"event": "scalar", "name": name, "step": step, "value": value, "time": 2.0});
        text += &format!("{line}\n");
    }
    fs::write(run.join("metrics.jsonl"), text).unwrap();
}

/// Both ends of a pseudoterminal.
pub(super) fn terminal() -> (OwnedFd, OwnedFd) {
    let (mut master, mut slave) = (0, 0);
    // SAFETY: it writes the two numbers.
    let opened = unsafe {
        libc::openpty(&raw mut master, &raw mut slave, std::ptr::null_mut(), std::ptr::null(), std::ptr::null())
    };
    assert_eq!(opened, 0);
    for fd in [master, slave] {
        // SAFETY: a system call, on a descriptor that is ours.
        unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) };
    }
    // SAFETY: the descriptor is new, and nothing else owns it.
    let master = unsafe { OwnedFd::from_raw_fd(master) };
    // SAFETY: as above.
    (master, unsafe { OwnedFd::from_raw_fd(slave) })
}
