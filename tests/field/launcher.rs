//! Closed pipes, floods, signals and hopeless restarts: the launcher ends in time, with the right exit code.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{PipeReader, Read};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use ddp_tests::{Ddp, SIGKILL, SIGTERM, cargo_ddp, launcher_processes, repo, signal_process, wait_until};
use serde_json::Value;
use tempfile::{TempDir, tempdir};

const SIGSTOP: i32 = 19;
/// Longer than a launcher takes to end, on a machine that is busy with other tests.
const BOUND: Duration = Duration::from_secs(60);

/// `cargo ddp launch FLAGS -- sh -c SCRIPT` in `dir`.
fn launch(dir: &Path, flags: &[&str], script: &str) -> Ddp {
    Ddp::new(["launch"].iter().chain(flags).chain(&["--", "sh", "-c", script]))
        .dir(dir)
        .env("XDG_CACHE_HOME", dir.join("cache"))
}

/// A call of `cargo ddp` whose stdout is a test's own.
fn with_stdout(dir: &Path, args: &[&str], stdout: impl Into<Stdio>) -> Output {
    let mut command = Command::new(cargo_ddp());
    command.arg("ddp").args(args).current_dir(dir).env("XDG_CACHE_HOME", dir.join("cache"));
    for name in ["LD_LIBRARY_PATH", "OMP_NUM_THREADS", "CARGO_MANIFEST_DIR"] {
        command.env_remove(name);
    }
    command.stdin(Stdio::null()).stdout(stdout).stderr(Stdio::piped()).output().unwrap()
}

/// A pipe whose reader is gone.
fn closed_pipe() -> Stdio {
    let (reader, writer): (PipeReader, _) = std::io::pipe().unwrap();
    drop(reader);
    writer.into()
}

fn full_disk() -> File {
    File::options().write(true).open("/dev/full").unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A folder with a snapshot, a run with metrics, and a crate.
fn project() -> TempDir {
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
fn metrics(run: &Path, points: &[(String, u64, f64)]) {
    fs::create_dir_all(run).unwrap();
    let start = r#"{"event":"start","format":1,"step":0,"attempt":0,"world_size":1,"time":1.0}"#;
    let mut text = format!("{start}\n");
    for (name, step, value) in points {
        let line = serde_json::json!({"event": "scalar", "name": name, "step": step, "value": value, "time": 2.0});
        text += &format!("{line}\n");
    }
    fs::write(run.join("metrics.jsonl"), text).unwrap();
}

/// Commands that print something, each of another kind.
const PRINTING: &[&[&str]] = &[
    &["--help"],
    &["--version"],
    &["new", "--list"],
    &["man"],
    &["completions", "bash"],
    &["ps"],
    &["ps", "--json"],
    &["runs", "--log-dir", "."],
    &["runs", "--log-dir", ".", "--json"],
    &["snapshot", "ls", "snapshots"],
    &["snapshot", "verify", "snapshots"],
    &["snapshot", "show", "snapshots", "--json"],
    &["snapshot", "prune", "snapshots", "--keep-last", "1", "--dry-run"],
    &["snapshot", "diff", "snapshots", "snapshots"],
    &["plot", "run", "--output", "plot.svg"],
    &["launch", "--nproc", "1", "--dry-run", "--", "true"],
    &["launch", "--nproc", "1", "--", "echo", "hello"],
    &["launch", "--nproc", "1", "--json", "--", "true"],
];

#[test]
fn a_reader_that_is_gone_is_not_an_error() {
    let dir = project();
    for args in PRINTING {
        let output = with_stdout(dir.path(), args, closed_pipe());
        assert_eq!(output.status.code(), Some(0), "{args:?}: {}", stderr(&output));
        assert!(!stderr(&output).contains("stdout"), "{args:?}: {}", stderr(&output));
    }
    // The code still says what the command found.
    fs::write(dir.path().join("snapshots/step-00000000/model.safetensors"), "damaged").unwrap();
    let output = with_stdout(dir.path(), &["snapshot", "verify", "snapshots"], closed_pipe());
    assert_eq!(output.status.code(), Some(6), "{}", stderr(&output));
}

#[test]
fn output_that_is_lost_is_an_error() {
    let dir = project();
    for args in PRINTING {
        let output = with_stdout(dir.path(), args, full_disk());
        assert_eq!(output.status.code(), Some(4), "{args:?}: {}", stderr(&output));
        let words = "error: can't write to stdout: No space left on device";
        assert!(stderr(&output).contains(words), "{args:?}: {}", stderr(&output));
        // The standard library says that everything was written there.
        let output = with_stdout(dir.path(), args, File::open("/dev/null").unwrap());
        assert_eq!(output.status.code(), Some(4), "{args:?}: {}", stderr(&output));
        assert!(stderr(&output).contains("error: can't write to stdout: "), "{args:?}: {}", stderr(&output));
    }
}

// What workers wrote to stderr was lost with exit code 0.
#[test]
fn workers_stderr_that_is_lost_is_an_error() {
    let dir = tempdir().unwrap();
    let code = |script: &str, stderr: Stdio| {
        let args = ["ddp", "launch", "--nproc", "1", "--max-restarts", "0", "--", "sh", "-c", script];
        let mut command = Command::new(cargo_ddp());
        command.args(args).current_dir(dir.path()).env("XDG_CACHE_HOME", dir.path().join("cache"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(stderr).status().unwrap().code()
    };
    let read_only = || File::open("/dev/null").unwrap().into();
    assert_eq!(code("echo hi >&2", full_disk().into()), Some(4));
    assert_eq!(code("echo hi >&2", read_only()), Some(4));
    assert_eq!(code("echo hi >&2; exit 3", full_disk().into()), Some(3));
    assert_eq!(code("echo hi >&2", closed_pipe()), Some(0), "a reader that is gone");
    assert_eq!(code("echo hi", full_disk().into()), Some(0), "the launcher's own lines alone");
}

// A terminal obeyed the comments of launch.json.
#[test]
fn a_terminal_gets_what_files_hold_escaped_and_a_script_gets_it_unchanged() {
    let dir = project();
    let runtime = repo().join("ddp-runtime");
    let manifest = format!(
        "[package]\nname = \"plain\"\nedition = \"2024\"\n[dependencies]\nddp-runtime.path = {runtime:?}\n[workspace]\n"
    );
    fs::write(dir.path().join("Cargo.toml"), manifest).unwrap();
    fs::copy(repo().join("Cargo.lock"), dir.path().join("Cargo.lock")).unwrap();
    fs::create_dir(dir.path().join(".vscode")).unwrap();
    let json = "{\n  // red \u{1b}[31m\n  \"version\": \"0.2.0\",\n  \"configurations\": []\n}\n";
    fs::write(dir.path().join(".vscode/launch.json"), json).unwrap();
    let piped = with_stdout(dir.path(), &["vscode", "--print"], Stdio::piped());
    let text = String::from_utf8(piped.stdout.clone()).unwrap();
    assert!(text.contains("// red \u{1b}[31m\n"), "{text}{}", stderr(&piped));
    let (master, slave) = terminal();
    let shown = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        // A terminal ends with an error.
        let _ = File::from(master).read_to_end(&mut bytes);
        String::from_utf8(bytes).unwrap()
    });
    let output = with_stdout(dir.path(), &["vscode", "--print"], slave);
    assert!(output.status.success(), "{}", stderr(&output));
    let shown = shown.join().unwrap();
    assert!(shown.contains(r"// red \u{1b}[31m") && !shown.contains('\u{1b}'), "{shown}");
}

#[test]
fn a_job_whose_output_is_lost_continues_and_keeps_its_logs() {
    let dir = tempdir().unwrap();
    let script = "i=0; while [ $i -lt 2000 ]; do echo line $i; i=$((i + 1)); done; touch done-$RANK
        until [ -e done-0 ] && [ -e done-1 ]; do sleep 0.05; done; exit $CODE";
    for (flags, code, expected) in [(&["--quiet"][..], 0, 4), (&["--json"], 0, 4), (&["--max-restarts", "0"], 3, 3)] {
        let script = script.replace("$CODE", &code.to_string());
        let args = [&["launch", "--nproc", "2"], flags, &["--", "sh", "-c", &script]].concat();
        let output = with_stdout(dir.path(), &args, full_disk());
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(expected), "{text}");
        assert_eq!(
            text.matches("warning: can't write to stdout: No space left").count(),
            if code == 0 { 1 } else { 2 }
        );
        for rank in 0..2 {
            fs::remove_file(dir.path().join(format!("done-{rank}"))).unwrap();
        }
        let report: Value =
            serde_json::from_slice(&fs::read(newest_run(dir.path()).join("report.json")).unwrap()).unwrap();
        assert_eq!(report["outcome"], if code == 0 { "done" } else { "failed" });
        let log = fs::read_to_string(newest_run(dir.path()).join("attempt-0/rank-1.stdout.log")).unwrap();
        assert!(log.ends_with("line 1999\n"), "{log}");
    }
}

/// The folder of the newest run below `dir`, wherever runs are.
fn newest_run(dir: &Path) -> std::path::PathBuf {
    let find = Command::new("find").arg(dir).args(["-name", "report.json", "-printf", "%T@ %h\n"]).output().unwrap();
    let text = String::from_utf8(find.stdout).unwrap();
    let newest = text.lines().max_by(|a, b| {
        let time = |line: &str| line.split(' ').next().unwrap().parse::<f64>().unwrap();
        time(a).total_cmp(&time(b))
    });
    newest.unwrap().split_once(' ').unwrap().1.into()
}

#[test]
fn a_job_survives_its_terminal() {
    let dir = tempdir().unwrap();
    let (master, terminal) = terminal();
    let script = "echo before; until [ -e closed ]; do sleep 0.05; done; echo after; echo after >&2; touch done-$RANK";
    let mut command = Command::new(cargo_ddp());
    command.args(["ddp", "launch", "--nproc", "2", "--", "sh", "-c", script]).current_dir(dir.path());
    command.env("XDG_CACHE_HOME", dir.path().join("cache")).stdin(Stdio::null());
    command.stdout(terminal.try_clone().unwrap()).stderr(terminal.try_clone().unwrap());
    let mut job = command.spawn().unwrap();
    drop((command, terminal));
    wait_until("workers", String::new, || newest_log(dir.path()).contains("before"));
    drop(master);
    fs::write(dir.path().join("closed"), "").unwrap();
    assert_eq!(job.wait().unwrap().code(), Some(0));
    assert!(dir.path().join("done-0").exists() && dir.path().join("done-1").exists());
}

fn newest_log(dir: &Path) -> String {
    let find = Command::new("find").arg(dir).args(["-name", "rank-1.stdout.log"]).output().unwrap();
    let path = String::from_utf8(find.stdout).unwrap();
    path.lines().next().map(|path| fs::read_to_string(path).unwrap()).unwrap_or_default()
}

/// A terminal, and who looks at it.
fn terminal() -> (OwnedFd, OwnedFd) {
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
    // SAFETY: the descriptor is new, and nobody else's.
    let master = unsafe { OwnedFd::from_raw_fd(master) };
    // SAFETY: as above.
    (master, unsafe { OwnedFd::from_raw_fd(slave) })
}

#[test]
fn what_a_worker_leaves_in_place_of_files_holds_nothing_up() {
    let dir = tempdir().unwrap();
    let outer = dir.path().join("outer");
    assert!(Command::new("mkfifo").arg(&outer).status().unwrap().success());
    for (what, code) in [
        // The reason of a failure.
        ("mkfifo $TORCHELASTIC_ERROR_FILE; exit 3", 3),
        ("mkdir $TORCHELASTIC_ERROR_FILE; exit 3", 3),
        ("ln -s /dev/zero $TORCHELASTIC_ERROR_FILE; exit 3", 3),
        ("truncate -s 100G $TORCHELASTIC_ERROR_FILE; exit 3", 3),
        // The launcher's own files, of this attempt and of the next.
        ("cd $DDP_RUN_DIR; for f in report.json run.json run.partial .lock; do rm -f $f; mkfifo $f; done; exit 3", 3),
        ("cd $DDP_RUN_DIR; for f in report.json run.json run.partial .lock; do rm -f $f; mkdir $f; done; exit 3", 3),
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
fn a_tracer_that_a_worker_leaves_does_not_hold_the_launcher_up() {
    let dir = tempdir().unwrap();
    // PTRACE_SEIZE, and then it takes note of nothing.
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
        eprintln!("SKIPPED: needs the right to trace processes");
    }
}

#[test]
fn a_fifo_in_place_of_a_file_is_refused() {
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
    let said = |(code, text): (i32, String), expected: i32| {
        assert!(code == expected && text.contains("it is a FIFO, not a regular file"), "{code}: {text}");
    };
    fifo("model.safetensors");
    said(run(&["snapshot", "import", "model.safetensors", "--to", "other"]), 2);
    fifo("names.json");
    said(run(&["snapshot", "export", "snapshots", "--names", "names.json", "--to", "other.safetensors"]), 4);
    fifo("run/metrics.jsonl");
    said(run(&["plot", "run", "--output", "plot.svg"]), 4);
    fifo("snapshots/step-00000000/state.json");
    said(run(&["snapshot", "verify", "snapshots"]), 6);
    let directory = dir.path().join("snapshots/step-00000000/state.json");
    fs::remove_file(&directory).unwrap();
    fs::create_dir(directory).unwrap();
    let (code, text) = run(&["snapshot", "verify", "snapshots"]);
    assert!(code == 6 && text.contains("it is a directory"), "{code}: {text}");
}

// JSON is text alone: `snapshot ls --json` panicked, and a run in such a folder left neither a record nor a report.
#[test]
fn a_folder_that_is_not_utf8_is_shown_in_json() {
    let dir = project();
    let folder = dir.path().join(OsStr::from_bytes(b"n\xff"));
    fs::rename(dir.path().join("snapshots"), &folder).unwrap();
    for command in ["ls", "show", "verify"] {
        let args = [OsStr::new("snapshot"), OsStr::new(command), folder.as_os_str(), OsStr::new("--json")];
        let done = Ddp::new(args).dir(dir.path()).run().succeeds();
        assert!(done.stdout.contains("n\u{fffd}/step-00000000\""), "{}", done.stdout);
    }
    let flags = ["--nproc", "1", "--report", "report.json"];
    let done = launch(&folder, &flags, "true").env("XDG_CACHE_HOME", dir.path().join("cache")).run().succeeds();
    assert!(!done.stderr.contains("warning: "), "{}", done.stderr);
    let report: Value = serde_json::from_slice(&fs::read(folder.join("report.json")).unwrap()).unwrap();
    assert!(report["run_dir"].as_str().unwrap().ends_with("n\u{fffd}/runs/1"), "{report}");
    let output = with_stdout(&folder, &["runs", "--json"], Stdio::piped());
    let runs: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(runs[0]["state"], "done", "{}", stderr(&output));
}

#[test]
fn numbers_and_texts_of_any_size_are_no_reason_to_panic() {
    let dir = tempdir().unwrap();
    let events = r#"
        echo '{"event":"resumed","snapshot":"s","epoch":18446744073709551615,"step":18446744073709551615}'
        for step in 1 18446744073709551615 0 18446744073709551615; do
        echo '{"event":"step","epoch":18446744073709551615,"step":'$step',"steps":18446744073709551615,"samples":18446744073709551615,"loss":1e308,"learning_rate":5e-324,"grad_norm":-1e308,"memory":18446744073709551615}'
        echo '{"event":"snapshot_saved","snapshot":"s","epoch":18446744073709551615,"step":'$step',"metric":1e308}'
        done"#;
    let script = format!("{{ {events}\n}} > /proc/self/fd/$DDP_EVENT_FD; exit $TORCHELASTIC_RESTART_COUNT");
    let script = script.replace("exit $", "[ $TORCHELASTIC_RESTART_COUNT = 1 ] || exit 3; : $");
    for seconds in ["1e19", "1e300", "inf", "1e10", "1e-300"] {
        let flags = ["--nproc", "2", "--max-restarts", "2", "--grace", seconds, "--stall-timeout", seconds];
        let done = launch(dir.path(), &[&flags[..], &["--backoff", seconds, "--json"]].concat(), &script).run();
        done.succeeds().leaves_no_process();
    }
    launch(dir.path(), &["--grace", "nan"], "exit 0").run().ends_with(2);
    // In a terminal there is a progress bar.
    let in_terminal = format!("'{}' ddp launch --nproc 1 -- sh -c \"$SCRIPT\"", cargo_ddp().display());
    let mut command = Command::new("script");
    command.args(["-qec", &in_terminal, "/dev/null"]).env("SCRIPT", &script).current_dir(dir.path());
    match command.stdin(Stdio::null()).output() {
        Ok(output) => assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout)),
        Err(_) => eprintln!("SKIPPED: the progress bar needs `script`, to have a terminal"),
    }

    let long = "x".repeat(70_000);
    let job = Ddp::new(["launch", "--nproc", "1", "--", "sh", "-c", "echo ready; exec sleep 500", &long]);
    let job = job.dir(dir.path()).env("XDG_CACHE_HOME", dir.path().join("cache")).start();
    job.wait_for("ready");
    for args in [["ps"], ["runs"]] {
        let output = with_stdout(dir.path(), &args, Stdio::piped());
        assert_eq!(output.status.code(), Some(0), "{args:?}: {}", stderr(&output));
        assert!(output.stdout.len() > long.len(), "{args:?}");
    }
    job.signal(SIGTERM);
    job.wait().ends_with(143).leaves_no_process();
}

#[test]
fn any_numbers_can_be_plotted() {
    let dir = tempdir().unwrap();
    let plot = |points: &[(String, u64, f64)], flags: &[&str]| {
        metrics(&dir.path().join("run"), points);
        let start = Instant::now();
        let args = [&["plot", "run", "--output", "plot.svg", "--output", "plot.png"], flags].concat();
        let output = with_stdout(dir.path(), &args, Stdio::piped());
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        assert!(start.elapsed() < 2 * BOUND, "{:?}", start.elapsed());
        let svg = fs::read_to_string(dir.path().join("plot.svg")).unwrap();
        assert!(svg.contains("step") && svg.len() < 4 << 20, "{}", svg.len());
        stderr(&output)
    };
    let loss =
        |values: &[f64]| (1..).zip(values).map(|(step, value)| ("loss".into(), step, *value)).collect::<Vec<_>>();
    for values in [&[5e-324][..], &[5e-324, 1e-323], &[-5e-324, 1e-310], &[1e-320, 1.0], &[f64::MAX, f64::MIN]] {
        plot(&loss(values), &[]);
        plot(&loss(values), &["--log"]);
        plot(&loss(values), &["--smooth=0.9"]);
    }
    plot(&[("loss".into(), u64::MAX, 1.0)], &[]);
    plot(&[("loss".into(), 0, 1.0), ("loss".into(), u64::MAX, 2.0)], &[]);
    plot(&[("x".repeat(70_000), 1, 1.0)], &[]);
    let many: Vec<_> =
        (0..500).flat_map(|i| (0..20).map(move |step| (format!("layer/{i}"), step, f64::from(i)))).collect();
    let said = plot(&many, &[]);
    assert!(said.contains("warning: 452 metrics are left out"), "{said}");
}

#[test]
fn a_flood_of_events_is_bounded_and_starves_nobody() {
    let dir = tempdir().unwrap();
    // 200 MB without an end; as much in small pieces; then without end, while rank 1 speaks now and then.
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

#[test]
fn a_stopped_launcher_is_woken_by_a_signal() {
    let dir = tempdir().unwrap();
    let started = || {
        let job = launch(dir.path(), &["--nproc", "2"], "echo ready; exec sleep 500").start();
        job.wait_for_count("ready", 2);
        job
    };
    for stopped in [&[2][..], &[1, 2]] {
        let job = started();
        let processes = launcher_processes(job.pid());
        stopped.iter().for_each(|index| signal_process(processes[*index], SIGSTOP));
        job.signal(SIGTERM);
        job.wait().ends_with(143).leaves_no_process();
    }
    // Ctrl-Z stops all of it.
    for now in [&[][..], &["--now"]] {
        let job = started();
        launcher_processes(job.pid()).into_iter().for_each(|pid| signal_process(pid, SIGSTOP));
        let output = with_stdout(dir.path(), &[&["stop"], now].concat(), Stdio::piped());
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        job.wait().ends_with(143).leaves_no_process();
    }
}

// The launcher was continued once, and `stop` waited for ever.
#[test]
fn stop_now_ends_a_launcher_that_its_worker_stops_again_and_again() {
    let dir = tempdir().unwrap();
    let script = "trap '' TERM; P=$PPID; K=$(cut -d' ' -f4 /proc/$P/stat); G=$(cut -d' ' -f4 /proc/$K/stat)
        echo ready; until [ -e go ]; do sleep 0.01; done; while :; do kill -STOP $P $K $G; sleep 0.02; done";
    let job = launch(dir.path(), &["--nproc", "1", "--grace", "1000"], script).start();
    job.wait_for("ready");
    fs::write(dir.path().join("go"), "").unwrap();
    let start = Instant::now();
    let output = with_stdout(dir.path(), &["stop", "--now"], Stdio::piped());
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(start.elapsed() < BOUND, "{:?}", start.elapsed());
    job.wait().ends_with(143).leaves_no_process();
}

// A job in the background of a script ignores SIGINT, which was the second signal.
#[test]
fn stop_now_needs_no_sigint() {
    let dir = tempdir().unwrap();
    let mut command = Command::new("sh");
    command.args(["-c", "trap '' INT; exec \"$@\"", "sh"]).arg(cargo_ddp());
    command.args(["ddp", "launch", "--nproc", "1", "--grace", "1000", "--", "sh", "-c"]);
    command.arg("trap '' TERM; touch ready; while :; do sleep 0.05; done").current_dir(dir.path());
    command.env("XDG_CACHE_HOME", dir.path().join("cache")).stdin(Stdio::null()).stderr(Stdio::null());
    let mut job = command.spawn().unwrap();
    wait_until("the worker", String::new, || dir.path().join("ready").exists());
    let start = Instant::now();
    let output = with_stdout(dir.path(), &["stop", "--now"], Stdio::piped());
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(start.elapsed() < BOUND, "{:?}", start.elapsed());
    assert_eq!(job.wait().unwrap().code(), Some(143));
}

/// A job whose output goes to `stdout`, with a worker that has written more than a pipe or a terminal takes.
fn stuck(dir: &Path, stdout: impl Into<Stdio>, stderr: impl Into<Stdio>, script: &str) -> Child {
    let mut command = Command::new(cargo_ddp());
    let script = format!("touch ready-$RANK; {script}");
    command.args(["ddp", "launch", "--nproc", "2", "--grace", "2", "--", "sh", "-c", &script]).current_dir(dir);
    command.env("XDG_CACHE_HOME", dir.join("cache")).stdin(Stdio::null()).stdout(stdout).stderr(stderr);
    let job = command.spawn().unwrap();
    wait_until("the workers", String::new, || dir.join("ready-0").exists() && dir.join("ready-1").exists());
    job
}

#[test]
fn a_reader_that_is_paused_holds_up_no_signal() {
    for script in ["exec yes", "trap '' TERM; yes | head -c 300000; while :; do sleep 0.1; done"] {
        let dir = tempdir().unwrap();
        // Nobody reads, and the pipe is full.
        let (reader, writer) = std::io::pipe().unwrap();
        let errors = writer.try_clone().unwrap();
        let mut job = stuck(dir.path(), writer, errors, script);
        let start = Instant::now();
        signal_process(job.id(), SIGTERM);
        assert_eq!(job.wait().unwrap().code(), Some(143));
        assert!(start.elapsed() < BOUND, "{:?}", start.elapsed());
        drop(reader);

        let dir = tempdir().unwrap();
        let (master, terminal) = terminal();
        // SAFETY: a system call, on a descriptor that is ours.
        assert_eq!(unsafe { libc::tcflow(terminal.as_raw_fd(), libc::TCOOFF) }, 0, "as Ctrl-S does");
        let mut job = stuck(dir.path(), terminal.try_clone().unwrap(), terminal.try_clone().unwrap(), script);
        signal_process(job.id(), SIGTERM);
        assert_eq!(job.wait().unwrap().code(), Some(143));
        drop((master, terminal));
    }
}

// The other two waited for the reader to say what had happened.
#[test]
fn a_launcher_that_is_killed_is_no_reason_to_wait_for_the_reader_of_stderr() {
    let dir = tempdir().unwrap();
    let (reader, writer) = std::io::pipe().unwrap();
    let mut job = stuck(dir.path(), Stdio::null(), writer, "yes >&2");
    let [.., launcher] = launcher_processes(job.id());
    signal_process(launcher, SIGKILL);
    let start = Instant::now();
    assert_eq!(job.wait().unwrap().code(), Some(137));
    assert!(start.elapsed() < BOUND, "{:?}", start.elapsed());
    drop(reader);
}

#[test]
fn a_launcher_that_does_not_respond_is_killed_after_the_second_signal() {
    let dir = tempdir().unwrap();
    let job = launch(dir.path(), &["--nproc", "2"], "setsid sleep 500 & echo ready; exec sleep 501").start();
    job.wait_for_count("ready", 2);
    let [.., launcher] = launcher_processes(job.pid());
    let launcher = libc::pid_t::try_from(launcher).unwrap();
    let null = std::ptr::null_mut::<libc::c_void>();
    // SAFETY: a system call. In this state a process hears no signal but SIGKILL.
    if unsafe { libc::ptrace(libc::PTRACE_ATTACH, launcher, null, null) } != 0 {
        eprintln!("SKIPPED: needs the right to trace processes");
        job.signal(SIGTERM);
        job.wait().ends_with(143);
        return;
    }
    let wait = |options| {
        // SAFETY: a system call.
        unsafe { libc::waitpid(launcher, std::ptr::null_mut(), libc::__WALL | options) }
    };
    assert_eq!(wait(0), launcher, "it is stopped");
    job.signal(SIGTERM);
    job.signal(2);
    wait_until("end of the launcher", String::new, || wait(libc::WNOHANG) != 0);
    job.wait().ends_with(143).says(&["error: the launcher did not respond"]).leaves_no_process();
}

#[test]
fn a_limit_on_file_sizes_ends_neither_the_launcher_nor_the_logs_of_others() {
    let dir = tempdir().unwrap();
    // Blocks of 512 bytes. A worker's own limit is the usual one.
    let script = "ulimit -f 8; exec \"$0\" ddp launch --nproc 1 -- sh -c '
        i=0; while [ $i -lt 2000 ]; do echo line $i; i=$((i + 1)); done
        (head -c 100000 /dev/zero > big) 2>/dev/null; echo worker $?'";
    let mut command = Command::new("sh");
    command.args(["-c", script]).arg(cargo_ddp()).current_dir(dir.path());
    command.env("XDG_CACHE_HOME", dir.path().join("cache")).stdin(Stdio::null());
    let output = command.output().unwrap();
    let (text, stdout) = (stderr(&output), String::from_utf8_lossy(&output.stdout).into_owned());
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert!(text.contains("rank-0.stdout.log ends here: File too large"), "{text}");
    assert!(stdout.contains("line 1999") && stdout.contains("worker 153"), "{stdout}");
}

#[test]
fn an_export_beyond_a_limit_is_one_error() {
    let dir = project();
    for name in ["out.pt", "out.safetensors"] {
        let script = format!("ulimit -f 0; exec \"$0\" ddp snapshot export snapshots --to {name}");
        let mut command = Command::new("sh");
        command.args(["-c", &script]).arg(cargo_ddp()).current_dir(dir.path()).stdin(Stdio::null());
        let output = command.output().unwrap();
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(4), "{text}");
        assert!(text.starts_with("error: ") && text.contains("File too large"), "{text}");
        assert!(!text.contains("ZipWriter"), "{text}");
        assert!(!dir.path().join(name).exists());
    }
}

#[test]
fn any_two_processes_of_a_launcher_can_be_killed() {
    let dir = tempdir().unwrap();
    let script = "setsid sleep 501 & (setsid sh -c 'sleep 502 & sleep 503' &) ; echo ready; sleep 504";
    for killed in [[0, 1], [0, 2], [1, 2]] {
        let job = launch(dir.path(), &["--nproc", "2"], script).start();
        job.wait_for_count("ready", 2);
        let processes = launcher_processes(job.pid());
        killed.iter().for_each(|index| signal_process(processes[*index], SIGKILL));
        job.wait().leaves_no_process_after(BOUND);
    }
}

#[test]
fn any_two_processes_of_a_launcher_can_be_killed_while_others_are_stopped() {
    let dir = tempdir().unwrap();
    let script = "setsid sleep 501 & echo ready; sleep 504";
    for killed in [&[0][..], &[1], &[2], &[0, 1], &[0, 2], &[1, 2]] {
        let job = launch(dir.path(), &["--nproc", "2"], script).start();
        job.wait_for_count("ready", 2);
        let processes = launcher_processes(job.pid());
        processes.into_iter().for_each(|pid| signal_process(pid, SIGSTOP));
        killed.iter().for_each(|index| signal_process(processes[*index], SIGKILL));
        job.wait().leaves_no_process_after(BOUND);
    }
}

#[test]
fn a_launcher_does_not_depend_on_its_parents_signals() {
    let dir = tempdir().unwrap();
    let launch = |script: &str| {
        let mut command = Command::new(cargo_ddp());
        command.args(["ddp", "launch", "--nproc", "1", "--", "sh", "-c", script]).current_dir(dir.path());
        command.env("XDG_CACHE_HOME", dir.path().join("cache")).stdin(Stdio::null()).stdout(Stdio::null());
        let setup = || {
            // SAFETY: no handler is set.
            unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
            let mut all = std::mem::MaybeUninit::uninit();
            // SAFETY: plain memory for the C library to fill.
            unsafe { libc::sigfillset(all.as_mut_ptr()) };
            // SAFETY: the call above filled it.
            unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), std::ptr::null_mut()) };
            Ok(())
        };
        // SAFETY: the closure runs between fork and exec, and makes system calls only.
        unsafe { command.pre_exec(setup) };
        command.spawn().unwrap()
    };
    let mut job = launch("grep -q '^SigBlk:[[:space:]]*0*$' /proc/self/status && exit 0; exit 3");
    assert_eq!(job.wait().unwrap().code(), Some(0));
    let mut job = launch("touch ready; exec sleep 500");
    wait_until("the worker", String::new, || dir.path().join("ready").exists());
    signal_process(job.id(), SIGTERM);
    assert_eq!(job.wait().unwrap().code(), Some(143));
}

/// An executable file in `dir`, by its path.
fn executable(dir: &Path, name: &str, content: &[u8]) -> String {
    let path = dir.join(name);
    fs::write(&path, content).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn a_script_is_refused_only_if_its_interpreter_is_missing() {
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
    // One interpreter after the other.
    let inner = executable(dir.path(), "inner", b"#!/opt/no/python3\n");
    let outer = executable(dir.path(), "outer", format!("#!{inner}\n").as_bytes());
    launch(&outer).ends_with(126).says(&["it needs /opt/no/python3, which does not exist"]);
    fs::set_permissions(&inner, fs::Permissions::from_mode(0o644)).unwrap();
    launch(&outer).ends_with(126).says(&["/inner, which is not executable", "hint: make it executable: chmod +x "]);
}

#[test]
fn a_program_for_another_machine_is_not_read_by_a_shell() {
    let dir = tempdir().unwrap();
    let mut other = fs::read("/bin/true").unwrap();
    // Its machine: one that was never built.
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
fn a_port_in_the_address_of_node_0_is_refused_with_the_right_option() {
    let dir = tempdir().unwrap();
    for (address, host) in [("[::1]:29500", "[::1]"), ("node-0:29500", "node-0")] {
        let flags = ["--nproc", "1", "--nnodes", "2", "--node-rank", "0", "--master-addr", address];
        let words = format!("use --master-addr '{host}' --master-port 29500");
        launch(dir.path(), &flags, "exit 0").run().ends_with(2).says(&[&words]);
    }
}

#[test]
fn a_usage_error_is_not_retried_and_an_identical_failure_at_startup_once() {
    let dir = tempdir().unwrap();
    let restarts = |code: i32, script: &str, words: &str| {
        let done = launch(dir.path(), &["--nproc", "2", "--backoff", "0"], script).run().ends_with(code);
        let restarts = done.stderr.matches("Restarting").count();
        done.says(&[words]).leaves_no_process();
        restarts
    };
    let usage = "echo \"error: unexpected argument '--epochs' found\" >&2; exit 2";
    assert_eq!(restarts(2, usage, "is a usage error, so it was not restarted"), 0);
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
    // A program of ours that took a step is another case, even with this code.
    let trained = "echo '{\"event\":\"step\",\"epoch\":0,\"step\":'$TORCHELASTIC_RESTART_COUNT'}' > \
                   /proc/self/fd/$DDP_EVENT_FD; exit 2";
    assert_eq!(restarts(2, trained, "`--max-restarts` allows more"), 3);
}
