//! The words for a worker's failure: who, how, where; why; and what to do.

use ddp_contract::job::Cause;

use super::messages::{consequences, count, ended, seconds};
use crate::launch::event::{Failed, FailureReport};
use crate::launch::outcome::{Exit, NoRestart};

/// `rank 1 was killed by SIGKILL (pid 4711, GPU 3) after step 120`.
pub(super) fn headline(cause: &Cause) -> String {
    let Cause { rank, node, pid, gpu, step, exit_code, signal, stalled_seconds, .. } = cause;
    let mut place = format!("pid {pid}");
    if let Some(node) = node {
        place = format!("{node}, {place}");
    }
    if let Some(gpu) = gpu {
        place += &format!(", GPU {gpu}");
    }
    let step = match step {
        Some(step) => format!("after step {step}"),
        None => "before its first step".into(),
    };
    let how = match stalled_seconds.and_then(|idle| std::time::Duration::try_from_secs_f64(idle).ok()) {
        Some(idle) => format!("made no progress for {}", seconds(idle)),
        None => ended(*exit_code, signal.as_deref()),
    };
    format!("rank {rank} {how} ({place}) {step}")
}

/// The failed rank's message and last lines, and how the others ended.
pub(super) fn details(report: &FailureReport) -> Vec<String> {
    let FailureReport { cause, traceback, shown, .. } = report;
    let mut lines = Vec::new();
    if let Some(message) = &cause.message {
        lines.push(format!("  message: {}", message.replace('\n', "\n    ")));
        if let Some(location) = &cause.location {
            lines.push(format!("  at {location}"));
        }
        lines.extend(traceback.iter().flat_map(|text| text.lines()).map(|line| format!("    {line}")));
    }
    // A rank that is on the screen and has left a message needs no repetition.
    if !cause.stderr.is_empty() && (cause.message.is_none() || !shown) {
        lines.push("  last lines on stderr:".into());
        lines.extend(cause.stderr.iter().map(|line| format!("    {line}")));
    }
    if !cause.consequences.is_empty() {
        lines.push(format!("  afterwards: {}", consequences(&cause.consequences)));
    }
    lines
}

/// Usual causes, why the job was not restarted, and where to read on.
pub(super) fn hints(failed: &Failed) -> Vec<String> {
    let Failed { report, no_restart, at_startup, oom_kills, run_dir } = failed;
    let mut text = report.cause.message.clone().unwrap_or_default();
    text += &report.cause.stderr.join("\n");
    let usual = report.exit.and_then(|exit| usual_cause(exit, &text, *oom_kills));
    let mut hints: Vec<String> = usual.map(str::to_owned).into_iter().collect();
    match no_restart {
        NoRestart::Never => {}
        NoRestart::Usage => hints.push(
            "exit code 2 before the first step is a usage error, so it was not restarted: check the program's arguments"
                .into(),
        ),
        NoRestart::Again if *at_startup => hints.push(
            "the attempt before failed in the same way before its first step, so it was not restarted again".into(),
        ),
        NoRestart::Again => hints.push(
            "the attempt before failed in the same way at the same step, so it was not restarted again".into(),
        ),
        NoRestart::UsedUp(restarts) => hints.push(format!(
            "giving up after {} without a new snapshot (`--max-restarts` allows more)",
            count(*restarts as usize, "restart")
        )),
        NoRestart::Stopping => hints.push(
            "the job was asked to stop, so it was not restarted; not all ranks saved a snapshot".into(),
        ),
        NoRestart::Unreported => hints.push(
            "the program reports no progress to the launcher, so it was not restarted (`--max-restarts N` restarts it)".into(),
        ),
        NoRestart::NodeLost => {
            hints.push("a node was lost as well, so it was not restarted: start the launchers of all nodes".into());
        }
    }
    hints.push(format!("all output is in {}", run_dir.display()));
    hints
}

fn usual_cause(exit: Exit, text: &str, out_of_memory: Option<u64>) -> Option<&'static str> {
    let says = |words: &[&str]| words.iter().any(|word| text.contains(word));
    Some(match exit {
        Exit::Signal(9) => match out_of_memory {
            Some(1..) => {
                "the kernel ran out of memory and killed a process during this run: use a smaller batch, or fewer workers"
            }
            Some(0) => "the kernel did not run out of memory during this run: a person or a scheduler sent SIGKILL",
            None => "SIGKILL without a message usually means that the kernel ran out of memory; see `dmesg`",
        },
        Exit::Signal(4) => "SIGILL: libtorch or the program was built for another processor",
        Exit::Signal(25) => "SIGXFSZ: a file grew beyond the limit on file sizes (`ulimit -f`)",
        Exit::Signal(7) => "SIGBUS: often a full /dev/shm, or a file that became shorter while it was mapped",
        Exit::Signal(11) => "SIGSEGV: run one process under a debugger to see where (`cargo ddp exec -- rust-gdb …`)",
        _ if says(&["error while loading shared libraries"]) => {
            "a shared library is missing; run `cargo ddp setup`, then build again"
        }
        _ if says(&["no GPUs found", "ProcessGroupNCCL is only supported with GPUs"]) => {
            "NCCL needs GPUs: use Gloo on the CPU, or see `cargo ddp gpus` for what this machine has"
        }
        _ if says(&["address already in use", "Address already in use", "EADDRINUSE"]) => {
            "a port is in use, by another job or what is left of one; `cargo ddp ps` lists your jobs on this machine"
        }
        _ if says(&["Too many open files"]) => {
            "the limit of open files is reached: raise it (`ulimit -n`; the hard limit is `ulimit -Hn`)"
        }
        _ if says(&["CUDA out of memory", "CUDA error: out of memory"]) => {
            "the GPU's memory is full: use a smaller batch; `cargo ddp gpus` shows who uses it"
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headline_names_rank_pid_gpu_and_step() {
        let cause = Cause { rank: 1, pid: 4711, signal: Some("SIGKILL".into()), step: Some(120), ..Cause::default() };
        assert_eq!(headline(&cause), "rank 1 was killed by SIGKILL (pid 4711) after step 120");
        let node = Some("node 1 (gpu-b)".into());
        let (gpu, exit_code) = (Some("3".into()), Some(101));
        let cause = Cause { rank: 5, pid: 7, node, gpu, exit_code, ..Cause::default() };
        let expected = "rank 5 panicked (exit code 101) (node 1 (gpu-b), pid 7, GPU 3) before its first step";
        assert_eq!(headline(&cause), expected);
        let cause = Cause { stalled_seconds: Some(600.0), ..cause };
        assert!(headline(&cause).starts_with("rank 5 made no progress for 600 s (node 1"));
    }

    #[test]
    fn job_that_used_up_its_restarts_counts_them() {
        let failed = |restarts| Failed {
            report: FailureReport::default(),
            no_restart: NoRestart::UsedUp(restarts),
            at_startup: false,
            oom_kills: None,
            run_dir: "runs/1".into(),
        };
        let one = "giving up after 1 restart without a new snapshot (`--max-restarts` allows more)";
        assert_eq!(hints(&failed(1)), [one, "all output is in runs/1"]);
        assert!(hints(&failed(3))[0].starts_with("giving up after 3 restarts without"));
    }

    #[test]
    fn failure_names_usual_causes() {
        let cause = |exit, text, oom| usual_cause(exit, text, oom).unwrap_or_default();
        assert!(cause(Exit::Signal(9), "", Some(1)).contains("out of memory and killed"));
        assert!(cause(Exit::Signal(9), "", Some(0)).contains("a person or a scheduler"));
        assert!(
            cause(Exit::Code(127), "train: error while loading shared libraries: libtorch.so", None).contains("setup")
        );
        assert!(cause(Exit::Code(1), "RuntimeError: no GPUs found!", None).contains("Gloo"));
        assert_eq!(cause(Exit::Code(1), "", None), "");
    }
}
