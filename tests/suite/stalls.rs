//! Jobs that stop making progress: the report with all stacks, and `--restart-on-stall`.

use std::fs;
use std::process::{Command, Stdio};

use ddp_tests::{Ddp, Done, SIGTERM};
use tempfile::tempdir;

use super::launcher::launch;

#[test]
fn stalled_job_is_reported_with_its_suspect_and_all_stacks() {
    let dir = tempdir().unwrap();
    let flags = ["--nproc", "2", "--stall-timeout", "3", "--log-dir", dir.path().to_str().unwrap()];
    let job = Ddp::toy(&flags, &["behind", "1"]).start();
    job.wait_for("no progress for 3 s: every rank finished step 7 and none finished step 8");
    let has_debugger = ["eu-stack", "gdb", "lldb"].iter().any(|name| {
        let version = Command::new(name).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
        version.is_ok_and(|status| status.success())
    });
    if has_debugger {
        let printed = job.wait_for("rank 1 is in ");
        assert!(printed.contains("  rank 0 waits for other ranks in "), "{printed}");
        let stacks = fs::read_to_string(dir.path().join("latest/attempt-0/rank-0.stacks.txt")).unwrap();
        assert!(stacks.contains("c10d::") || stacks.contains("gloo"), "{stacks}");
    } else {
        assert!(std::env::var_os("CI").is_none(), "CI installs gdb");
        job.wait_for("gdb, lldb or eu-stack is needed to show what each rank does");
    }
    job.signal(SIGTERM);
    let done: Done = job.wait();
    done.leaves_no_process();
}

#[test]
fn stalled_job_is_restarted_on_request() {
    let dir = tempdir().unwrap();
    let script = "echo $TORCHELASTIC_RESTART_COUNT; [ $TORCHELASTIC_RESTART_COUNT = 1 ] || sleep 500";
    let flags = ["--nproc", "2", "--stall-timeout", "1.5", "--restart-on-stall"];
    let done = launch(dir.path(), &flags, script).run().succeeds().leaves_no_process();
    done.says(&[
        "no progress for 1.5 s: no rank has finished a step",
        "made no progress for",
        "Restarting all workers",
        ", 1 restart",
    ]);
}
