//! Programs that can't be started, floods, leftovers of workers and hopeless restarts.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use ddp_tests::{Ddp, SIGTERM, launcher_processes, wait_until};
use tempfile::tempdir;

use super::calls::{BOUND, launch, project, stderr, with_stdout};

#[test]
fn odd_file_left_by_a_worker_does_not_block_the_launcher() {
    let dir = tempdir().unwrap();
    let outer = dir.path().join("outer");
    assert!(Command::new("mkfifo").arg(&outer).status().unwrap().success());
    for (what, code) in [
        // The error file.
        ("mkfifo $TORCHELASTIC_ERROR_FILE; exit 3", 3),
        ("mkdir $TORCHELASTIC_ERROR_FILE; exit 3", 3),
        ("ln -s /dev/zero $TORCHELASTIC_ERROR_FILE; exit 3", 3),
        ("truncate -s 100G $TORCHELASTIC_ERROR_FILE; exit 3", 3),
        // The launcher's own files, of this attempt and of the next.
        ("cd $DDP_RUN_DIR; for f in job.json job.partial .lock; do rm -f $f; mkfifo $f; done; exit 3", 3),
        ("cd $DDP_RUN_DIR; for f in job.json job.partial .lock; do rm -f $f; mkdir $f; done; exit 3", 3),
        ("mkdir -p $DDP_RUN_DIR/attempt-1; mkfifo $DDP_RUN_DIR/attempt-1/rank-0.stdout.log; exit 3", 3),
        ("rm -rf $DDP_RUN_DIR; touch $DDP_RUN_DIR; exit 3", 3),
        // A process in another session that never stops writing to the worker's stdout, stderr and events.
        ("(setsid yes &); exit 0", 0),
        ("(setsid sh -c 'yes >&2' &); exit 0", 0),
        ("(setsid sh -c 'yes > /proc/self/fd/$DDP_EVENT_FD' &); exit 0", 0),
        ("(setsid sh -c 'cat /dev/zero' &); exit 3", 3),
    ] {
        let start = Instant::now();
        let flags = ["--nproc", "2", "--max-restarts", "1", "--show", "none"];
        let done = launch(dir.path(), &flags, what).env("TORCHELASTIC_ERROR_FILE", &outer).run().ends_with(code);
        done.leaves_no_process();
        assert!(start.elapsed() < BOUND, "{what}: {:?}", start.elapsed());
    }
    for args in [&["ps"][..], &["runs"], &["runs", "--json"]] {
        let output = with_stdout(dir.path(), args, Stdio::piped());
        assert_eq!(output.status.code(), Some(0), "{args:?}: {}", stderr(&output));
    }
}

#[test]
fn tracer_left_by_a_worker_does_not_block_the_launcher() {
    let dir = tempdir().unwrap();
    // PTRACE_SEIZE, and then the tracer ignores every event.
    let tracer = "import ctypes, sys, time
failed = ctypes.CDLL(None).ptrace(0x4206, int(sys.argv[1]), None, None)
open('traced', 'w').write(str(failed))
time.sleep(1000)";
    fs::write(dir.path().join("trace.py"), tracer).unwrap();
    let script = "setsid sh -c \"python3 trace.py $$\" & while :; do sleep 0.05; done";
    let job = launch(dir.path(), &["--nproc", "1", "--grace", "1"], script).start();
    let traced = || fs::read_to_string(dir.path().join("traced")).unwrap_or_default();
    wait_until("tracer", traced, || !traced().is_empty());
    let start = Instant::now();
    job.signal(SIGTERM);
    job.wait().ends_with(143).leaves_no_process();
    assert!(start.elapsed() < BOUND, "{:?}", start.elapsed());
    if traced() != "0" {
        ddp_tests::skipped("needs the right to trace processes");
    }
}

#[test]
fn fifo_instead_of_an_input_file_is_refused() {
    let dir = project();
    let fifo = |path: &str| {
        let path = dir.path().join(path);
        let _ = fs::remove_file(&path);
        assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
    };
    let run = |args: &[&str]| {
        let output = with_stdout(dir.path(), args, Stdio::piped());
        (output.status.code().unwrap(), String::from_utf8_lossy(&output.stdout).into_owned() + &stderr(&output))
    };
    let ends_with = |(code, text): (i32, String), expected: i32| {
        assert!(code == expected && text.contains("it is a FIFO, not a regular file"), "{code}: {text}");
    };
    fifo("model.safetensors");
    ends_with(run(&["snapshot", "import", "model.safetensors", "--to", "other"]), 2);
    fifo("names.json");
    ends_with(run(&["snapshot", "export", "snapshots", "--names", "names.json", "--to", "other.safetensors"]), 4);
    fifo("run/metrics.jsonl");
    ends_with(run(&["plot", "run", "--output", "plot.svg"]), 4);
    fifo("snapshots/step-00000000/state.json");
    ends_with(run(&["snapshot", "verify", "snapshots"]), 6);
    let directory = dir.path().join("snapshots/step-00000000/state.json");
    fs::remove_file(&directory).unwrap();
    fs::create_dir(directory).unwrap();
    let (code, text) = run(&["snapshot", "verify", "snapshots"]);
    assert!(code == 6 && text.contains("it is a directory"), "{code}: {text}");
}

#[test]
fn flood_of_events_is_bounded_and_starves_no_rank() {
    let dir = tempdir().unwrap();
    // 200 MB without a newline; as much in small pieces; then endlessly, while rank 1 writes now and then.
    let script = r#"
        if [ $RANK = 1 ]; then
            until [ -e counted ]; do sleep 0.1; done
            for i in 1 2 3 4 5; do echo rank 1 says $i; sleep 0.1; done
        else
            fd=/proc/self/fd/$DDP_EVENT_FD
            head -c 200000000 /dev/zero > $fd
            echo > $fd
            yes '{"event":"step","epoch":0,"step":7}' | head -c 20000000 > $fd
            echo counted; touch counted
            yes '{"event":"snapshot_saved","snapshot":"s","epoch":0,"step":7}' > $fd &
            yes > /proc/self/fd/$DDP_EVENT_FD &
        fi
        trap 'exit 0' TERM
        while :; do sleep 0.1; done"#;
    let job = launch(dir.path(), &["--nproc", "2"], script).start();
    job.wait_for("counted");
    let [.., launcher] = launcher_processes(job.pid());
    let status = fs::read_to_string(format!("/proc/{launcher}/status")).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let peak: u64 = peak.split_whitespace().next().unwrap().parse().unwrap();
    assert!(peak < 100_000, "the launcher had {peak} kB");
    job.wait_for("rank 1 says 5");
    let start = Instant::now();
    job.signal(SIGTERM);
    job.wait().ends_with(143).leaves_no_process();
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
}

/// An executable file in `dir`, by its path.
fn executable(dir: &Path, name: &str, content: &[u8]) -> String {
    let path = dir.join(name);
    fs::write(&path, content).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn script_is_refused_only_if_its_interpreter_is_missing() {
    let dir = tempdir().unwrap();
    let launch = |program: &str| {
        let flags = ["launch", "--nproc", "1", "--max-restarts", "0", "--", program];
        Ddp::new(flags).dir(dir.path()).env("XDG_CACHE_HOME", dir.path().join("cache")).env("MYSH", "sh").run()
    };
    let bin = dir.path().join("bin");
    fs::create_dir(&bin).unwrap();
    executable(&bin, "my-sh", b"#!/bin/sh\nexec /bin/sh \"$@\"\n");
    let path = format!("PATH={}:/bin my-sh", bin.display());
    for words in ["${MYSH} -e", "'sh' -e", "\"sh\" -e", "sh\\_-e", "A=\"x y\" sh", &path] {
        let script = executable(dir.path(), "script", format!("#!/usr/bin/env -S {words}\necho fine\n").as_bytes());
        let done = launch(&script).succeeds();
        assert!(done.stdout.contains("fine"), "{words}: {}", done.stdout);
    }
    assert!(launch(&executable(dir.path(), "empty", b"#!\necho fine\n")).succeeds().stdout.contains("fine"));
    // A chain of interpreters.
    let inner = executable(dir.path(), "inner", b"#!/opt/no/python3\n");
    let outer = executable(dir.path(), "outer", format!("#!{inner}\n").as_bytes());
    launch(&outer).ends_with(126).says(&["interpreter /opt/no/python3 does not exist"]);
    fs::set_permissions(&inner, fs::Permissions::from_mode(0o644)).unwrap();
    launch(&outer)
        .ends_with(126)
        .says(&["/inner is not executable", "hint: make the interpreter executable: chmod +x "]);
}

#[test]
fn program_for_another_machine_is_not_read_by_a_shell() {
    let dir = tempdir().unwrap();
    let mut other = fs::read("/bin/true").unwrap();
    // The ELF header's machine: one that does not exist.
    other[18..20].copy_from_slice(&[0x77, 0x77]);
    for content in [&other[..], &[0; 300]] {
        let program = executable(dir.path(), "program", content);
        let done = Ddp::new(["launch", "--nproc", "2", "--", &program])
            .dir(dir.path())
            .env("XDG_CACHE_HOME", dir.path().join("cache"))
            .run()
            .ends_with(126)
            .says(&["Exec format error", "hint: a program must be built for this machine"]);
        assert!(!done.stderr.contains("estart"), "{}", done.stderr);
    }
}

#[test]
fn port_in_the_address_of_node_0_is_refused_with_the_right_option() {
    let dir = tempdir().unwrap();
    for (address, host) in [("[::1]:29500", "[::1]"), ("node-0:29500", "node-0")] {
        let flags = ["--nproc", "1", "--nnodes", "2", "--node-rank", "0", "--master-addr", address];
        let words = format!("use --master-addr '{host}' --master-port 29500");
        launch(dir.path(), &flags, "exit 0").run().ends_with(2).says(&[&words]);
    }
}

#[test]
fn usage_error_is_not_retried_and_an_identical_failure_at_startup_once() {
    let dir = tempdir().unwrap();
    let restarts = |code: i32, script: &str, words: &str| {
        let flags = ["--nproc", "2", "--backoff", "0", "--max-restarts", "3"];
        let done = launch(dir.path(), &flags, script).run().ends_with(code);
        let restarts = done.stderr.matches("Restarting").count();
        done.says(&[words]).leaves_no_process();
        restarts
    };
    let usage = "echo \"error: unexpected argument '--epochs' found\" >&2; exit 2";
    assert_eq!(restarts(2, usage, "is a usage error, so it was not restarted"), 0);
    launch(dir.path(), &["--nproc", "1"], usage)
        .run()
        .ends_with(2)
        .says(&["is a usage error, so it was not restarted"]);
    let same = "echo \"pid $$ of rank $RANK: no data at 0x$$\" >&2; exit 1";
    assert_eq!(restarts(1, same, "in the same way before its first step"), 1);
    for silent in ["echo 'error: bad flag'; exit 1", "kill -SEGV $$"] {
        let code = if silent.contains("SEGV") { 139 } else { 1 };
        assert_eq!(restarts(code, silent, "in the same way before its first step"), 1);
    }
    let error_file = r#"m="can't bind 127.0.0.1:$MASTER_PORT (pid $$)"; echo "$m" >&2
        printf '{"message":{"message":"%s","extraInfo":{"py_callstack":"","timestamp":"1"}}}' "$m" > \
            $TORCHELASTIC_ERROR_FILE
        exit 1"#;
    assert_eq!(restarts(1, error_file, "in the same way before its first step"), 1);
    let random = "echo \"no $(mktemp -u) for $(cat /proc/sys/kernel/random/uuid)\" >&2; exit 1";
    assert_eq!(restarts(1, random, "in the same way before its first step"), 1);
    let different = "echo $TORCHELASTIC_RESTART_COUNT | tr 0123 abcd >&2; exit 1";
    assert_eq!(restarts(1, different, "`--max-restarts` allows more"), 3);
    // A program with ddp-runtime that took a step is a different case, even with this exit code.
    let trained = "echo '{\"event\":\"step\",\"epoch\":0,\"step\":'$TORCHELASTIC_RESTART_COUNT'}' > \
                   /proc/self/fd/$DDP_EVENT_FD; exit 2";
    assert_eq!(restarts(2, trained, "`--max-restarts` allows more"), 3);
}
