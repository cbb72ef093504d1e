//! `cargo ddp ps` and `stop`: the jobs that run on this machine.

use std::fs;
use std::path::Path;
use std::time::Duration;

use ddp_tests::{Ddp, SIGKILL, signal_process, wait_until};
use serde_json::Value;
use tempfile::tempdir;

use super::launcher::launch;

#[test]
fn running_jobs_are_listed_and_can_be_stopped() {
    let (dir, cache) = (tempdir().unwrap(), tempdir().unwrap());
    let here = |ddp: Ddp| ddp.dir(dir.path()).env("XDG_CACHE_HOME", cache.path());
    let ps = || here(Ddp::new(["ps"])).run().succeeds().stdout;
    assert_eq!(ps(), "no running jobs\n");
    here(Ddp::new(["stop"])).run().ends_with(2).says(&["error: no running jobs\n"]);

    let first = here(launch(dir.path(), &["--nproc", "2"], "echo ready; sleep 500")).start();
    first.wait_for_count("ready", 2);
    let second =
        here(launch(dir.path(), &["--nproc", "1"], "trap '' TERM; echo ready; while :; do sleep 1; done")).start();
    second.wait_for("ready");
    let listed = ps();
    assert!(listed.contains(&first.pid().to_string()) && listed.contains("run-2-"), "{listed}");
    let jobs: Value = serde_json::from_str(&here(Ddp::new(["ps", "--json"])).run().succeeds().stdout).unwrap();
    assert_eq!((&jobs[0]["nproc"], &jobs[1]["nproc"]), (&2.into(), &1.into()));
    assert_eq!(jobs[0]["workers"].as_array().unwrap().len(), 2);

    here(Ddp::new(["stop"])).run().ends_with(2).says(&["could not determine which job to use", "run-1-", "run-2-"]);
    here(Ddp::new(["stop", "run-9"])).run().ends_with(2).says(&["no running job `run-9` (running: "]);
    let run = jobs[0]["run"].as_str().unwrap();
    here(Ddp::new(["stop", run])).run().succeeds();
    first.wait().ends_with(143).leaves_no_process();
    // This launcher does not respond.
    here(Ddp::new(["stop", "--now"])).run().succeeds();
    second.wait().ends_with(143).leaves_no_process();

    let killed = here(launch(dir.path(), &["--nproc", "1"], "echo ready; sleep 500")).start();
    killed.wait_for("ready");
    signal_process(killed.pid(), SIGKILL);
    killed.wait().leaves_no_process_after(Duration::from_secs(5));
    wait_until("the killed job to be gone", ps, || ps() == "no running jobs\n");
    assert_eq!(fs::read_dir(cache.path().join("cargo-ddp/jobs")).unwrap().count(), 0);
}

#[test]
fn stop_without_a_name_leaves_jobs_of_other_projects_alone() {
    let (dir, cache) = (tempdir().unwrap(), tempdir().unwrap());
    let [one, two] = ["one", "two"].map(|name| dir.path().join(name));
    for folder in [&one, &two] {
        fs::create_dir(folder).unwrap();
    }
    let start = |folder: &Path| {
        let job = launch(folder, &["--nproc", "1"], "echo ready; sleep 500");
        let job = job.env("XDG_CACHE_HOME", cache.path()).start();
        job.wait_for("ready");
        job
    };
    let stop = |folder: &Path, args: &[&str]| {
        Ddp::new(["stop"].iter().chain(args)).dir(folder).env("XDG_CACHE_HOME", cache.path()).run()
    };
    let first = start(&one);
    let hint = "hint: name one of them, or pass --all";
    stop(&two, &[]).ends_with(2).says(&["no running jobs in this project (elsewhere on this machine: run-1-", hint]);
    let second = start(&two);
    stop(&two, &[]).succeeds();
    second.wait().ends_with(143).leaves_no_process();
    assert!(!first.has_ended());
    let third = start(&two);
    stop(&two, &["--all"]).ends_with(2).says(&["could not determine which job to use (running: run-"]);
    stop(&two, &[]).succeeds();
    third.wait().ends_with(143);
    stop(&two, &["--all"]).succeeds();
    first.wait().ends_with(143).leaves_no_process();
}
