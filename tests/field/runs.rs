//! Run directories, logs, reports and the registry of jobs: nothing of the user is removed.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::net::TcpListener;
use std::os::unix::fs::{FileTypeExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use ddp_tests::{Ddp, Done, SIGKILL, SIGTERM, cargo_ddp, children, signal_process, wait_until};
use serde_json::Value;
use tempfile::tempdir;

/// Newer runs that an older one needs to lose its logs.
const KEPT_RUNS: u64 = 50;

fn launch(dir: &Path, flags: &[&str], script: &str) -> Ddp {
    let args = ["launch", "--nproc", "1"];
    Ddp::new(args.iter().chain(flags).chain(&["--", "sh", "-c", script])).dir(dir)
}

fn write(path: PathBuf, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

/// A run as an earlier version left it in `runs`: without a marker.
fn old_run(runs: &Path, number: u64, folder: &Path) {
    let job = serde_json::json!({"run": format!("run-{number}-1"), "pid": 1, "started": 1_700_000_000 + number, "nproc": 1,
        "gpus": null, "command": ["train"], "folder": folder, "run_dir": runs.join(number.to_string()), "workers": [], "attempt": 0});
    write(runs.join(format!("{number}/run.json")), &job.to_string());
    write(runs.join(format!("{number}/.lock")), "");
    write(runs.join(format!("{number}/attempt-0/rank-0.stdout.log")), "loss 1.0\n");
}

fn runs(dir: &Path, flags: &[&str]) -> Vec<Value> {
    let done = Ddp::new(["runs", "--json"].iter().chain(flags)).dir(dir).run().succeeds();
    serde_json::from_str(&done.stdout).unwrap()
}

fn numbers(runs: &[Value]) -> Vec<u64> {
    runs.iter().map(|run| run["number"].as_u64().unwrap()).collect()
}

fn fifo(path: &Path) {
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    rustix::fs::mknodat(rustix::fs::CWD, path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
}

/// What is in a directory, at any depth.
fn tree(dir: &Path) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    let mut left = vec![dir.to_owned()];
    while let Some(dir) = left.pop() {
        for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
            if entry.file_type().unwrap().is_dir() {
                left.push(entry.path());
            }
            found.insert(entry.path());
        }
    }
    found
}

// `--log-dir data` on a data set with 100 folders named by class removed 51 of them, and ended with 0.
#[test]
fn log_dir_with_numbered_directories_of_the_user_loses_nothing() {
    let dir = tempdir().unwrap();
    let data = dir.path().join("data");
    for class in 0..100 {
        write(data.join(format!("{class}/image-0.png")), "pixels");
    }
    for name in ["007", "+7", "18446744073709551615", "100"] {
        write(data.join(name).join("image-0.png"), "pixels");
    }
    // Neither a marker nor a run.
    write(data.join("101/run.json"), "{}");
    write(data.join("102/.lock"), "");
    fs::create_dir(data.join("103")).unwrap();
    let before = tree(&data);
    for _ in 0..2 {
        launch(dir.path(), &["--log-dir", "data"], "true").run().succeeds();
    }
    let after = tree(&data);
    assert_eq!(before.difference(&after).collect::<Vec<_>>(), Vec::<&PathBuf>::new());
    assert_eq!(numbers(&runs(dir.path(), &["--log-dir", "data"])), [104, 105]);
    assert!(!data.join(".gitignore").exists(), "the directory is the user's");
}

// A worker's link in place of the next attempt's folder had a file of the user's emptied.
#[test]
fn link_in_place_of_an_attempt_is_not_followed() {
    let dir = tempdir().unwrap();
    write(dir.path().join("victim/rank-0.stdout.log"), "keep");
    let script = "[ $TORCHELASTIC_RESTART_COUNT = 1 ] || ln -s $PWD/victim $DDP_RUN_DIR/attempt-1; echo lost; exit 3";
    let done = launch(dir.path(), &["--max-restarts", "1", "--backoff", "0"], script).run().ends_with(3);
    done.says(&["attempt-1 is not a directory"]);
    assert_eq!(fs::read_to_string(dir.path().join("victim/rank-0.stdout.log")).unwrap(), "keep");
    assert_eq!(fs::read_dir(dir.path().join("victim")).unwrap().count(), 1);
}

// Such a directory had no run start any more: "no storage space".
#[test]
fn run_with_the_largest_number_of_all_is_skipped() {
    let dir = tempdir().unwrap();
    write(dir.path().join("runs/18446744073709551615/.cargo-ddp-run"), "{}");
    launch(dir.path(), &[], "true").run().succeeds();
    launch(dir.path(), &[], "true").run().succeeds();
    assert_eq!(numbers(&runs(dir.path(), &[])), [1, 2]);
}

// A real directory in place of the link, as `scp -r` leaves it, kept every run from starting.
#[test]
fn latest_that_is_not_our_link_blocks_no_run_and_stays() {
    let dir = tempdir().unwrap();
    let latest = dir.path().join("runs/latest");
    let run = || launch(dir.path(), &[], "echo here").run().succeeds();
    write(latest.join("best.pt"), "weights");
    run().says(&["warning: ", "runs/latest does not point to this run: it is a directory"]);
    assert_eq!(fs::read_to_string(latest.join("best.pt")).unwrap(), "weights");
    fs::remove_dir_all(&latest).unwrap();
    fs::write(&latest, "text").unwrap();
    run().says(&["it is a file, which was left unchanged"]);
    assert_eq!(fs::read_to_string(&latest).unwrap(), "text");
    fs::remove_file(&latest).unwrap();
    symlink("../models/best", &latest).unwrap();
    run().says(&["it is a link to ../models/best"]);
    assert_eq!(fs::read_link(&latest).unwrap(), Path::new("../models/best"));
    // `plot` and `runs` do without it.
    Ddp::new(["plot"]).dir(dir.path()).run().ends_with(2).says(&["runs/3 has no metrics"]);

    // Data that is numbered as runs are.
    fs::remove_file(&latest).unwrap();
    write(dir.path().join("runs/2024/image.png"), "pixels");
    symlink("2024", &latest).unwrap();
    run().says(&["it is a link to 2024, which was left unchanged"]);
    assert_eq!(fs::read_link(&latest).unwrap(), Path::new("2024"));
    fs::remove_dir_all(dir.path().join("runs/2024")).unwrap();

    // A link to a run that is gone is replaced.
    fs::remove_file(&latest).unwrap();
    symlink("77", &latest).unwrap();
    assert!(!run().stderr.contains("warning"));
    assert_eq!(fs::read_link(&latest).unwrap(), Path::new("5"));
    // What `scp -r` makes of the link: a copy of a run, which is kept.
    fs::remove_file(&latest).unwrap();
    assert!(Command::new("cp").arg("-r").arg(dir.path().join("runs/5")).arg(&latest).status().unwrap().success());
    write(latest.join("metrics.jsonl"), "history");
    assert!(!run().stderr.contains("warning"));
    assert_eq!(fs::read_link(&latest).unwrap(), Path::new("6"));
    assert_eq!(fs::read_to_string(dir.path().join("runs/latest.copy/metrics.jsonl")).unwrap(), "history");
}

#[test]
fn runs_beyond_the_limit_lose_their_logs_and_nothing_else() {
    let dir = tempdir().unwrap();
    let runs_dir = dir.path().join("runs");
    for number in 1..=KEPT_RUNS + 1 {
        old_run(&runs_dir, number, dir.path());
    }
    write(runs_dir.join("1/metrics.jsonl"), "history");
    write(runs_dir.join("1/events.out.tfevents.1700000000.host.1.0"), "history");
    let done = launch(dir.path(), &[], "true").run().succeeds();
    done.says(&["Pruned the logs of runs 1 to 2: only the newest 50 runs keep theirs"]);
    assert!(
        runs_dir.join("1/metrics.jsonl").exists()
            && runs_dir.join("1/events.out.tfevents.1700000000.host.1.0").exists()
    );
    assert!(!runs_dir.join("1/attempt-0").exists() && !runs_dir.join("2").exists());
    assert!(runs_dir.join("3/attempt-0/rank-0.stdout.log").exists());
    let left = numbers(&runs(dir.path(), &[]));
    assert_eq!((left.len(), left[0], left[1]), (51, 1, 3), "{left:?}");
}

// It got its lock only when all nodes had come: 50 runs of other jobs removed its directory meanwhile.
#[test]
fn run_that_waits_for_its_nodes_is_not_pruned() {
    let dir = tempdir().unwrap();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
    let nodes = ["--nnodes", "2", "--node-rank", "0", "--master-addr", "127.0.0.1", "--master-port", &port];
    let waiting = launch(dir.path(), &nodes, "true").start();
    waiting.wait_for("for node 1 of 2");
    let run = dir.path().join("runs/1");
    assert!(run.is_dir());
    for number in 2..=KEPT_RUNS + 10 {
        old_run(&dir.path().join("runs"), number, dir.path());
    }
    launch(dir.path(), &[], "true").run().succeeds();
    assert!(run.join(".lock").exists() && !dir.path().join("runs/2").exists());
    waiting.signal(SIGKILL);
    waiting.wait();
    launch(dir.path(), &[], "true").run().succeeds();
    assert!(!run.exists(), "nobody waits any more");
}

/// What the list of runs says of the only one in `dir`.
fn state(dir: &Path) -> (String, String) {
    let runs = runs(dir, &[]);
    assert_eq!(runs.len(), 1, "{runs:?}");
    (runs[0]["state"].as_str().unwrap().to_owned(), runs[0]["because"].as_str().unwrap_or_default().to_owned())
}

// It was in no list, so that `stop` could not find it.
#[test]
fn run_that_waits_for_its_nodes_is_listed_and_can_be_stopped() {
    let dir = tempdir().unwrap();
    let cache = dir.path().join("cache");
    for node in ["0", "1"] {
        let dir = dir.path().join(node);
        fs::create_dir(&dir).unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
        let nodes = ["--nnodes", "2", "--node-rank", node, "--master-addr", "127.0.0.1", "--master-port", &port];
        let waiting = launch(&dir, &nodes, "true").env("XDG_CACHE_HOME", &cache).start();
        waiting.wait_for(if node == "0" { "for node 1 of 2" } else { "Joining" });
        let ps = Ddp::new(["ps", "--json"]).dir(&dir).env("XDG_CACHE_HOME", &cache).run().succeeds();
        let jobs: Vec<Value> = serde_json::from_str(&ps.stdout).unwrap();
        assert_eq!(jobs.len(), 1, "{jobs:?}");
        assert_eq!((&jobs[0]["pid"], &jobs[0]["workers"]), (&waiting.pid().into(), &Value::Array(vec![])));
        assert_eq!(state(&dir), ("waiting".into(), "".into()));
        Ddp::new(["stop"]).dir(&dir).env("XDG_CACHE_HOME", &cache).run().succeeds().says(&["Stopped"]);
        waiting.wait();
        assert_eq!(state(&dir), ("stopped".into(), "while it waited for its nodes".into()));
    }
    // Nobody came.
    let dir = dir.path().join("late");
    fs::create_dir(&dir).unwrap();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
    let nodes = ["--nnodes", "2", "--node-rank", "0", "--master-addr", "127.0.0.1", "--master-port", &port];
    launch(&dir, &[&nodes[..], &["--join-timeout", "1"]].concat(), "true").run().ends_with(5);
    let (state, because) = state(&dir);
    assert!(state == "node_lost" && because.contains("the nodes can't meet"), "{state}: {because}");
}

/// A failing job with `--report`; its report is what `read` gives.
fn report(dir: &Path, to: &str, read: impl FnOnce(Done) -> Vec<u8>) {
    let done = launch(dir, &["--max-restarts", "0", "--report", to], "exit 3").run().ends_with(3);
    assert!(!done.stderr.contains("report"), "{}", done.stderr);
    let text = read(done);
    let report: Value = serde_json::from_slice(&text).unwrap_or_else(|err| panic!("{to}: {err}"));
    assert_eq!((&report["outcome"], &report["exit_code"]), (&"failed".into(), &3.into()), "{to}");
}

// `--report /dev/stdout`, as root, made a regular file of the device.
#[test]
fn report_goes_through_what_is_not_a_regular_file() {
    let dir = tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    for stream in ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"] {
        report(dir.path(), stream, |done| done.stdout.into_bytes());
    }
    symlink("/dev/stdout", path("to-stdout")).unwrap();
    report(dir.path(), "to-stdout", |done| done.stdout.into_bytes());
    assert!(path("to-stdout").is_symlink());

    fifo(&path("fifo"));
    symlink("fifo", path("to-fifo")).unwrap();
    for name in ["fifo", "to-fifo"] {
        let fifo = path(name);
        let reader = std::thread::spawn(move || fs::read(fifo).unwrap());
        report(dir.path(), name, |_| reader.join().unwrap());
    }
    assert!(fs::symlink_metadata(path("fifo")).unwrap().file_type().is_fifo() && path("to-fifo").is_symlink());

    fs::write(path("file"), "old").unwrap();
    symlink("file", path("to-file")).unwrap();
    symlink("new", path("dangling")).unwrap();
    for name in ["to-file", "dangling"] {
        report(dir.path(), name, |_| fs::read(path(name)).unwrap());
        assert!(path(name).is_symlink());
    }
    // What stdout has already got stays before it.
    let file = path("stdout.txt");
    let mut command = Command::new(cargo_ddp());
    command.current_dir(dir.path()).args([
        "ddp",
        "launch",
        "--nproc",
        "1",
        "--report",
        "/dev/stdout",
        "--",
        "echo",
        "text",
    ]);
    let status =
        command.stdin(Stdio::null()).stdout(File::create(&file).unwrap()).stderr(Stdio::null()).status().unwrap();
    assert!(status.success());
    let text = fs::read_to_string(&file).unwrap();
    assert!(text.starts_with("[rank 0] text\n{") && text.contains(r#""outcome": "done""#), "{text}");

    launch(dir.path(), &["--report", "/dev/fd/77"], "true")
        .run()
        .ends_with(2)
        .says(&["--report: can't write to /dev/fd/77"]);
    launch(dir.path(), &["--report", "no/where"], "true").run().ends_with(2).says(&["no is not a directory"]);
    // It was lost at the end, with a warning.
    launch(dir.path(), &["--report", "missing/"], "true")
        .run()
        .ends_with(2)
        .says(&["names a directory that does not exist"]);
}

// `--report /proc/PID/fd/1` replaced the file, and what the process wrote before and after was lost.
#[test]
fn report_to_a_descriptor_of_another_process_replaces_no_file() {
    let dir = tempdir().unwrap();
    let script = r#"exec >> file; echo before; "$0" ddp launch --nproc 1 --report /proc/$$/fd/1 -- true; echo after"#;
    let mut command = Command::new("bash");
    command.args(["-c", script]).arg(cargo_ddp()).current_dir(dir.path()).stdin(Stdio::null()).stderr(Stdio::null());
    assert!(command.status().unwrap().success());
    let text = fs::read_to_string(dir.path().join("file")).unwrap();
    assert!(text.starts_with("before\n{") && text.contains(r#""outcome": "done""#), "{text}");
    assert!(text.ends_with("after\n"), "{text}");
}

// Under a scheduler's agent the cause goes where it wants it, which may be no file either.
#[test]
fn error_file_around_the_launcher_is_written_through() {
    let dir = tempdir().unwrap();
    let failing = |to: &Path| launch(dir.path(), &["--max-restarts", "0"], "exit 3").env("TORCHELASTIC_ERROR_FILE", to);
    let path = dir.path().join("fifo");
    fifo(&path);
    let reader = std::thread::spawn({
        let path = path.clone();
        move || fs::read_to_string(path).unwrap()
    });
    failing(&path).run().ends_with(3);
    let text = reader.join().unwrap();
    assert!(text.contains("rank 0 ended with exit code 3"), "{text}");
    // Nobody reads it.
    failing(&path).run().ends_with(3);
    assert!(fs::symlink_metadata(&path).unwrap().file_type().is_fifo());
}

#[test]
fn report_keeps_device_nodes() {
    let dir = tempdir().unwrap();
    let null = dir.path().join("null");
    let (kind, mode) = (rustix::fs::FileType::CharacterDevice, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR);
    if rustix::fs::mknodat(rustix::fs::CWD, &null, kind, mode, rustix::fs::makedev(1, 3)).is_err()
        || fs::write(&null, "x").is_err()
    {
        eprintln!("SKIPPED: needs the right to make device nodes, and to use them");
        return;
    }
    launch(dir.path(), &["--report", "null"], "true").run().succeeds();
    assert!(fs::symlink_metadata(&null).unwrap().file_type().is_char_device());
}

// Nobody reads it: the launcher ends all the same.
// It was lost with a warning and exit code 0.
#[test]
fn report_that_can_not_be_written_is_an_error() {
    let dir = tempdir().unwrap();
    let report = |script| launch(dir.path(), &["--report", "/dev/full", "--max-restarts", "0"], script).run();
    let words = ["error: can't write the report: No space left on device", "hint: the run's directory has it, too: "];
    report("true").ends_with(4).says(&words);
    report("exit 3").ends_with(3).says(&words);
}

#[test]
fn report_to_a_fifo_that_nobody_reads_ends_with_a_warning() {
    let dir = tempdir().unwrap();
    fifo(&dir.path().join("fifo"));
    launch(dir.path(), &["--report", "fifo"], "true").run().succeeds().says(&["warning: can't write the report: "]);
}

#[test]
fn plot_goes_through_what_is_not_a_regular_file() {
    let dir = tempdir().unwrap();
    let lines = [
        r#"{"event":"start","format":1,"step":0,"attempt":0,"world_size":1,"time":1700000000.5}"#,
        r#"{"event":"scalar","name":"loss","step":1,"value":0.5,"time":1700000001.5}"#,
        r#"{"event":"scalar","name":"loss","step":2,"value":0.25,"time":1700000002.5}"#,
    ];
    write(dir.path().join("run/metrics.jsonl"), &(lines.join("\n") + "\n"));
    let plot = |to: &str| Ddp::new(["plot", "./run", "-o", to]).dir(dir.path());
    let done = plot("/dev/stdout").run().succeeds();
    assert!(done.stdout.starts_with("<svg") && done.stdout.trim_end().ends_with("</svg>"), "{}", done.stdout);
    symlink("/dev/stdout", dir.path().join("out.svg")).unwrap();
    assert_eq!(plot("out.svg").run().succeeds().stdout, done.stdout);
    assert!(dir.path().join("out.svg").is_symlink());
    fifo(&dir.path().join("fifo.png"));
    let path = dir.path().join("fifo.png");
    let reader = std::thread::spawn(move || fs::read(path).unwrap());
    plot("fifo.png").run().succeeds();
    assert!(reader.join().unwrap().starts_with(b"\x89PNG"));
    fs::write(dir.path().join("real.svg"), "old").unwrap();
    symlink("real.svg", dir.path().join("link.svg")).unwrap();
    assert_eq!(plot("link.svg").run().succeeds().stdout, "link.svg\n");
    assert!(dir.path().join("link.svg").is_symlink());
    assert_eq!(fs::read_to_string(dir.path().join("real.svg")).unwrap().trim_end(), done.stdout.trim_end());
}

#[test]
fn export_goes_through_what_is_not_a_regular_file() {
    let dir = tempdir().unwrap();
    let header = r#"{"weight":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#;
    let mut model = (header.len() as u64).to_le_bytes().to_vec();
    model.extend(header.as_bytes());
    model.extend([0; 8]);
    fs::write(dir.path().join("model.safetensors"), model).unwrap();
    let snapshot = |args: &[&str]| Ddp::new(["snapshot"].iter().chain(args)).dir(dir.path());
    snapshot(&["import", "model.safetensors", "--to", "snapshots"]).run().succeeds();
    let export = |to: &str| snapshot(&["export", "snapshots", "--to", to]);
    let file = export("plain.safetensors").run().succeeds();
    assert_eq!(file.stdout, "plain.safetensors\n");
    // The order of metadata differs.
    let names = |bytes: &[u8]| {
        let names = safetensors::SafeTensors::deserialize(bytes).unwrap().names().join(" ");
        (bytes.len(), names)
    };
    let plain = names(&fs::read(dir.path().join("plain.safetensors")).unwrap());
    assert_eq!(plain.1, "weight");

    fifo(&dir.path().join("fifo.safetensors"));
    let path = dir.path().join("fifo.safetensors");
    let reader = std::thread::spawn(move || fs::read(path).unwrap());
    export("fifo.safetensors").run().succeeds();
    assert_eq!(names(&reader.join().unwrap()), plain);
    assert!(fs::metadata(dir.path().join("fifo.safetensors")).unwrap().file_type().is_fifo());
    symlink("/dev/null", dir.path().join("null.pt")).unwrap();
    symlink("new.safetensors", dir.path().join("link.safetensors")).unwrap();
    for to in ["null.pt", "link.safetensors"] {
        export(to).run().succeeds();
        assert!(dir.path().join(to).is_symlink());
    }
    assert_eq!(names(&fs::read(dir.path().join("new.safetensors")).unwrap()), plain);
    // A file is not overwritten, nor is one behind a link.
    export("link.safetensors").run().ends_with(2);
}

#[test]
fn metrics_go_through_what_is_not_a_regular_file() {
    let dir = tempdir().unwrap();
    let train = || {
        let logs = dir.path().join("runs");
        let run = ["run", "-p", "ddp-tests", "--bin", "metrics", "--nproc", "2", "--max-restarts", "0", "--log-dir"];
        let args = [logs.to_str().unwrap(), "--", "trainer", dir.path().to_str().unwrap()];
        Ddp::new(run.iter().chain(&args)).run().succeeds()
    };
    let path = dir.path().join("metrics.jsonl");
    // Another run that does the same.
    let null = File::open("/dev/null").unwrap();
    rustix::fs::flock(&null, rustix::fs::FlockOperation::LockExclusive).unwrap();
    symlink("/dev/null", &path).unwrap();
    train();
    assert_eq!(fs::read_link(&path).unwrap(), Path::new("/dev/null"));
    fs::remove_file(&path).unwrap();
    fifo(&path);
    let reader = std::thread::spawn(move || fs::read_to_string(path).unwrap());
    train();
    let text = reader.join().unwrap();
    assert!(text.lines().all(|line| serde_json::from_str::<Value>(line).is_ok()), "{text}");
    assert!(text.contains("train/loss") && text.contains(r#""event":"end""#), "{text}");
}

/// A project that needs no libtorch.
fn project(dir: &Path, settings: &str) {
    write(dir.join("src/main.rs"), "fn main() { println!(\"{}\", std::env::var(\"DDP_RUN_DIR\").unwrap()) }");
    write(
        dir.join("Cargo.toml"),
        &format!("[package]\nname = \"settled\"\nedition = \"2024\"\n[workspace]\n{settings}\n"),
    );
}

// Metrics were in `target/`: `cargo clean` removed them, and a shared CARGO_TARGET_DIR mixed the runs of all projects.
#[test]
fn runs_are_kept_in_the_project_and_found_in_the_old_place() {
    let dir = tempdir().unwrap();
    let target = dir.path().join("shared-target");
    let ddp = |project: &str, args: &[&str]| {
        Ddp::new(args).dir(&dir.path().join(project)).env("CARGO_TARGET_DIR", &target).run().succeeds()
    };
    for name in ["a", "b"] {
        project(&dir.path().join(name), "");
    }
    // What an earlier version left of both.
    old_run(&target.join("ddp/runs"), 1, &dir.path().join("a"));
    old_run(&target.join("ddp/runs"), 2, &dir.path().join("b/src"));
    let run = ddp("a", &["run", "--nproc", "1"]);
    let own = dir.path().canonicalize().unwrap().join("a/runs/2");
    assert_eq!(run.stdout, format!("[rank 0] {}\n", own.display()));
    ddp("b/src", &["run", "--nproc", "1"]);
    assert!(dir.path().join("b/runs/3/attempt-0/rank-0.stdout.log").exists());
    assert!(Command::new("git").arg("init").arg("-q").current_dir(dir.path().join("a")).status().unwrap().success());
    let status =
        Command::new("git").args(["status", "--porcelain"]).current_dir(dir.path().join("a")).output().unwrap();
    let status = String::from_utf8(status.stdout).unwrap();
    assert!(status.contains("Cargo.toml") && !status.contains("runs"), "{status}");

    // What `cargo clean` does to what is built, and not to a shared folder's old runs here.
    let listed = |project: &str| {
        numbers(&serde_json::from_str::<Vec<Value>>(&ddp(project, &["runs", "--json"]).stdout).unwrap())
    };
    assert_eq!((listed("a"), listed("b/src")), (vec![1, 2], vec![2, 3]));
    let metrics = r#"{"event":"start","format":1,"step":0,"attempt":0,"world_size":1,"time":1.0}
{"event":"scalar","name":"loss","step":1,"value":0.5,"time":1.0}
"#;
    write(target.join("ddp/runs/1/metrics.jsonl"), metrics);
    assert!(ddp("a", &["plot", "1"]).stdout.contains("shared-target/ddp/runs/1/plot.svg"));
    fs::remove_dir_all(&target).unwrap();
    assert_eq!((listed("a"), listed("b")), (vec![2], vec![3]));
    write(own.join("metrics.jsonl"), metrics);
    assert!(ddp("a", &["plot"]).stdout.contains("a/runs/latest/plot.svg"));
}

#[test]
fn log_dir_in_settings_is_relative_to_the_package_and_found_from_everywhere() {
    let dir = tempdir().unwrap();
    let root = dir.path().canonicalize().unwrap();
    write(root.join("Cargo.toml"), "[workspace]\nmembers = [\"one\", \"two\"]\nresolver = \"3\"");
    for (name, settings) in [("one", "[package.metadata.ddp]\nlog-dir = \"history\""), ("two", "")] {
        write(root.join(name).join("src/main.rs"), "fn main() {}");
        write(
            root.join(name).join("Cargo.toml"),
            &format!("[package]\nname = \"{name}\"\nedition = \"2024\"\n{settings}"),
        );
    }
    let run =
        |package: &str| Ddp::new(["run", "-p", package, "--nproc", "1"]).dir(&root.join("two/src")).run().succeeds();
    run("one");
    run("two");
    assert!(root.join("one/history/1/report.json").exists() && root.join("runs/1/report.json").exists());
    assert!(root.join("one/history/.gitignore").exists());
    for place in ["", "one", "two/src"] {
        let found: Vec<_> = runs(&root.join(place), &[]).iter().map(|run| run["folder"].clone()).collect();
        let expected = ["one/history/1", "runs/1"].map(|run| Value::from(root.join(run).to_str().unwrap()));
        assert_eq!(found, expected, "{place}");
    }
}

// The package's own root became the directory of runs.
#[test]
fn log_dir_in_settings_is_not_empty() {
    let dir = tempdir().unwrap();
    write(dir.path().join("src/main.rs"), "fn main() {}");
    let manifest = "[package]\nname = \"one\"\nedition = \"2024\"\n[package.metadata.ddp]\nlog-dir = \"\"";
    write(dir.path().join("Cargo.toml"), manifest);
    let done = Ddp::new(["run", "--nproc", "1"]).dir(dir.path()).run().ends_with(2);
    done.says(&["[package.metadata.ddp] in Cargo.toml: log-dir: it is empty", "hint: "]);
    assert!(!dir.path().join("1").exists() && !dir.path().join("latest").exists());
    assert_eq!(runs(dir.path(), &[]).len(), 0);
}

/// `cargo ddp` on another machine or in another container that has the same home: `unshare` makes one.
fn elsewhere(flags: &[&str], home: &Path, dir: &Path, script: &str) -> Command {
    let mut command = Command::new("unshare");
    command.args(flags).args(["--", "sh", "-c", script, "sh"]).arg(cargo_ddp());
    command.current_dir(dir).env("XDG_CACHE_HOME", home).stdin(Stdio::null());
    command
}

/// Whether this user may make namespaces.
fn may_unshare(flags: &[&str]) -> bool {
    let may = Command::new("unshare").args(flags).args(["--", "true"]).output().is_ok_and(|done| done.status.success());
    if !may {
        eprintln!("SKIPPED: needs `unshare {}`", flags.join(" "));
    }
    may
}

fn entries(home: &Path) -> usize {
    fs::read_dir(home.join("cargo-ddp/jobs")).map_or(0, Iterator::count)
}

// With a shared home, `ps` removed the entries of jobs elsewhere, and `stop` signaled whatever had their process ids here.
#[test]
fn jobs_of_other_containers_and_machines_are_named_and_left_alone() {
    // Another process has the job's process id here: a container counts from 1.
    let container = ["--pid", "--fork", "--mount-proc", "--uts", "--kill-child"];
    if !may_unshare(&container) {
        return;
    }
    let (dir, home) = (tempdir().unwrap(), tempdir().unwrap());
    let here = |args: &[&str]| Ddp::new(args).dir(dir.path()).env("XDG_CACHE_HOME", home.path());
    let job = r#"hostname trainer; exec "$1" ddp launch --nproc 1 -- sh -c 'echo here; exec sleep 1000'"#;
    let mut container = elsewhere(&container, home.path(), dir.path(), job)
        .stderr(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let listed = || here(&["ps"]).run().succeeds();
    wait_until("the job of the container", || listed().stderr, || listed().stderr.contains("Elsewhere"));
    let done = listed();
    assert_eq!(done.stdout, "no job of yours runs here\n");
    let line = done.stderr.lines().find(|line| line.contains("in another container (trainer)")).unwrap().to_owned();
    let run = line.split_whitespace().find(|word| word.starts_with("run-")).unwrap();
    assert_eq!(here(&["ps", "--json"]).run().succeeds().stdout, "[]\n");
    for args in [&["stop"][..], &["stop", run], &["stop", run, "--now"]] {
        let done = here(args).run().ends_with(2);
        done.says(&["no such job runs here", run, "in another container (trainer)", "hint: "]);
    }
    // A job of this machine is the only one to be stopped.
    let own = here(&["launch", "--nproc", "1", "--", "sh", "-c", "echo here; exec sleep 1000"]).start();
    own.wait_for("here");
    here(&["stop"]).run().succeeds();
    own.wait().ends_with(143);
    assert_eq!((entries(home.path()), container.try_wait().unwrap().is_none()), (1, true));
    // All locks of this kernel are seen: without its launcher, nothing of the job is left.
    container.kill().unwrap();
    container.wait().unwrap();
    wait_until("end of the job", || listed().stderr, || !listed().stderr.contains("Elsewhere"));
    assert_eq!(entries(home.path()), 0);
}

// The same of a machine: only the kernel's id of the boot tells it from this one.
#[test]
fn jobs_of_other_machines_are_named_and_their_entries_stay() {
    let machine = ["--mount", "--uts", "--propagation", "private"];
    if !may_unshare(&machine) {
        return;
    }
    let (dir, home) = (tempdir().unwrap(), tempdir().unwrap());
    fs::write(dir.path().join("boot"), "11111111-2222-3333-4444-555555555555\n").unwrap();
    let here = |args: &[&str]| Ddp::new(args).dir(dir.path()).env("XDG_CACHE_HOME", home.path());
    let job = r#"hostname node7 && mount --bind boot /proc/sys/kernel/random/boot_id || exit 77
        exec "$1" ddp launch --nproc 1 -- sh -c 'echo here; exec sleep 1000'"#;
    let mut machine =
        elsewhere(&machine, home.path(), dir.path(), job).stderr(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
    let mut listed = || {
        assert_eq!(machine.try_wait().unwrap(), None, "it may not mount");
        here(&["ps"]).run().succeeds().stderr
    };
    wait_until("the job of node7", String::new, || listed().contains("on node7"));
    here(&["stop", "--now"]).run().ends_with(2).says(&["no such job runs here", "on node7"]);
    let run = &runs(dir.path(), &[])[0];
    assert_eq!(run["state"], "running");
    // Its launcher's working half dies without a word, and leaves the entry.
    signal_process(children(machine.id())[0], SIGKILL);
    machine.wait().unwrap();
    let run = &runs(dir.path(), &[])[0];
    assert!(run["state"] == "lost" || run["because"].as_str().is_some_and(|why| why.contains("on node7")), "{run}");
    here(&["ps"]).run().succeeds();
    assert_eq!(entries(home.path()), 1, "it is not ours to remove");
}

#[test]
fn recycled_process_ids_are_not_signaled() {
    let (dir, home) = (tempdir().unwrap(), tempdir().unwrap());
    let here = |args: &[&str]| Ddp::new(args).dir(dir.path()).env("XDG_CACHE_HOME", home.path());
    let job = here(&["launch", "--nproc", "1", "--", "sh", "-c", "echo here; exec sleep 1000"]).start();
    job.wait_for("here");
    let jobs: Vec<Value> = serde_json::from_str(&here(&["ps", "--json"]).run().succeeds().stdout).unwrap();
    let origin = &jobs[0]["origin"];
    for key in ["host", "boot_id", "pid_namespace", "pid", "start_time"] {
        assert!(!origin[key].is_null(), "{key}: {origin}");
    }
    // The launcher is gone, something else has its id, and the lock says nothing (as on some network file systems).
    let innocent = Command::new("sleep").arg("1000").spawn().unwrap();
    let mut innocent = Innocent(innocent);
    let file = dir.path().join("runs/1/run.json");
    let mut entry: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    entry["pid"] = innocent.0.id().into();
    entry["origin"]["pid"] = innocent.0.id().into();
    fs::write(&file, entry.to_string()).unwrap();
    assert_eq!(here(&["ps"]).run().succeeds().stdout, "no job of yours runs here\n");
    here(&["stop", "--now"]).run().ends_with(2);
    assert!(innocent.0.try_wait().unwrap().is_none(), "it was signaled");
    job.signal(SIGTERM);
    job.wait().ends_with(143);
}

struct Innocent(std::process::Child);

impl Drop for Innocent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
