//! `cargo ddp runs`: the list of runs, and how they ended.

use std::path::Path;

use ddp_tests::{Ddp, SIGINT, SIGKILL, launcher_processes, signal_process, wait_until};
use serde_json::Value;
use tempfile::tempdir;

fn launch(logs: &Path, flags: &[&str], script: &str) -> Ddp {
    let args = ["launch", "--log-dir", logs.to_str().unwrap()];
    Ddp::new(args.iter().chain(flags).chain(&["--", "sh", "-c", script])).dir(logs.parent().unwrap())
}

fn runs(logs: &Path, flags: &[&str]) -> String {
    Ddp::new(["runs", "--log-dir", logs.to_str().unwrap()].iter().chain(flags)).run().succeeds().stdout
}

fn json(logs: &Path) -> Vec<Value> {
    serde_json::from_str(&runs(logs, &["--json"])).unwrap()
}

#[test]
fn runs_command_reports_every_kind_of_end() {
    let dir = tempdir().unwrap();
    let logs = dir.path().join("runs");
    assert!(runs(&logs, &[]).starts_with("no runs in "));

    launch(&logs, &["--nproc", "2"], "true").run().succeeds();
    launch(&logs, &["--nproc", "1", "--max-restarts", "1", "--backoff", "0"], "exit 3").run().ends_with(3);
    let steps =
        r#"echo '{"event":"step","epoch":0,"step":7}' > /proc/self/fd/$DDP_EVENT_FD; echo here; exec sleep 1000"#;
    let stopped = launch(&logs, &["--nproc", "1"], "echo here; exec sleep 1000").start();
    stopped.wait_for("here");
    stopped.signal(SIGINT);
    stopped.wait().ends_with(130);
    // The launcher's main process dies without a message.
    let lost = launch(&logs, &["--nproc", "1"], steps).start();
    lost.wait_for("here");
    let steps_of_lost = || json(&logs)[3]["last_step"].as_u64();
    wait_until("step of the run", || format!("{:?}", json(&logs)), || steps_of_lost() == Some(7));
    signal_process(launcher_processes(lost.pid())[2], SIGKILL);
    lost.wait();
    let running = launch(&logs, &["--nproc", "1"], "echo here; exec sleep 1000").start();
    running.wait_for("here");

    let found = json(&logs);
    let states: Vec<_> =
        found.iter().map(|run| (run["number"].as_u64().unwrap(), run["state"].as_str().unwrap())).collect();
    assert_eq!(states, [(1, "done"), (2, "failed"), (3, "stopped"), (4, "lost"), (5, "running")]);
    assert_eq!(found[0]["nproc"], 2);
    assert_eq!((&found[1]["restarts"], &found[1]["exit_code"]), (&1.into(), &3.into()));
    assert_eq!(found[1]["because"], "rank 0 ended with exit code 3");
    assert_eq!(found[2]["because"], "SIGINT");
    assert!(found[3]["ended"].is_null() && found[4]["ended"].is_null());

    assert_eq!(steps_of_lost(), Some(7));

    let text = runs(&logs, &[]);
    let lines: Vec<_> = text.lines().collect();
    assert!(lines[0].starts_with("RUN  STARTED "), "{text}");
    assert!(lines[2].contains("failed: rank 0 ended with exit code 3") && lines[2].ends_with("sh -c exit 3"), "{text}");
    assert!(lines[4].contains("  lost  ") && lines[5].contains("  running  "), "{text}");
    running.signal(SIGINT);
    running.wait();
    assert_eq!(json(&logs)[4]["state"], "stopped");
}

#[test]
fn runs_command_reports_the_last_step_best_metric_and_restarts() {
    let dir = tempdir().unwrap();
    let (logs, snapshots) = (dir.path().join("runs"), dir.path().join("snapshots"));
    let flags = ["--nproc", "2", "--backoff", "0", "--log-dir", logs.to_str().unwrap()];
    let job = Ddp::worker("resume", &flags, &[snapshots.to_str().unwrap(), "3", "8"]).start();
    // One worker dies after the first snapshot, and the job resumes from there.
    let record = || json(&logs).first().cloned().unwrap_or_default();
    wait_until("a snapshot in the record", || format!("{:?}", record()), || record()["snapshot"]["step"].is_u64());
    assert_eq!(record()["state"], "running");
    signal_process(job.workers()[1], SIGKILL);
    job.wait().succeeds();

    let run = record();
    assert_eq!((&run["state"], &run["last_step"], &run["restarts"]), (&"done".into(), &72.into(), &1.into()));
    // The worker's metric is the distance to step 20, and it saves every 8 steps.
    assert_eq!((&run["best"]["step"], &run["best"]["metric"]), (&24.into(), &4.0.into()));
    assert_eq!(run["snapshot"]["step"], 72);
    let line = runs(&logs, &[]).lines().nth(1).unwrap().to_owned();
    assert!(line.contains("  4 at 24  ") && line.contains("  done  "), "{line}");
}

#[test]
fn runs_command_explains_failed_starts_and_skips_other_folders() {
    let dir = tempdir().unwrap();
    let logs = dir.path().join("runs");
    std::fs::create_dir_all(logs.join("7")).unwrap();
    std::fs::create_dir_all(logs.join("8")).unwrap();
    std::fs::write(logs.join("8/report.json"), "{").unwrap();
    // Files of an earlier version of the launcher.
    std::fs::create_dir_all(logs.join("9")).unwrap();
    let old = r#"{"run": "run-9-1", "pid": 1, "started": 1700000000, "nproc": 4, "gpus": null, "command": ["train"],
        "folder": "/", "run_dir": "/", "workers": [], "attempt": 2}"#;
    std::fs::write(logs.join("9/run.json"), old).unwrap();
    let found = json(&logs);
    assert_eq!(found.len(), 1);
    assert_eq!((&found[0]["state"], &found[0]["restarts"], &found[0]["nproc"]), (&"lost".into(), &2.into(), &4.into()));

    // A script whose interpreter is missing.
    let script = dir.path().join("script");
    std::fs::write(&script, "#!/nonexistent/interpreter\n").unwrap();
    std::process::Command::new("chmod").args(["+x", script.to_str().unwrap()]).status().unwrap();
    let args = ["launch", "--nproc", "1", "--log-dir", logs.to_str().unwrap(), "--", script.to_str().unwrap()];
    let done = Ddp::new(args).run();
    let code = done.status.code().unwrap();
    let last = json(&logs).pop().unwrap();
    assert_eq!((&last["state"], &last["exit_code"]), (&"failed".into(), &code.into()), "{}", done.stderr);
    assert!(last["because"].as_str().unwrap().contains("script"), "{last}");
}
