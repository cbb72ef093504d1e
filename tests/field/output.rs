//! Output of the launcher to closed pipes, full disks and terminals, with names and numbers of any kind.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{PipeReader, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use ddp_tests::{Ddp, SIGTERM, cargo_ddp, repo, wait_until};
use serde_json::Value;
use tempfile::tempdir;

use super::calls::{BOUND, launch, metrics, project, stderr, terminal, with_stdout};

/// A pipe whose read end is closed.
fn closed_pipe() -> Stdio {
    let (reader, writer): (PipeReader, _) = std::io::pipe().unwrap();
    drop(reader);
    writer.into()
}

fn full_disk() -> File {
    File::options().write(true).open("/dev/full").unwrap()
}

/// Commands that print, one of each kind.
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
fn closed_pipe_is_not_an_error() {
    let dir = project();
    for args in PRINTING {
        let output = with_stdout(dir.path(), args, closed_pipe());
        assert_eq!(output.status.code(), Some(0), "{args:?}: {}", stderr(&output));
        assert!(!stderr(&output).contains("stdout"), "{args:?}: {}", stderr(&output));
    }
    // The exit code still reports the result of the command.
    fs::write(dir.path().join("snapshots/step-00000000/model.safetensors"), "damaged").unwrap();
    let output = with_stdout(dir.path(), &["snapshot", "verify", "snapshots"], closed_pipe());
    assert_eq!(output.status.code(), Some(6), "{}", stderr(&output));
}

#[test]
fn output_that_cannot_be_written_is_an_error() {
    let dir = project();
    for args in PRINTING {
        let output = with_stdout(dir.path(), args, full_disk());
        assert_eq!(output.status.code(), Some(4), "{args:?}: {}", stderr(&output));
        let words = "error: can't write to stdout: No space left on device";
        assert!(stderr(&output).contains(words), "{args:?}: {}", stderr(&output));
        // The standard library reports success there.
        let output = with_stdout(dir.path(), args, File::open("/dev/null").unwrap());
        assert_eq!(output.status.code(), Some(4), "{args:?}: {}", stderr(&output));
        assert!(stderr(&output).contains("error: can't write to stdout: "), "{args:?}: {}", stderr(&output));
    }
}

// Workers' stderr was lost with exit code 0.
#[test]
fn workers_stderr_that_cannot_be_written_is_an_error() {
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

// A terminal executed control sequences in comments of launch.json.
#[test]
fn file_contents_are_escaped_on_a_terminal_and_unchanged_in_a_pipe() {
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
fn job_whose_output_is_lost_continues_and_keeps_its_logs() {
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
            serde_json::from_slice(&fs::read(newest_run(dir.path()).join("job.json")).unwrap()).unwrap();
        assert_eq!(report["outcome"], if code == 0 { "done" } else { "failed" });
        let log = fs::read_to_string(newest_run(dir.path()).join("attempt-0/rank-1.stdout.log")).unwrap();
        assert!(log.ends_with("line 1999\n"), "{log}");
    }
}

/// The folder of the newest run, at any depth below `dir`.
fn newest_run(dir: &Path) -> std::path::PathBuf {
    let find = Command::new("find").arg(dir).args(["-name", "job.json", "-printf", "%T@ %h\n"]).output().unwrap();
    let text = String::from_utf8(find.stdout).unwrap();
    let newest = text.lines().max_by(|a, b| {
        let time = |line: &str| line.split(' ').next().unwrap().parse::<f64>().unwrap();
        time(a).total_cmp(&time(b))
    });
    newest.unwrap().split_once(' ').unwrap().1.into()
}

#[test]
fn job_survives_its_terminal() {
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

// JSON holds only UTF-8: `snapshot ls --json` panicked, and a run in such a folder left neither a record nor a report.
#[test]
fn folder_that_is_not_utf8_is_shown_in_json() {
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
fn events_with_extreme_numbers_and_texts_cause_no_panic() {
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
        Err(_) => ddp_tests::skipped("the progress bar needs `script`, to have a terminal"),
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
fn plot_accepts_any_numbers() {
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
    let printed = plot(&many, &[]);
    assert!(printed.contains("warning: skipped 452 metrics: "), "{printed}");
}

#[test]
fn limit_on_file_sizes_ends_neither_the_launcher_nor_the_logs_of_others() {
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
fn export_beyond_a_limit_is_one_error() {
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
