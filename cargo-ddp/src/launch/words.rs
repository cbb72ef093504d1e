//! The words for what happened to a job.

use std::path::Path;
use std::time::Duration;

use ddp_contract::ErrorFile;

use super::plan::LaunchPlan;
use crate::launch::run::record::{Record, Saved};
use crate::launch::supervise::dispatch::{Exit, Failure, Known, NoRestart, Rules, Verdict};

/// The line for a failure: who, how, where.
pub(crate) fn headline(failure: &Failure, plan: &LaunchPlan) -> String {
    let mut place = format!("pid {}", failure.pid);
    if let Some(node) = plan.node_of(failure.rank) {
        place = format!("{node}, {place}");
    }
    if let Some(gpu) = plan.gpu_of(failure.rank) {
        place += &format!(", GPU {gpu}");
    }
    let told = || ErrorFile::read(&plan.error_file(failure.rank, failure.attempt))?.step();
    let step = match failure.step.or_else(told) {
        Some(step) => format!("after step {step}"),
        None => "before its first step".into(),
    };
    match failure.stalled {
        Some(idle) => format!("rank {} made no progress for {} ({place}) {step}", failure.rank, seconds(idle)),
        None => format!("rank {} {} ({place}) {step}", failure.rank, ended(failure.exit)),
    }
}

/// What the failed rank left to say, and what its failure led to.
pub(crate) fn details(failure: &Failure, plan: &LaunchPlan, last_lines: &[String], shown: bool) -> Vec<String> {
    let mut lines = Vec::new();
    let error = ErrorFile::read(&plan.error_file(failure.rank, failure.attempt));
    if let Some(error) = &error {
        lines.push(format!("  it said: {}", error.message().replace('\n', "\n    ")));
        match error.location() {
            Some(location) => lines.push(format!("  at {location}")),
            // A Python worker's trace-back is the only place it names.
            None if error.backtrace().starts_with("Traceback") => {
                lines.extend(error.backtrace().lines().map(|line| format!("    {line}")));
            }
            None => {}
        }
    }
    // A rank that is on the screen and has said why needs no repetition.
    if !last_lines.is_empty() && (error.is_none() || !shown) {
        lines.push("  its last lines on stderr:".into());
        lines.extend(last_lines.iter().map(|line| format!("    {line}")));
    }
    if !failure.consequences.is_empty() {
        let others: Vec<_> =
            failure.consequences.iter().map(|(rank, exit)| format!("rank {rank} {}", ended(*exit))).collect();
        lines.push(format!("  then: {}", others.join(", ")));
    }
    lines
}

/// What the launcher knows about usual causes, and where to read on.
pub(crate) fn hints(failure: &Failure, plan: &LaunchPlan, record: &Record, verdict: &Verdict) -> Vec<String> {
    let mut hints: Vec<String> = Vec::new();
    let mut text = failure.message.clone().unwrap_or_default();
    if let Some(cause) = &record.cause {
        text += &cause.stderr.join("\n");
    }
    hints.extend(usual_cause(failure.exit, &text, record.out_of_memory()).map(str::to_owned));
    match verdict {
        Verdict::Failed(_, NoRestart::Usage) => hints.push(
            "exit code 2 before the first step is a usage error, so it was not restarted: check the program's arguments".into(),
        ),
        Verdict::Failed(Failure { at_startup: true, .. }, NoRestart::Again) => hints.push(
            "the attempt before failed in the same way before its first step, so it was not restarted again".into(),
        ),
        Verdict::Failed(_, NoRestart::Again) => hints.push(
            "it failed in the same way at the same step as the attempt before, so it was not started again".into(),
        ),
        Verdict::Failed(_, NoRestart::UsedUp(count)) => hints.push(format!(
            "{count} restarts brought no new snapshot, so it was not started again (`--max-restarts` allows more)"
        )),
        Verdict::Failed(_, NoRestart::Stopping) => {
            hints.push("the job had been asked to stop, so it was not restarted; not all ranks saved a snapshot".into());
        }
        Verdict::Failed(_, NoRestart::Unreported) => hints.push(
            "the program reports no progress to the launcher, so it was not restarted (`--max-restarts N` restarts it)".into(),
        ),
        Verdict::Failed(_, NoRestart::NodeLost) => {
            hints.push("a node was lost as well, so it was not started again: start the launchers of all nodes".into());
        }
        _ => {}
    }
    hints.push(format!("all output is in {}", plan.run_dir.display()));
    hints
}

fn usual_cause(exit: Exit, text: &str, out_of_memory: Option<u64>) -> Option<&'static str> {
    let says = |words: &[&str]| words.iter().any(|word| text.contains(word));
    Some(match exit {
        Exit::Signal(9) => match out_of_memory {
            Some(1..) => {
                "the kernel ran out of memory and killed a process during this run: use a smaller batch, or fewer workers"
            }
            Some(0) => "the kernel has not run out of memory during this run: somebody, or a scheduler, sent SIGKILL",
            None => "SIGKILL without a message is usually the kernel out of memory (see `dmesg`), or a person",
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
            "a port is taken: another job, or what is left of one; `cargo ddp ps` lists the jobs of yours that run here"
        }
        _ if says(&["Too many open files"]) => {
            "the limit of open files is reached: raise it (`ulimit -n`; the hard limit is `ulimit -Hn`)"
        }
        _ if says(&["CUDA out of memory", "CUDA error: out of memory"]) => {
            "the GPU's memory is full: use a smaller batch; `cargo ddp gpus` says who uses it"
        }
        _ => return None,
    })
}

/// The line for a restart.
pub(crate) fn restart(
    attempt: u32,
    newest: Option<&Known>,
    last_step: Option<u64>,
    delay: Duration,
    rules: &Rules,
) -> String {
    let from = match newest {
        Some(Known { snapshot, step }) => {
            format!("from {}{}", near(snapshot), steps_back(last_step, *step))
        }
        None => "from the beginning, as there is no snapshot yet".into(),
    };
    let wait = if delay.is_zero() { String::new() } else { format!(" in {}", seconds(delay)) };
    let limit = rules.max_restarts;
    // The count begins anew with each new snapshot, so it may be beyond the limit.
    let count = if attempt <= limit { format!("{attempt} of {limit}") } else { format!("restart {attempt}") };
    format!("all workers{wait} {from} ({count})")
}

/// `, 6 steps back`, if what came after a snapshot is lost.
fn steps_back(last_step: Option<u64>, snapshot: u64) -> String {
    let lost = last_step.and_then(|last| last.checked_sub(snapshot)).filter(|lost| *lost > 0);
    lost.map(|lost| format!(", {lost} steps back")).unwrap_or_default()
}

/// The line for a run that has ended well: `2 workers in 7.5 s, step 138, 1 restart; saved in snapshots/step-00000138`.
pub(crate) fn finished(record: &Record, restarts: u32, time: Duration) -> String {
    let workers = if record.world_size == 1 { "1 worker".into() } else { format!("{} workers", record.world_size) };
    let mut line = format!("{workers} in {:.1} s", time.as_secs_f64());
    if let Some(step) = record.last_step {
        line += &format!(", step {step}");
    }
    match restarts {
        0 => {}
        1 => line += ", 1 restart",
        n => line += &format!(", {n} restarts"),
    }
    if let Some(saved) = &record.snapshot {
        line += &format!("; saved in {}", near(&saved.snapshot));
    }
    line
}

/// The line for a run that was stopped by a signal before it saved.
pub(crate) fn stopped(record: &Record, signal: i32) -> String {
    let signal = signal_name(signal);
    match &record.snapshot {
        Some(Saved { snapshot, step, .. }) => {
            let lost = steps_back(record.last_step, *step);
            format!("by {signal}; run it again to go on from {}{lost}", near(snapshot))
        }
        None => format!("by {signal}; there is no snapshot to go on from"),
    }
}

/// The line for a first Ctrl-C.
pub(crate) fn stopping(rules: &Rules) -> String {
    format!("when all is saved, in {} at most; Ctrl-C again: at once", seconds(rules.grace))
}

/// A path in words: from the current folder on, if it is in it.
pub(crate) fn near(path: &Path) -> String {
    let folder = std::env::current_dir().unwrap_or_default();
    path.strip_prefix(folder).unwrap_or(path).display().to_string()
}

/// The line for workers that should end, and can't.
pub(crate) fn paused(ranks: &[usize]) -> String {
    let names: Vec<_> = ranks.iter().map(ToString::to_string).collect();
    match names.as_slice() {
        [one] => format!("rank {one} is paused in a debugger: it ends when it is continued there"),
        many => format!("ranks {} are paused in a debugger: they end when they are continued there", many.join(", ")),
    }
}

/// The line for a job that stands still.
pub(crate) fn stalled(idle: Duration, steps: &[Option<u64>]) -> String {
    let idle = seconds(idle);
    let furthest = steps.iter().flatten().max();
    let Some(furthest) = furthest else {
        return format!("no rank has made a step, and there was nothing new for {idle}");
    };
    let behind: Vec<_> =
        steps.iter().enumerate().filter(|(_, step)| step.is_none_or(|step| step < *furthest)).collect();
    if behind.is_empty() {
        return format!("no progress for {idle}: all ranks are done with step {furthest}, and none with the next");
    }
    let names: Vec<_> = behind.iter().map(|(rank, _)| rank.to_string()).collect();
    let (ranks, have) = if names.len() == 1 { ("rank", "has") } else { ("ranks", "have") };
    format!(
        "no progress for {idle}: {ranks} {} {have} not reached step {furthest}, which others wait after",
        names.join(", ")
    )
}

pub(crate) fn seconds(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    if seconds < 10.0 && seconds.fract() > 0.05 { format!("{seconds:.1} s") } else { format!("{seconds:.0} s") }
}

fn ended(exit: Exit) -> String {
    match exit {
        Exit::Code(101) => "panicked (exit code 101)".into(),
        Exit::Code(code) => format!("ended with exit code {code}"),
        Exit::Signal(signal) => format!("was killed by {}", signal_name(signal)),
    }
}

pub(crate) fn signal_name(signal: i32) -> String {
    signal_hook::low_level::signal_name(signal).map_or_else(|| format!("signal {signal}"), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restart_says_from_where_and_what_is_lost() {
        let rules = |max_restarts| Rules { max_restarts, ..Rules::default() };
        let newest = Known { snapshot: "snapshots/step-00000064".into(), step: 64 };
        let now = Duration::ZERO;
        assert_eq!(
            restart(1, Some(&newest), Some(70), now, &rules(3)),
            "all workers from snapshots/step-00000064, 6 steps back (1 of 3)"
        );
        assert_eq!(
            restart(2, Some(&newest), None, Duration::from_secs(1), &rules(3)),
            "all workers in 1 s from snapshots/step-00000064 (2 of 3)"
        );
        assert_eq!(
            restart(7, None, Some(3), now, &rules(1)),
            "all workers from the beginning, as there is no snapshot yet (restart 7)"
        );
    }

    #[test]
    fn a_stall_names_who_is_behind() {
        let idle = Duration::from_secs(600);
        assert_eq!(
            stalled(idle, &[Some(12), Some(11), Some(12)]),
            "no progress for 600 s: rank 1 has not reached step 12, which others wait after"
        );
        assert_eq!(
            stalled(idle, &[Some(12), Some(12)]),
            "no progress for 600 s: all ranks are done with step 12, and none with the next"
        );
        assert_eq!(stalled(idle, &[None]), "no rank has made a step, and there was nothing new for 600 s");
    }

    #[test]
    fn usual_causes_are_named() {
        let cause = |exit, text, oom| usual_cause(exit, text, oom).unwrap_or_default();
        assert!(cause(Exit::Signal(9), "", Some(1)).contains("out of memory and killed"));
        assert!(cause(Exit::Signal(9), "", Some(0)).contains("somebody"));
        assert!(
            cause(Exit::Code(127), "train: error while loading shared libraries: libtorch.so", None).contains("setup")
        );
        assert!(cause(Exit::Code(1), "RuntimeError: no GPUs found!", None).contains("Gloo"));
        assert_eq!(cause(Exit::Code(1), "", None), "");
    }
}
