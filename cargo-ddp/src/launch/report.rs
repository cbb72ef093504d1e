//! The words for what happened to a job.

use ddp_contract::ErrorFile;

use super::dispatch::{Exit, Failure, Known};
use super::plan::LaunchPlan;

/// The line for a failure: who, how, where.
pub(super) fn headline(failure: &Failure, plan: &LaunchPlan) -> String {
    let mut place = format!("pid {}", failure.pid);
    if let Some(gpu) = plan.gpu_of(failure.rank) {
        place += &format!(", GPU {gpu}");
    }
    let step = match failure.step {
        Some(step) => format!("after step {step}"),
        None => "before its first step".into(),
    };
    format!("rank {} {} ({place}) {step}", failure.rank, ended(failure.exit))
}

/// What the failed rank left to say, and what its failure led to.
pub(super) fn details(failure: &Failure, plan: &LaunchPlan, last_lines: &[String]) -> Vec<String> {
    let mut lines = Vec::new();
    match ErrorFile::read(&plan.error_file(failure.rank, failure.attempt)) {
        Some(error) => {
            lines.push(format!("  it said: {}", error.message().replace('\n', "\n    ")));
            lines.extend(error.location().map(|location| format!("  at {location}")));
        }
        None if last_lines.is_empty() => {}
        None => {
            lines.push("  its last lines on stderr:".into());
            lines.extend(last_lines.iter().map(|line| format!("    {line}")));
        }
    }
    if !failure.consequences.is_empty() {
        let others: Vec<_> =
            failure.consequences.iter().map(|(rank, exit)| format!("rank {rank} {}", ended(*exit))).collect();
        lines.push(format!("  then: {}", others.join(", ")));
    }
    lines
}

/// The usual cause of such an end.
pub(super) fn hint(failure: &Failure) -> Option<&'static str> {
    match failure.exit {
        Exit::Signal(9) => {
            Some("SIGKILL without a message is usually the kernel out of memory (see `dmesg`), or a person")
        }
        Exit::Signal(4) => Some("SIGILL: libtorch or the program was built for another processor"),
        Exit::Signal(11) => Some("SIGSEGV: run `cargo ddp exec -- cargo run` under a debugger to see where"),
        Exit::Code(127) => Some("exit code 127: a shared library is missing; run `cargo ddp setup`, then build again"),
        _ => None,
    }
}

/// The line for a restart.
pub(super) fn restart(attempt: u32, max_restarts: u32, newest: Option<&Known>, last_step: Option<u64>) -> String {
    let from = match newest {
        Some(Known { snapshot, step }) => {
            let lost = last_step.and_then(|last| last.checked_sub(*step)).filter(|lost| *lost > 0);
            let lost = lost.map(|lost| format!(", {lost} steps back")).unwrap_or_default();
            format!("from {}{lost}", snapshot.display())
        }
        None => "from the beginning, as there is no snapshot yet".into(),
    };
    format!("all workers {from} ({attempt} of {max_restarts})")
}

fn ended(exit: Exit) -> String {
    match exit {
        Exit::Code(101) => "panicked (exit code 101)".into(),
        Exit::Code(code) => format!("ended with exit code {code}"),
        Exit::Signal(signal) => format!("was killed by {}", signal_name(signal)),
    }
}

fn signal_name(signal: i32) -> String {
    signal_hook::low_level::signal_name(signal).map_or_else(|| format!("signal {signal}"), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restart_says_from_where_and_what_is_lost() {
        let newest = Known { snapshot: "snapshots/step-00000064".into(), step: 64 };
        assert_eq!(
            restart(1, 3, Some(&newest), Some(70)),
            "all workers from snapshots/step-00000064, 6 steps back (1 of 3)"
        );
        assert_eq!(restart(2, 3, Some(&newest), None), "all workers from snapshots/step-00000064 (2 of 3)");
        assert_eq!(
            restart(1, 1, None, Some(3)),
            "all workers from the beginning, as there is no snapshot yet (1 of 1)"
        );
    }
}
