//! `cargo ddp diff`: where the ranks of a running job differ.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};

use ddp_tests::{Ddp, Done, Job, SIGTERM, wait_until, worker};
use serde_json::{Value, json};
use tempfile::{TempDir, tempdir};

use super::launcher::launch;

/// A job of the worker `diverge`, in its own folder.
struct Diverge {
    dir: TempDir,
    job: Job,
}

fn ddp(dir: &Path, args: &[&str]) -> Ddp {
    Ddp::new(args).dir(dir).env("XDG_CACHE_HOME", dir.join("cache"))
}

impl Diverge {
    fn start(nproc: usize, args: &[&str]) -> Self {
        let dir = tempdir().unwrap();
        let nproc_text = nproc.to_string();
        let program = worker("diverge");
        let launch = ["launch", "--nproc", &nproc_text, "--", program.to_str().unwrap(), dir.path().to_str().unwrap()];
        let job = ddp(dir.path(), &[&launch, args].concat()).start();
        job.wait_for_count(" trains", nproc);
        Self { dir, job }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn flip(&self, rank: usize, what: &str) {
        fs::write(self.file("new"), what).unwrap();
        fs::rename(self.file("new"), self.file(&format!("flip-{rank}"))).unwrap();
        self.job.wait_for(&format!("rank {rank} flipped a bit"));
    }

    fn diff(&self, args: &[&str]) -> Ddp {
        ddp(self.dir.path(), &[&["diff"], args].concat())
    }

    fn end(self) -> Done {
        fs::write(self.file("stop"), "").unwrap();
        self.job.wait().succeeds().leaves_no_process()
    }
}

#[test]
fn diff_names_the_flipped_bit_with_2_and_4_ranks() {
    for (nproc, odd, args) in [(2, 1, &[][..]), (4, 2, &["snapshots"])] {
        let run = Diverge::start(nproc, args);
        let agrees = run.diff(&[]).run().succeeds().says(&["Waiting for the next step of run-1-"]);
        // 4 parameters, their gradients and momenta, and a buffer.
        assert!(agrees.stdout.ends_with(&format!(": all 13 tensors agree on {nproc} ranks\n")), "{}", agrees.stdout);
        run.flip(odd, "parameter");
        let found = run.diff(&[]).run().ends_with(6).stdout;
        let lines: Vec<_> = found.lines().collect();
        assert!(lines[0].ends_with(": 1 of 13 tensors differs between ranks (1 parameter)"), "{found}");
        assert_eq!(lines[1], "first: parameter first.weight[2, 1]");
        assert_eq!(lines.len(), 2 + nproc, "{found}");
        let marked = lines.iter().position(|line| line.ends_with("<- differs from the others"));
        // Of two, none is the odd one.
        assert_eq!(marked, (nproc == 4).then_some(2 + odd), "{found}");

        let found = run.diff(&["--json"]).run().ends_with(6).stdout;
        let json: Value = serde_json::from_str(&found).unwrap();
        assert_eq!((&json["version"], &json["world_size"], &json["agree"]), (&1.into(), &nproc.into(), &false.into()));
        assert_eq!((&json["tensors"], &json["differing"]), (&13.into(), &json!({ "parameter": 1 })));
        let first = &json["first"][0];
        assert_eq!((&first["name"], &first["index"]), (&"first.weight".into(), &json!([2, 1])));
        assert_eq!(first["odd_ranks"], if nproc == 4 { json!([odd]) } else { json!([]) });
        let values = first["values"].as_array().unwrap();
        let differs = |rank: usize| values[rank]["value"] != values[0]["value"];
        assert!(values.len() == nproc && differs(odd) && (nproc == 2 || !differs(1)), "{found}");
        run.end();
    }
}

#[test]
fn diff_reports_buffers_without_hiding_other_differences() {
    let run = Diverge::start(2, &[]);
    run.flip(0, "buffer");
    let found = run.diff(&[]).run().succeeds().stdout;
    assert!(found.contains("(1 buffer)\nfirst: buffer norm.seen[3]\n") && found.contains("note: buffers"), "{found}");
    run.flip(1, "gradient");
    let found = run.diff(&[]).run().ends_with(6).stdout;
    assert!(found.contains("(1 buffer, 1 gradient)\nfirst: gradient first.weight[3, 0]\n"), "{found}");
    run.end();
}

#[test]
fn diff_lists_tensors_that_a_rank_lacks_and_skips_sharded_state() {
    let run = Diverge::start(2, &["zero"]);
    let note = "note: not compared: the optimizer's state, which is sharded across the ranks\n";
    let found = run.diff(&[]).run().succeeds().stdout;
    assert!(found.ends_with(&format!(": all 9 tensors agree on 2 ranks\n{note}")), "{found}");
    run.flip(1, "clear");
    let found = run.diff(&[]).run().ends_with(6).stdout;
    assert!(found.contains(": 4 tensors are not the same on all ranks:\n"), "{found}");
    assert!(found.contains("  gradient first.weight: [4, 3] Float on rank 0, missing on rank 1\n"), "{found}");
    assert!(found.contains(": all 5 other tensors agree on 2 ranks\n"), "{found}");
    run.end();
}

#[test]
fn diff_waits_for_a_slow_step_and_times_out_without_harm() {
    let run = Diverge::start(2, &[]);
    fs::write(run.file("hold-1"), "").unwrap();
    let late = run.diff(&["--timeout", "1"]).run().ends_with(4);
    late.says(&[
        "timed out after 1 s waiting for the next step of run-1-",
        "hint: if a step takes longer, set --timeout",
    ]);
    // Several requests have one answer.
    let waiting = [(); 2].map(|()| run.diff(&[]).start());
    waiting.iter().for_each(|diff| drop(diff.wait_for("Waiting for the next step")));
    fs::remove_file(run.file("hold-1")).unwrap();
    for diff in waiting {
        assert!(diff.wait().succeeds().stdout.contains("tensors agree on 2 ranks"));
    }
    fs::write(run.file("hold-0"), "").unwrap();
    let waiting = run.diff(&[]).start();
    waiting.wait_for("Waiting for the next step");
    run.job.signal(SIGTERM);
    run.job.wait().ends_with(143).leaves_no_process();
    waiting.wait().ends_with(4).says(&["ended before its next step", "`cargo ddp runs`"]);
}

#[test]
fn diff_reports_jobs_that_have_nothing_to_compare() {
    let dir = tempdir().unwrap();
    let diff = |args: &[&str]| ddp(dir.path(), &[&["diff"], args].concat()).run();
    diff(&[]).ends_with(2).says(&["error: no running jobs\n"]);
    diff(&["run-9"]).ends_with(2).says(&["error: no running job `run-9`\n"]);
    let start = |nproc| {
        let cache = dir.path().join("cache");
        let job = launch(dir.path(), &["--nproc", nproc], "echo ready; sleep 500").env("XDG_CACHE_HOME", cache).start();
        job.wait_for("ready");
        job
    };
    let one = start("1");
    diff(&[]).ends_with(2).says(&["has only one rank: there is nothing to compare"]);
    let two = start("2");
    diff(&[]).ends_with(2).says(&["could not determine which job to use (running: run-1-"]);
    let pid = two.pid().to_string();
    let late = diff(&[&pid, "--timeout", "0.3"]).ends_with(4);
    late.says(&["timed out after 0.3 s", "hint: only a program whose training loop uses `ddp_runtime::Run`"]);
    assert!(!two.has_ended(), "a plain program is not disturbed");
    for job in [one, two] {
        job.signal(SIGTERM);
        job.wait().ends_with(143).leaves_no_process();
    }
}

#[test]
fn diff_on_any_node_compares_the_ranks_of_all_nodes() {
    let dir = tempdir().unwrap();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
    let program = worker("diverge");
    let jobs = ["0", "1"].map(|node| {
        let nodes = ["--nnodes", "2", "--node-rank", node, "--master-addr", "127.0.0.1", "--master-port", &port];
        let runs = dir.path().join(format!("runs-{node}"));
        let flags = ["--nproc", "1", "--log-dir", runs.to_str().unwrap(), "--", program.to_str().unwrap()];
        ddp(dir.path(), &[&["launch"], &nodes[..], &flags, &[dir.path().to_str().unwrap()]].concat()).start()
    });
    for job in &jobs {
        job.wait_for(" trains");
    }
    fs::write(dir.path().join("flip-1"), "parameter").unwrap();
    jobs[1].wait_for("rank 1 flipped a bit");
    for job in &jobs {
        let done = ddp(dir.path(), &["diff", &job.pid().to_string()]).run().ends_with(6);
        assert!(done.stdout.contains("first: parameter first.weight[2, 1]\n  rank 0"), "{}", done.stdout);
    }
    fs::write(dir.path().join("stop"), "").unwrap();
    for job in jobs {
        job.wait().succeeds().leaves_no_process();
    }
    wait_until("the jobs to leave the list", String::new, || {
        ddp(dir.path(), &["ps"]).run().succeeds().stdout == "no running jobs\n"
    });
}
