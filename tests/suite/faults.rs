//! Workers and launchers that are killed, fail, or are asked to stop.

use std::path::Path;
use std::time::{Duration, SystemTime};

use ddp_tests::{Ddp, SIGINT, SIGKILL, SIGTERM, fitted, signal_process, snapshots};
use tempfile::tempdir;

/// A run long enough to be killed in, with a snapshot after each epoch.
fn long_run<'a>(dir: &'a Path, flags: &[&'a str]) -> Ddp {
    let args = ["--total-epochs", "60", "--save-every", "1", "--snapshots", dir.to_str().unwrap()];
    Ddp::in_linear(["run", "--nproc", "2"].iter().chain(flags).chain(&["--"]).chain(&args))
}

#[test]
fn killed_worker_loses_only_the_steps_since_the_last_snapshot() {
    let (undisturbed, disturbed) = (tempdir().unwrap(), tempdir().unwrap());
    let expected = long_run(undisturbed.path(), &[]).run().succeeds();

    // Random rank, random moment; printed, so that a failure can be reproduced.
    let random = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().subsec_nanos() as usize;
    let (rank, epoch) = (random % 2, 3 + random / 2 % 30);
    eprintln!("killing rank {rank} after epoch {epoch}");
    let job = long_run(disturbed.path(), &[]).start();
    job.wait_for(&format!("epoch {epoch:>3}"));
    signal_process(job.workers()[rank], SIGKILL);
    let done = job.wait().succeeds().leaves_no_process();

    let restarted = done.stderr.lines().find(|line| line.contains("Restarting")).expect("a restart is announced");
    assert!(restarted.contains("all workers from ") && restarted.contains("/step-"), "{restarted}");
    assert!(restarted.ends_with("(1 of 3)"), "{restarted}");
    assert!(done.stderr.contains(&format!("rank {rank} was killed by SIGKILL")), "{}", done.stderr);
    assert!(done.stdout.contains("resuming from epoch"), "{}", done.stdout);
    assert_eq!(fitted(&done.stdout), fitted(&expected.stdout));
    for name in ["model.safetensors", "optimizer.safetensors"] {
        let read = |dir: &Path| std::fs::read(snapshots(dir)[0].join(name)).unwrap();
        assert_eq!(read(disturbed.path()), read(undisturbed.path()), "{name} differs");
    }
}

#[test]
fn killed_worker_is_reported_with_rank_pid_and_signal() {
    let dir = tempdir().unwrap();
    let job = long_run(dir.path(), &["--max-restarts", "0"]).start();
    job.wait_for("epoch   2");
    let pid = job.workers()[1];
    signal_process(pid, SIGKILL);
    let done = job.wait().ends_with(137).leaves_no_process();
    let line = done.stderr.lines().find(|line| line.starts_with("error: ")).unwrap();
    assert!(line.starts_with(&format!("error: rank 1 was killed by SIGKILL (pid {pid}) after step ")), "{line}");
    done.says(&["afterwards: rank 0 "]);
}

#[test]
fn killed_launcher_leaves_no_worker() {
    let dir = tempdir().unwrap();
    let job = long_run(dir.path(), &[]).start();
    job.wait_for("epoch   1");
    job.signal(SIGKILL);
    job.wait().leaves_no_process_after(Duration::from_secs(2));
}

#[test]
fn signal_to_the_launcher_ends_the_job() {
    for (signal, code) in [(SIGINT, 130), (SIGTERM, 143)] {
        let job = Ddp::toy(&["--nproc", "2"], &["sleep", "1"]).start();
        job.wait_for("asleep");
        job.signal(signal);
        job.wait().ends_with(code).leaves_no_process();
    }
}

#[test]
fn child_processes_of_a_worker_end_with_it() {
    let job = Ddp::toy(&["--nproc", "2", "--max-restarts", "0"], &["sleep", "1"]).start();
    job.wait_for("asleep");
    let stopped = job.workers()[0];
    // In a process that is stopped, SIGTERM alone would wait forever.
    signal_process(stopped, 19);
    let killed = job.workers()[1];
    signal_process(killed, SIGKILL);
    job.wait().ends_with(137).leaves_no_process().says(&["rank 1 was killed by SIGKILL", "afterwards: rank 0 "]);
}

#[test]
fn panic_is_reported_with_its_message_and_location() {
    let done =
        Ddp::toy(&["--nproc", "2", "--max-restarts", "0"], &["panic", "1"]).run().ends_with(101).leaves_no_process();
    done.says(&[
        "error: rank 1 panicked (exit code 101) (pid ",
        "after step 7",
        "message: panic: toy panics",
        "at tests/workers/toy.rs:",
    ]);
}

#[test]
fn error_is_reported_with_its_message() {
    let done =
        Ddp::toy(&["--nproc", "2", "--max-restarts", "0"], &["error", "0"]).run().ends_with(1).leaves_no_process();
    done.says(&["error: rank 0 ended with exit code 1 (pid ", "message: toy fails"]);
}

#[test]
fn libtorch_stack_traces_are_shown_on_request() {
    let run = |backtrace: &str| {
        let done = Ddp::toy(&["--nproc", "1", "--max-restarts", "0"], &["shape"]).env("DDP_BACKTRACE", backtrace);
        done.env("RUST_BACKTRACE", "0").run().ends_with(101).stderr
    };
    let short = run("0");
    assert!(short.contains("mat1 and mat2 shapes cannot be multiplied"), "{short}");
    assert!(!short.contains("frame #"), "{short}");
    let long = run("1");
    assert!(long.contains("frame #"), "{long}");
}

#[test]
fn silent_exit_of_a_worker_is_reported_with_its_code() {
    let done =
        Ddp::toy(&["--nproc", "2", "--max-restarts", "0"], &["exit", "1"]).run().ends_with(7).leaves_no_process();
    done.says(&["error: rank 1 ended with exit code 7 (pid "]);
}

#[test]
fn job_that_fails_once_succeeds_after_a_restart() {
    let done = Ddp::toy(&["--nproc", "2", "--max-restarts", "1"], &["first-attempt-fails", "1"]).run().succeeds();
    done.says(&["from scratch, as there is no snapshot yet (1 of 1)", ", 1 restart"]).leaves_no_process();
}

#[test]
fn rank_that_does_not_join_is_a_timeout_on_the_others() {
    let done =
        Ddp::toy(&["--nproc", "2", "--max-restarts", "0"], &["late", "1"]).run().ends_with(1).leaves_no_process();
    done.says(&["error: rank 0 ended with exit code 1", "message: all_reduce timed out: "]);
}

#[test]
fn models_that_differ_between_ranks_are_refused_on_all_naming_the_parameter() {
    let done = Ddp::toy(&["--nproc", "2", "--max-restarts", "0", "--grace", "60"], &["differ"]).run().ends_with(1);
    let words = "error: the model of rank 1 differs from rank 0's: rank 1 has parameter ";
    let found: Vec<_> = done.stderr.lines().filter(|line| line.contains(words)).collect();
    // Whichever fails first, the other may be asked to stop before it has reported its own error.
    assert!(!found.is_empty(), "{}", done.stderr);
    let named = found.iter().all(|line| {
        line.contains("second.bias [3] Float, rank 0 has parameter second.bias [2] Float")
            || line.contains("second.weight [3, 3] Float, rank 0 has parameter second.weight [2, 3] Float")
    });
    assert!(named, "{found:?}");
    done.leaves_no_process();
}

#[test]
fn job_listens_on_loopback_addresses_only() {
    let job = Ddp::toy(&["--nproc", "2"], &["sleep", "1"]).start();
    job.wait_for("asleep");
    let mut listening = 0;
    for pid in job.workers() {
        let links = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
        let sockets: Vec<_> = links
            .filter_map(|entry| {
                std::fs::read_link(entry.path()).ok()?.to_str()?.strip_prefix("socket:[").map(str::to_owned)
            })
            .map(|inode| inode.trim_end_matches(']').to_owned())
            .collect();
        for table in ["tcp", "tcp6"] {
            for line in std::fs::read_to_string(format!("/proc/{pid}/net/{table}")).unwrap().lines().skip(1) {
                let fields: Vec<_> = line.split_whitespace().collect();
                let (local, state, inode) = (fields[1], fields[3], fields[9]);
                // 0A: listening; addresses are hexadecimal, in this machine's byte order.
                if state == "0A" && sockets.iter().any(|socket| socket == inode) {
                    assert!(local.starts_with("0100007F:"), "rank with pid {pid} listens on {table} {local}");
                    listening += 1;
                }
            }
        }
    }
    job.signal(SIGTERM);
    job.wait().ends_with(143).leaves_no_process();
    assert!(listening >= 1, "rank 0 serves the store");
}
