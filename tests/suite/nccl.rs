//! The NCCL build: compiled, linked against a CUDA libtorch, and run until it reports that there is no GPU.

#[path = "../../ddp-runtime/build/nccl.rs"]
mod header;

use std::path::Path;
use std::process::Command;

use ddp_tests::{CudaTorch, build, kept, repo, stdout_of, worker};

/// The package with the program.
const PACKAGE: &str = "ddp-tests-nccl";

#[test]
fn nccl_is_built_with_a_cuda_libtorch_and_reports_a_missing_gpu() {
    let Some(torch) = CudaTorch::find() else { return };
    let target = kept().join("cuda-target");
    let flags = ["-p", PACKAGE, "--target-dir", target.to_str().unwrap()];
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
fn nccl_without_cuda_is_reported_as_missing() {
    let output = Command::new(build(repo(), &["-p", PACKAGE], None)).env_clear().output().unwrap();
    let (stdout, stderr) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    if stdout.contains("NCCL is built: true") {
        return; // the workspace itself is built with a CUDA libtorch: the other test's case
    }
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr.contains("this build has no NCCL") && stderr.contains("cargo ddp setup --cuda"), "{stderr}");
}

#[test]
fn nccl_header_of_another_version_is_refused() {
    let header = |major: &str, minor: &str| {
        format!(
            "#ifndef NCCL_H_\n#define NCCL_H_\n#define NCCL_MAJOR {major}\n#define NCCL_MINOR {minor}\n#define NCCL_PATCH 7\n"
        )
    };
    assert_eq!(header::check_header(&header("2", "29")), Ok(()));
    for (major, minor) in [("2", "28"), ("2", "30"), ("3", "29")] {
        let problem = header::check_header(&header(major, minor)).unwrap_err();
        assert_eq!(problem, format!("is from NCCL {major}.{minor}, but libtorch 2.13.0 was built with NCCL 2.29"));
    }
    for header in ["", "#define NCCL_MAJOR 2\n", "#define NCCL_MAJOR two\n#define NCCL_MINOR 29\n"] {
        assert!(
            header::check_header(header).unwrap_err().starts_with("does not define its version, expected NCCL 2.29")
        );
    }
}

/// torchrun keeps its store while it restarts the ranks, and c10d's signal to end would still be there.
#[test]
fn torchrun_store_keeps_no_signal_of_an_earlier_attempt() {
    const SCRIPT: &str = r#"
import os, subprocess, sys
from torch.distributed import TCPStore
store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
store.set("exception_dump", "1")
job = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port), "TORCHELASTIC_USE_AGENT_STORE": "True",
       "RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1", "TORCHELASTIC_RESTART_COUNT": "1"}
subprocess.run([sys.argv[1], "again"], env=os.environ | job, check=True, stdout=subprocess.DEVNULL)
print(store.check(["exception_dump"]))
"#;
    let Some(torch) = CudaTorch::find() else { return };
    assert_eq!(stdout_of(torch.python().args(["-c", SCRIPT]).arg(worker("teardown"))), "False\n");
}
