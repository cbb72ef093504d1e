//! `cargo ddp run` and `launch`: torchrun's features, and those that torchrun lacks.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use ddp_tests::{CudaTorch, Ddp, Job, SIGKILL, SIGTERM, cargo_ddp, launcher_processes, repo, signal_process};
use serde_json::Value;
use tempfile::tempdir;

/// `cargo ddp launch FLAGS -- sh -c SCRIPT` in `dir`.
pub(super) fn launch(dir: &Path, flags: &[&str], script: &str) -> Ddp {
    Ddp::new(["launch"].iter().chain(flags).chain(&["--", "sh", "-c", script])).dir(dir)
}

fn lines(text: &str) -> Vec<&str> {
    let mut lines: Vec<_> = text.lines().collect();
    lines.sort_unstable();
    lines
}

/// The quick part. The complete kit is `python3 tests/kit/check.py`, which takes about two minutes.
#[test]
fn conformance_kit_finds_the_expected_results() {
    let mut check = Command::new("python3");
    check.arg(repo().join("tests/kit/check.py")).arg("--quick").arg("--launcher").arg(cargo_ddp());
    for name in ["LD_LIBRARY_PATH", "OMP_NUM_THREADS", "TORCHELASTIC_ERROR_FILE"] {
        check.env_remove(name);
    }
    let output = check.stderr(Stdio::inherit()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

#[test]
fn python_script_for_torchrun_runs_unchanged() {
    let Some(torch) = CudaTorch::find() else { return };
    let dir = tempdir().unwrap();
    // It leaves with os._exit, for at Python's own exit a thread of the group sometimes aborts ("terminate called without an
    // active exception").
    let script = "\
import os, traceback, torch, torch.distributed as dist
dist.init_process_group('gloo')
x = torch.tensor([dist.get_rank() + 1.0])
dist.all_reduce(x)
print('sum', x.item(), 'of', dist.get_world_size(), 'attempt', os.environ['TORCHELASTIC_RESTART_COUNT'], flush=True)
if dist.get_rank() == 1 and os.environ['TORCHELASTIC_RESTART_COUNT'] == '0':
    try:
        raise ValueError('once')
    except ValueError:
        traceback.print_exc()
        os._exit(1)
dist.barrier()
dist.destroy_process_group()
os._exit(0)
";
    fs::write(dir.path().join("train.py"), script).unwrap();
    let done = Ddp::new(["launch", "--nproc", "2", "--max-restarts", "1", "--", "python3", "train.py"])
        .dir(dir.path())
        .env("PYTHONPATH", torch.home.join("site"))
        .run()
        .succeeds()
        .says(&["rank 1 ended with exit code 1", "ValueError: once", "Restarting all workers", ", 1 restart"]);
    let expected = ["[rank 0] sum 3.0 of 2 attempt 0", "[rank 0] sum 3.0 of 2 attempt 1"];
    assert_eq!(lines(&done.stdout)[..2], expected, "{}", done.stdout);
}

#[test]
fn launch_runs_a_worker_binary_without_a_build() {
    let toy = ddp_tests::worker("toy");
    let dir = tempdir().unwrap();
    let done =
        Ddp::new(["launch", "--nproc", "2", "--", toy.to_str().unwrap(), "meet"]).dir(dir.path()).run().succeeds();
    assert_eq!(done.stdout.matches("met run-1-").count(), 2, "{}", done.stdout);
}

#[test]
fn twenty_concurrent_jobs_do_not_mix_their_ranks() {
    let toy = ddp_tests::worker("toy");
    let dirs: Vec<_> = (0..20).map(|_| tempdir().unwrap()).collect();
    let jobs: Vec<Job> = dirs
        .iter()
        .map(|dir| {
            let args = ["launch", "--nproc", "2", "--max-restarts", "0", "--", toy.to_str().unwrap(), "meet"];
            Ddp::new(args).dir(dir.path()).env("OMP_NUM_THREADS", "1").start()
        })
        .collect();
    for job in jobs {
        let done = job.wait().succeeds().leaves_no_process();
        let met = lines(&done.stdout);
        assert!(met.len() == 2 && !done.stdout.contains(" and "), "{}", done.stdout);
        assert_eq!(met[0].strip_prefix("[rank 0]"), met[1].strip_prefix("[rank 1]"));
    }
}

/// The docs give the result for DDP_TEST_RESTARTS=200.
#[test]
fn job_survives_every_restart() {
    let deaths: usize = std::env::var("DDP_TEST_RESTARTS").map_or(16, |text| text.parse().unwrap());
    let dir = tempdir().unwrap();
    let (count, snapshots) = (deaths.to_string(), dir.path().join("snapshots"));
    let log_dir = dir.path().to_str().unwrap();
    let flags = ["--nproc", "2", "--max-restarts", "1000", "--backoff", "0", "--log-dir", log_dir];
    let done =
        Ddp::worker("mortal", &flags, &[snapshots.to_str().unwrap(), &count]).run().succeeds().leaves_no_process();
    assert!(done.stderr.contains(&format!(", {deaths} restart")), "{}", done.stderr);
    // Each restart was caused by the kill, and not by leftovers of an earlier restart.
    assert_eq!(done.stderr.matches("was killed by SIGKILL (pid ").count(), deaths, "{}", done.stderr);
    assert_eq!(done.stdout.matches(" ends with step ").count(), 2, "{}", done.stdout);
}

#[test]
fn identical_failure_at_the_same_step_is_not_retried_forever() {
    let done = Ddp::toy(&["--nproc", "2", "--max-restarts", "50"], &["error", "0"]).run().ends_with(1);
    assert_eq!(done.stderr.matches("Restarting").count(), 1, "{}", done.stderr);
    done.says(&["after step 7", "in the same way at the same step"]).leaves_no_process();
}

#[test]
fn launcher_death_leaves_no_worker_whichever_of_its_processes_dies() {
    // Any of its processes, or any two.
    for killed in [&[0][..], &[1], &[2], &[0, 1], &[0, 2], &[1, 2]] {
        let dir = tempdir().unwrap();
        // In the group, out of the group, and out of the session with a parent that is gone.
        let script = "sleep 500 & setsid sleep 501 & (setsid sh -c 'sleep 502 & sleep 503' &) ; echo ready; sleep 504";
        let job = launch(dir.path(), &["--nproc", "2"], script).start();
        job.wait_for_count("ready", 2);
        let processes = launcher_processes(job.pid());
        killed.iter().for_each(|index| signal_process(processes[*index], SIGKILL));
        let done = job.wait();
        if !killed.contains(&0) {
            assert_eq!(done.status.code(), Some(137), "{}", done.stderr);
        }
        done.leaves_no_process_after(Duration::from_secs(5));
    }
}

#[test]
fn processes_outside_of_a_workers_group_end_with_the_job() {
    let dir = tempdir().unwrap();
    for (code, end) in [(0, "exit 0"), (3, "exit 3")] {
        let script = format!("(setsid sleep 500 &); {end}");
        launch(dir.path(), &["--nproc", "2", "--max-restarts", "0"], &script).run().ends_with(code).leaves_no_process();
    }
}

#[test]
fn sigusr1_is_forwarded_and_the_job_continues() {
    let dir = tempdir().unwrap();
    let script = "trap 'echo saved; exit 0' USR1; sleep 500 & echo ready; while :; do wait; done";
    let job = launch(dir.path(), &["--nproc", "2"], script).start();
    job.wait_for_count("ready", 2);
    job.signal(10);
    let done = job.wait().succeeds().leaves_no_process();
    assert_eq!(done.stdout.matches("saved").count(), 2, "{}", done.stdout);
}

#[test]
fn stdin_goes_to_the_chosen_rank_only() {
    let dir = tempdir().unwrap();
    let args = ["launch", "--nproc", "2", "--stdin", "1", "--", "sh", "-c", "echo got=$(cat)"];
    let mut child = Command::new(cargo_ddp())
        .args(args)
        .current_dir(dir.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), b"hello").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(lines(&String::from_utf8(output.stdout).unwrap()), ["[rank 0] got=", "[rank 1] got=hello"]);
}

#[test]
fn show_selects_what_is_printed_and_logs_have_everything() {
    let dir = tempdir().unwrap();
    let script = "echo out $RANK; echo err $RANK >&2; [ $RANK = 0 ] || { sleep 0.3; exit 5; }; sleep 100";
    let flags = ["--nproc", "2", "--show", "none", "--max-restarts", "1", "--log-dir", "logs"];
    let done = launch(dir.path(), &flags, script).run().ends_with(5).leaves_no_process();
    assert_eq!(done.stdout, "");
    // The failed rank's last lines are always shown.
    let done = done.says(&[
        "last lines on stderr:",
        "    err 1",
        "all output is in ",
        "afterwards: rank 0 was killed by SIGTERM",
    ]);
    assert!(!done.stderr.contains("err 0"), "{}", done.stderr);
    for attempt in 0..2 {
        for rank in 0..2 {
            for (stream, word) in [("stdout", "out"), ("stderr", "err")] {
                let log = dir.path().join(format!("logs/latest/attempt-{attempt}/rank-{rank}.{stream}.log"));
                assert_eq!(fs::read_to_string(log).unwrap(), format!("{word} {rank}\n"));
            }
        }
    }
    let shown = launch(dir.path(), &["--nproc", "3", "--show", "0,2"], "echo out $RANK").run().succeeds();
    assert_eq!(lines(&shown.stdout), ["[rank 0] out 0", "[rank 2] out 2"]);
}

#[test]
fn report_is_complete_json_and_an_outer_launcher_gets_the_cause() {
    let dir = tempdir().unwrap();
    let (report, outer) = (dir.path().join("report.json"), dir.path().join("outer.json"));
    let flags = ["--nproc", "2", "--max-restarts", "1", "--report", report.to_str().unwrap()];
    let done = Ddp::toy(&flags, &["panic", "1"]).env("TORCHELASTIC_ERROR_FILE", &outer).run().ends_with(101);
    let read = |path: &Path| -> Value { serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap() };
    let value = read(&report);
    assert_eq!((&value["outcome"], &value["exit_code"]), (&"failed".into(), &101.into()), "{value:#}");
    let cause = &value["cause"];
    assert_eq!((&cause["rank"], &cause["step"], &cause["attempt"]), (&1.into(), &7.into(), &1.into()), "{value:#}");
    assert_eq!(cause["message"], "panic: toy panics");
    assert!(cause["location"].as_str().unwrap().starts_with("tests/workers/toy.rs:"));
    assert_eq!(cause["consequences"][0]["rank"], 0);
    assert_eq!(value["restarts"][0]["cause"]["rank"], 1);
    assert_eq!(read(&outer)["message"]["message"], "panic: toy panics");
    drop(done);

    let missing = dir.path().join("nowhere/report.json");
    let done = launch(dir.path(), &["--report", missing.to_str().unwrap()], "exit 0").run().ends_with(2);
    done.says(&["error: --report: ", "is not a directory"]);
}

#[test]
fn json_prints_only_json_on_stdout() {
    let dir = tempdir().unwrap();
    let done = launch(dir.path(), &["--nproc", "2", "--json", "--quiet"], "printf 'a\\nb\\377'").run().succeeds();
    assert_eq!(done.stderr, "");
    let events: Vec<Value> = done.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((&events[0]["event"], &events[0]["attempt"]), (&"launched".into(), &0.into()));
    let last = events.last().unwrap();
    assert_eq!((&last["event"], &last["outcome"]), (&"finished".into(), &"done".into()));
    let output: Vec<_> = events.iter().filter(|event| event["event"] == "output" && event["rank"] == 1).collect();
    let texts: Vec<_> = output.iter().map(|event| event["line"].as_str().unwrap()).collect();
    assert_eq!(texts, ["a", "b\u{fffd}"]);

    let toy = Ddp::toy(&["--nproc", "1", "--json", "--max-restarts", "0"], &["error"]).run().ends_with(1);
    assert!(
        toy.stdout.lines().any(|line| line.contains(r#""event":"step""#) && line.contains(r#""step":7"#)),
        "{}",
        toy.stdout
    );
}

#[test]
fn dry_run_prints_the_plan_and_starts_nothing() {
    let dir = tempdir().unwrap();
    let done = launch(dir.path(), &["--nproc", "2", "--dry-run"], "echo started").run().succeeds();
    for words in ["workers: 2", "rank 1:", "  LOCAL_RANK=1", "  MASTER_PORT=(a free one)", "command: "] {
        assert!(done.stdout.contains(words), "{words} is not in:\n{}", done.stdout);
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn invalid_options_are_refused_before_anything_starts() {
    let dir = tempdir().unwrap();
    for (flags, words) in [
        (["--show", "2"], "--show: rank 2 not found: ranks are 0 to 1"),
        (["--show", "first"], "invalid value 'first' for '--show <RANKS>': expected all, none, or ranks such as 0,1"),
        (["--stdin", "7"], "--stdin: rank 7 not found: ranks are 0 to 1"),
        (["--grace", "soon"], "invalid value 'soon' for '--grace"),
    ] {
        let done = launch(dir.path(), &[&["--nproc", "2"], &flags[..]].concat(), "echo started").run().ends_with(2);
        assert_eq!(done.stdout, "");
        done.says(&[words]);
    }
}

#[test]
fn settings_in_cargo_toml_apply_unless_a_flag_overrides_them() {
    let dir = tempdir().unwrap();
    fs::create_dir(dir.path().join("src")).unwrap();
    fs::write(dir.path().join("src/main.rs"), "fn main() { println!(\"{}\", std::env::var(\"WORLD_SIZE\").unwrap()) }")
        .unwrap();
    let manifest = |settings: &str| {
        let text = format!(
            "[package]\nname = \"settled\"\nedition = \"2024\"\n[workspace]\n[package.metadata.ddp]\n{settings}\n"
        );
        fs::write(dir.path().join("Cargo.toml"), text).unwrap();
    };
    let run = |flags: &[&str]| Ddp::new(["run"].iter().chain(flags)).dir(dir.path()).run();
    manifest("nproc = 3\nquiet = true");
    let done = run(&[]).succeeds();
    assert_eq!(done.stdout.matches('3').count(), 3, "{}", done.stdout);
    assert!(!done.stderr.contains("Running 3"), "{}", done.stderr);
    assert_eq!(run(&["--nproc", "1"]).succeeds().stdout, "[rank 0] 1\n");
    manifest("max-restart = 3");
    run(&[]).ends_with(2).says(&["Cargo.toml [package.metadata.ddp]: ", "did you mean `max-restarts`?"]);
}

#[test]
fn program_that_reports_nothing_is_restarted_only_on_request() {
    let dir = tempdir().unwrap();
    let script = "[ $TORCHELASTIC_RESTART_COUNT = 1 ] || exit 3";
    let hint = "hint: the program reports no progress to the launcher, so it was not restarted";
    launch(dir.path(), &["--nproc", "1"], script).run().ends_with(3).says(&[hint]).leaves_no_process();
    launch(dir.path(), &["--nproc", "1", "--max-restarts", "1"], script).run().succeeds();
    launch(dir.path(), &["--nproc", "1"], script).env("DDP_MAX_RESTARTS", "1").run().succeeds();
}

#[test]
fn error_after_sigterm_is_not_a_preemption() {
    let dir = tempdir().unwrap();
    // Like ddp-runtime's workers after saving; rank 1 fails instead.
    let script = "trap '[ $RANK = 0 ] && exit 75; echo no space left >&2; exit 3' TERM; echo ready; \
                  while :; do sleep 0.1; done";
    let job = launch(dir.path(), &["--nproc", "2"], script).start();
    job.wait_for_count("ready", 2);
    job.signal(SIGTERM);
    let done = job.wait().ends_with(3).leaves_no_process();
    done.says(&["error: rank 1 ended with exit code 3", "the job was asked to stop, so it was not restarted"]);
}

#[test]
fn paused_launcher_still_knows_which_rank_died_first() {
    let dir = tempdir().unwrap();
    // Rank 1 dies 50 ms before the others, while the launcher is paused.
    let script = "echo ready; while [ ! -e go ]; do sleep 0.01; done; [ $RANK = 1 ] || sleep 0.05; exit $((10 + RANK))";
    let job = launch(dir.path(), &["--nproc", "4", "--max-restarts", "0"], script).start();
    job.wait_for_count("ready", 4);
    let [.., launcher] = launcher_processes(job.pid());
    signal_process(launcher, 19);
    fs::write(dir.path().join("go"), "").unwrap();
    std::thread::sleep(Duration::from_millis(500));
    signal_process(launcher, 18);
    job.wait().ends_with(11).says(&["error: rank 1 ended with exit code 11", "afterwards: rank "]);
}

#[test]
fn stray_descriptors_are_not_inherited_by_workers() {
    let dir = tempdir().unwrap();
    let script = "exec 7</dev/null 9</dev/null; exec \"$0\" launch --nproc 1 -- sh -c 'ls -l /proc/self/fd'";
    let output = Command::new("bash").arg("-c").arg(script).arg(cargo_ddp()).current_dir(dir.path()).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && text.contains(" 1 -> pipe:"), "{text}");
    assert!(!text.contains("7 ->") && !text.contains("9 ->"), "{text}");
}
