//! The registry of jobs: jobs elsewhere are named, and no unrelated process is signaled.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use ddp_tests::{Ddp, SIGKILL, SIGTERM, cargo_ddp, launcher_processes, signal_process, wait_until};
use serde_json::Value;
use tempfile::tempdir;

use super::runs::runs;

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
        ddp_tests::skipped(&format!("needs `unshare {}`", flags.join(" ")));
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
    assert_eq!(done.stdout, "no running jobs\n");
    let line = done.stderr.lines().find(|line| line.contains("in another container (trainer)")).unwrap().to_owned();
    let run = line.split_whitespace().find(|word| word.starts_with("run-")).unwrap();
    assert_eq!(here(&["ps", "--json"]).run().succeeds().stdout, "[]\n");
    for args in [&["stop"][..], &["stop", run], &["stop", run, "--now"]] {
        let done = here(args).run().ends_with(2);
        done.says(&["not running on this machine", run, "in another container (trainer)", "hint: "]);
    }
    // Only a job of this machine can be stopped.
    let own = here(&["launch", "--nproc", "1", "--", "sh", "-c", "echo here; exec sleep 1000"]).start();
    own.wait_for("here");
    here(&["stop"]).run().succeeds();
    own.wait().ends_with(143);
    assert_eq!((entries(home.path()), container.try_wait().unwrap().is_none()), (1, true));
    // All locks of this kernel are visible: once its launcher is gone, nothing of the job is left.
    container.kill().unwrap();
    container.wait().unwrap();
    wait_until("end of the job", || listed().stderr, || !listed().stderr.contains("Elsewhere"));
    assert_eq!(entries(home.path()), 0);
}

// Another machine with the same home: only the kernel's boot id distinguishes it from this one.
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
    here(&["stop", "--now"]).run().ends_with(2).says(&["not running on this machine", "on node7"]);
    let run = &runs(dir.path(), &[])[0];
    assert_eq!(run["state"], "running");
    // The launcher dies before it can record the end or remove its entry.
    let [_, _, launcher] = launcher_processes(machine.id());
    signal_process(launcher, SIGKILL);
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
    let file = dir.path().join("runs/1/job.json");
    let mut entry: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    entry["pid"] = innocent.0.id().into();
    entry["origin"]["pid"] = innocent.0.id().into();
    fs::write(&file, entry.to_string()).unwrap();
    assert_eq!(here(&["ps"]).run().succeeds().stdout, "no running jobs\n");
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
