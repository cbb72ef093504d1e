//! Run directories and logs: no file of the user is removed.

use std::collections::BTreeSet;
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use ddp_tests::{Ddp, SIGKILL};
use serde_json::Value;
use tempfile::tempdir;

/// Newer runs that an older one needs to lose its logs.
const KEPT_RUNS: u64 = 50;

pub(super) fn launch(dir: &Path, flags: &[&str], script: &str) -> Ddp {
    let args = ["launch", "--nproc", "1"];
    Ddp::new(args.iter().chain(flags).chain(&["--", "sh", "-c", script])).dir(dir)
}

pub(super) fn write(path: PathBuf, text: &str) {
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

pub(super) fn runs(dir: &Path, flags: &[&str]) -> Vec<Value> {
    let done = Ddp::new(["runs", "--json"].iter().chain(flags)).dir(dir).run().succeeds();
    serde_json::from_str(&done.stdout).unwrap()
}

fn numbers(runs: &[Value]) -> Vec<u64> {
    runs.iter().map(|run| run["number"].as_u64().unwrap()).collect()
}

/// The content of a directory, at any depth.
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

// `--log-dir data` on a data set with 100 folders named by class removed 51 of them, and exited with 0.
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

// A worker's link in place of the next attempt's folder emptied a file of the user.
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

// With such a directory, no run could start: "no storage space".
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
fn latest_that_is_not_the_launchers_link_stays_and_blocks_no_run() {
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
    // `plot` and `runs` do not need it.
    Ddp::new(["plot"]).dir(dir.path()).run().ends_with(2).says(&["runs/3 has no metrics"]);

    // Data with numbered names, like runs.
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
fn runs_beyond_the_limit_lose_only_their_logs() {
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

// It was locked only after all nodes had joined: 50 runs of other jobs removed its directory meanwhile.
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

/// The entry of the only run in `dir`, as `runs` lists it.
fn state(dir: &Path) -> (String, String) {
    let runs = runs(dir, &[]);
    assert_eq!(runs.len(), 1, "{runs:?}");
    (runs[0]["state"].as_str().unwrap().to_owned(), runs[0]["because"].as_str().unwrap_or_default().to_owned())
}

// It was not in the registry, so `stop` could not find it.
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
    // No node joined.
    let dir = dir.path().join("late");
    fs::create_dir(&dir).unwrap();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
    let nodes = ["--nnodes", "2", "--node-rank", "0", "--master-addr", "127.0.0.1", "--master-port", &port];
    launch(&dir, &[&nodes[..], &["--join-timeout", "1"]].concat(), "true").run().ends_with(5);
    let (state, because) = state(&dir);
    assert!(state == "node_lost" && because.contains("rendezvous failed"), "{state}: {because}");
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
    // Leftovers of an earlier version for both.
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

    // As `cargo clean` does to the build, but not to old runs in a shared folder.
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
    assert!(root.join("one/history/1/job.json").exists() && root.join("runs/1/job.json").exists());
    assert!(root.join("one/history/.gitignore").exists());
    for place in ["", "one", "two/src"] {
        let found: Vec<_> = runs(&root.join(place), &[]).iter().map(|run| run["folder"].clone()).collect();
        let expected = ["one/history/1", "runs/1"].map(|run| Value::from(root.join(run).to_str().unwrap()));
        assert_eq!(found, expected, "{place}");
    }
}

// The package's own root became the directory of runs.
#[test]
fn log_dir_that_is_empty_is_refused() {
    let dir = tempdir().unwrap();
    write(dir.path().join("src/main.rs"), "fn main() {}");
    let manifest = "[package]\nname = \"one\"\nedition = \"2024\"\n[package.metadata.ddp]\nlog-dir = \"\"";
    write(dir.path().join("Cargo.toml"), manifest);
    let done = Ddp::new(["run", "--nproc", "1"]).dir(dir.path()).run().ends_with(2);
    done.says(&["Cargo.toml [package.metadata.ddp]: log-dir: expected a value, got an empty string", "hint: "]);
    assert!(!dir.path().join("1").exists() && !dir.path().join("latest").exists());
    assert_eq!(runs(dir.path(), &[]).len(), 0);
}
