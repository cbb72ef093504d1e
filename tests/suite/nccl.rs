//! The NCCL build: compiled and linked against a CUDA libtorch, and run up to its answer on a machine without GPUs.

use std::path::Path;
use std::process::Command;

use ddp_tests::{CudaTorch, build, kept, repo, worker};

#[test]
fn nccl_is_built_with_a_cuda_libtorch_and_says_that_there_is_no_gpu() {
    let Some(torch) = CudaTorch::find() else { return };
    let target = kept().join("cuda-target");
    let flags = ["-p", "ddp-tests", "--bin", "nccl", "--target-dir", target.to_str().unwrap()];
    let program = build(repo(), &flags, Some(&torch.home));
    let output = Command::new(program).env_clear().output().unwrap();
    let (stdout, stderr) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert!(stdout.contains("NCCL is built: true"), "{stdout}\n{stderr}");
    if Path::new("/proc/driver/nvidia/version").exists() {
        assert!(stdout.contains("there is a GPU"), "{stdout}\n{stderr}");
        return;
    }
    assert_eq!(output.status.code(), Some(1), "{stdout}\n{stderr}");
    let expected = "error: creating an NCCL process group: ProcessGroupNCCL is only supported with GPUs, no GPUs found!\nhint: NCCL needs a \
         GPU: check `nvidia-smi` and CUDA_VISIBLE_DEVICES";
    assert!(stderr.trim_end().ends_with(expected), "{stderr}");
    assert!(!stderr.contains("frame #"), "{stderr}");
}

#[test]
fn without_cuda_nccl_is_said_to_be_missing() {
    let output = Command::new(worker("nccl")).env_clear().output().unwrap();
    let (stdout, stderr) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    if stdout.contains("NCCL is built: true") {
        return; // the workspace itself is built with a CUDA libtorch: the other test's case
    }
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr.contains("this build has no NCCL") && stderr.contains("cargo ddp setup --cuda"), "{stderr}");
}
