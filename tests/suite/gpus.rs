//! `--gpus`, with and without a driver. Where none is, a stand-in for its library (NVML) plays one with four GPUs.

use std::path::Path;
use std::process::Command;

use ddp_tests::Ddp;
use tempfile::{TempDir, tempdir};

/// What `nvml-wrapper` needs of the library to count GPUs.
const NVML: &str = r#"
int nvmlInit_v2(void) { return 0; }
int nvmlInitWithFlags(unsigned flags) { return 0; }
int nvmlShutdown(void) { return 0; }
const char* nvmlErrorString(int code) { return "stand-in"; }
int nvmlDeviceGetCount_v2(unsigned* count) { *count = 4; return 0; }
"#;

fn stand_in() -> TempDir {
    let dir = tempdir().unwrap();
    let source = dir.path().join("nvml.c");
    std::fs::write(&source, NVML).unwrap();
    let library = dir.path().join("libnvidia-ml.so.1");
    let status = Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&source).status().unwrap();
    assert!(status.success());
    std::os::unix::fs::symlink("libnvidia-ml.so.1", dir.path().join("libnvidia-ml.so")).unwrap();
    dir
}

fn with_gpus(flags: &[&str], nvml: &Path) -> Ddp {
    Ddp::toy(flags, &["env"]).env("LD_LIBRARY_PATH", nvml)
}

fn has_driver() -> bool {
    Path::new("/proc/driver/nvidia/version").exists()
}

#[test]
fn two_and_three_are_two_workers_that_see_both() {
    let nvml = stand_in();
    let done = with_gpus(&["--gpus", "2,3"], nvml.path()).run().succeeds();
    done_workers(&done.stdout, &[("0", "2,3"), ("1", "2,3")]);
    done.says(&["2 workers on GPU 2, 3"]);
}

#[test]
fn without_flags_every_visible_gpu_has_a_worker() {
    let nvml = stand_in();
    let all = with_gpus(&[], nvml.path()).run().succeeds();
    done_workers(&all.stdout, &[("0", "0,1,2,3"), ("1", "0,1,2,3"), ("2", "0,1,2,3"), ("3", "0,1,2,3")]);
    let limited = with_gpus(&[], nvml.path()).env("CUDA_VISIBLE_DEVICES", "3,1").run().succeeds();
    done_workers(&limited.stdout, &[("0", "3,1"), ("1", "3,1")]);
}

fn done_workers(stdout: &str, expected: &[(&str, &str)]) {
    let mut found: Vec<(String, String)> = stdout
        .lines()
        .map(|line| {
            let vars: serde_json::Value = serde_json::from_str(line.split_once("] ").unwrap().1).unwrap();
            let get = |name: &str| vars[name].as_str().unwrap().to_owned();
            assert_eq!(get("RANK"), get("LOCAL_RANK"));
            assert_eq!(get("WORLD_SIZE"), expected.len().to_string());
            (get("LOCAL_RANK"), get("CUDA_VISIBLE_DEVICES"))
        })
        .collect();
    found.sort();
    let found: Vec<_> = found.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
    assert_eq!(found, expected);
}

#[test]
fn gpus_that_are_not_there_are_refused_before_the_build() {
    let nvml = stand_in();
    let refused = |flags: &[&str], visible: Option<&str>| {
        // A package that does not exist: the build would fail with 101.
        let args = ["run", "-p", "no-such-package"];
        let mut ddp = Ddp::new(args.iter().chain(flags)).env("LD_LIBRARY_PATH", nvml.path());
        if let Some(visible) = visible {
            ddp = ddp.env("CUDA_VISIBLE_DEVICES", visible);
        }
        ddp.run().ends_with(2)
    };
    refused(&["--gpus", "2,4"], None).says(&["error: there is no GPU 4; there are 0, 1, 2, 3", "hint: "]);
    refused(&["--gpus", "2,2"], None).says(&["GPU 2 is there twice"]);
    refused(&["--gpus", "0"], Some("1")).says(&["GPU 0 is not among CUDA_VISIBLE_DEVICES=1"]);
    refused(&["--nproc", "5"], None).says(&["5 workers need 5 GPUs, and there are 4"]);
}

#[test]
fn without_a_driver_gpus_can_not_be_asked_for() {
    if has_driver() {
        return;
    }
    let done = Ddp::new(["run", "-p", "no-such-package", "--gpus", "0"]).run().ends_with(2);
    done.says(&["error: GPUs can't be used: no NVIDIA driver answers", "hint: `--nproc N` runs N workers"]);
}
