//! The largest numbers and the longest lists that another launcher may send. What is beyond is a fault or an attack.

use std::ops::Range;

use ddp_contract::Event;

use super::Member;
use super::message::{FromCoordinator, ToCoordinator};
use crate::launch::outcome::{Exit, Failure, Verdict};

/// Workers of one node: what `--nproc` takes.
pub(crate) const LARGEST_NPROC: usize = 4096;
/// Ranks of a job.
pub(crate) const LARGEST_WORLD: usize = 1 << 17;
/// A UUID of a MIG instance has 40 bytes.
const LONGEST_GPU: usize = 80;
/// Bytes of an error message.
pub(crate) const LONGEST_TEXT: usize = 128 << 10;
/// Bytes of a line that a worker wrote last, and of all of them: node 0 keeps them for every rank.
pub(crate) const LONGEST_LINE: usize = 3 << 10;
const LONGEST_LINES: usize = 32 << 10;
/// Bytes of an error file.
pub(crate) const LONGEST_ERROR_FILE: usize = 256 << 10;
const LONGEST_PATH: usize = 16 << 10;
const MOST_LINES: usize = 10;
const LARGEST_ATTEMPT: u32 = 1 << 24;
/// The signals that a launcher forwards, and the one that it kills with.
const SIGNALS: [i32; 7] =
    [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGTERM, libc::SIGUSR1, libc::SIGUSR2, libc::SIGKILL];

/// What is out of bounds.
type Checked = Result<(), String>;

pub(crate) fn check_gpus(gpus: Option<&[String]>, nproc: usize) -> Checked {
    let Some(gpus) = gpus else { return Ok(()) };
    if gpus.len() != nproc {
        return Err(format!("expected one GPU per worker, got {nproc} workers and {} GPUs", gpus.len()));
    }
    let is_name = |gpu: &String| gpu.len() <= LONGEST_GPU && gpu.bytes().all(|byte| byte.is_ascii_graphic());
    if gpus.iter().all(is_name) { Ok(()) } else { Err("invalid GPU name".into()) }
}

/// Numbers the nodes' ranks, one node after the other.
pub(crate) fn number_ranks(members: &mut [Member]) -> Checked {
    let mut first_rank = 0;
    for member in members {
        // Before they are added: the sum of two such numbers overflows.
        if member.nproc > LARGEST_NPROC || first_rank + member.nproc > LARGEST_WORLD {
            return Err(format!("a job has at most {LARGEST_WORLD} ranks, and a node at most {LARGEST_NPROC}"));
        }
        member.first_rank = first_rank;
        first_rank += member.nproc;
    }
    Ok(())
}

/// Checks node 0's list of all nodes, on a node that knows its own part.
pub(crate) fn check_welcome(members: &[Member], run: &str, nnodes: usize, own: (usize, &Member)) -> Checked {
    if members.len() != nnodes {
        return Err(format!("{} nodes instead of {nnodes}", members.len()));
    }
    let mut numbered = members.to_owned();
    number_ranks(&mut numbered)?;
    if numbered != members || members.iter().any(|member| member.nproc == 0) {
        return Err("ranks are not in the order of the nodes".into());
    }
    for member in members {
        check_gpus(member.gpus.as_deref(), member.nproc)?;
        check_text(&member.host, 2 << 10)?;
    }
    let (node, own) = own;
    if (members[node].nproc, &members[node].gpus) != (own.nproc, &own.gpus) {
        return Err("wrong workers or GPUs for this node".into());
    }
    let is_name = run.len() <= 200 && run.bytes().all(|byte| byte.is_ascii_graphic());
    if is_name { Ok(()) } else { Err("invalid run name".into()) }
}

impl ToCoordinator {
    /// A node may report on its own ranks only.
    pub(crate) fn check(&self, ranks: &Range<usize>) -> Checked {
        match self {
            Self::Alive => Ok(()),
            Self::Exited { rank, pid: _, exit, message, last_lines, error_file } => {
                check_rank(*rank, ranks)?;
                check_exit(*exit)?;
                check_text(message.as_deref().unwrap_or_default(), LONGEST_TEXT)?;
                let bytes: usize = last_lines.iter().map(String::len).sum();
                if last_lines.len() > MOST_LINES || bytes > LONGEST_LINES {
                    return Err("the last lines of a worker are too long".into());
                }
                check_text(error_file.as_deref().unwrap_or_default(), LONGEST_ERROR_FILE)
            }
            Self::Event { rank, event } => {
                check_rank(*rank, ranks)?;
                match event {
                    Event::Resumed { snapshot, .. } | Event::SnapshotSaved { snapshot, .. } => {
                        check_text(&snapshot.to_string_lossy(), LONGEST_PATH)
                    }
                    _ => Ok(()),
                }
            }
            Self::Output { rank } => check_rank(*rank, ranks),
            Self::Signal(signal) => check_signal(*signal),
            Self::Traced(suspect) => suspect.as_ref().map_or(Ok(()), |suspect| check_rank(suspect.rank, ranks)),
            Self::GivesUp(why) => check_text(why, LONGEST_TEXT),
        }
    }
}

impl FromCoordinator {
    pub(crate) fn check(&self, world_size: usize) -> Checked {
        match self {
            Self::Welcome { .. } => Err("all nodes have joined already".into()),
            Self::Alive => Ok(()),
            Self::Start { attempt, port } => {
                check_attempt(*attempt)?;
                if *port == 0 { Err("invalid port 0".into()) } else { Ok(()) }
            }
            Self::Signal(signal) => check_signal(*signal),
            Self::Announce { after, attempt, delay: _, newest } => {
                check_attempt(*attempt)?;
                check_text(
                    &newest.as_ref().map_or_else(Default::default, |known| known.snapshot.to_string_lossy()),
                    LONGEST_PATH,
                )?;
                check_failure(after, world_size)
            }
            Self::Trace { idle: _, steps } => {
                if steps.len() > world_size {
                    Err("too many ranks".into())
                } else {
                    Ok(())
                }
            }
            Self::Finish(Verdict::Failed(failure, _)) => check_failure(failure, world_size),
            Self::Finish(Verdict::Stopped(signal)) => check_signal(*signal),
            Self::Finish(Verdict::Done { .. } | Verdict::Preempted { .. }) => Ok(()),
            Self::Finish(Verdict::NodeLost(why)) | Self::GivesUp(why) => check_text(why, LONGEST_TEXT),
        }
    }
}

fn check_failure(failure: &Failure, world_size: usize) -> Checked {
    let ranks = 0..world_size;
    check_rank(failure.rank, &ranks)?;
    check_exit(failure.exit)?;
    if failure.exit == Exit::Code(0) && failure.stalled.is_none() {
        return Err("exit code 0 is not a failure".into());
    }
    check_attempt(failure.attempt)?;
    check_text(failure.message.as_deref().unwrap_or_default(), LONGEST_TEXT)?;
    if failure.consequences.len() > world_size {
        return Err("too many ranks".into());
    }
    failure.consequences.iter().try_for_each(|(rank, exit)| check_rank(*rank, &ranks).and_then(|()| check_exit(*exit)))
}

fn check_rank(rank: usize, ranks: &Range<usize>) -> Checked {
    if ranks.contains(&rank) { Ok(()) } else { Err(format!("rank {rank} is out of range")) }
}

fn check_exit(exit: Exit) -> Checked {
    match exit {
        // Real-time signals end processes, too.
        Exit::Signal(signal) if !(1..=64).contains(&signal) => Err(format!("{signal} is not a signal")),
        Exit::Code(code) if u8::try_from(code).is_err() => Err(format!("{code} is not an exit code")),
        Exit::Signal(_) | Exit::Code(_) => Ok(()),
    }
}

fn check_signal(signal: i32) -> Checked {
    if SIGNALS.contains(&signal) { Ok(()) } else { Err(format!("signal {signal} is not forwarded")) }
}

fn check_attempt(attempt: u32) -> Checked {
    if attempt <= LARGEST_ATTEMPT { Ok(()) } else { Err(format!("invalid attempt {attempt}")) }
}

fn check_text(text: &str, longest: usize) -> Checked {
    if text.len() <= longest { Ok(()) } else { Err(format!("a text of {} bytes is too long", text.len())) }
}

/// The beginning of `text`, in at most `longest` bytes.
pub(crate) fn shortened(mut text: String, longest: usize) -> String {
    if text.len() > longest {
        text.truncate(text.floor_char_boundary(longest - "…".len()));
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::launch::outcome::NoRestart;

    fn exited(rank: usize) -> ToCoordinator {
        let (exit, message, last_lines, error_file) = (Exit::Code(1), None, vec![], None);
        ToCoordinator::Exited { rank, pid: 1, exit, message, last_lines, error_file }
    }

    #[test]
    fn node_may_report_only_its_own_ranks() {
        let ranks = 2..4;
        assert_eq!(exited(2).check(&ranks), Ok(()));
        for rank in [0, 1, 4, usize::MAX] {
            assert!(exited(rank).check(&ranks).unwrap_err().contains("is out of range"));
            assert!(ToCoordinator::Output { rank }.check(&ranks).is_err());
            assert!(ToCoordinator::Event { rank, event: Event::started() }.check(&ranks).is_err());
        }
        for signal in [0, -1, 64, i32::MAX, libc::SIGSTOP] {
            assert!(ToCoordinator::Signal(signal).check(&ranks).is_err(), "{signal}");
        }
        assert!(ToCoordinator::GivesUp("x".repeat(LONGEST_TEXT + 1)).check(&ranks).is_err());
    }

    // Of code 256 the launcher made exit code 0: a job that had failed was done.
    #[test]
    fn exit_code_from_a_node_has_eight_bits() {
        let ends = |code| {
            let (exit, message, last_lines, error_file) = (Exit::Code(code), None, vec![], None);
            ToCoordinator::Exited { rank: 2, pid: 1, exit, message, last_lines, error_file }.check(&(2..4))
        };
        assert_eq!((ends(0), ends(255)), (Ok(()), Ok(())));
        for code in [256, -1, 1 << 16, i32::MAX, i32::MIN] {
            assert_eq!(ends(code), Err(format!("{code} is not an exit code")));
        }
    }

    #[test]
    fn node_0_may_report_only_existing_ranks() {
        let failure = |rank| Failure { rank, ..Failure::example() };
        let finish = |failure| FromCoordinator::Finish(Verdict::Failed(failure, NoRestart::Never)).check(4);
        assert_eq!(finish(failure(3)), Ok(()));
        assert!(finish(failure(4)).is_err());
        assert!(finish(Failure { exit: Exit::Signal(i32::MAX), ..failure(0) }).is_err());
        assert!(finish(Failure { exit: Exit::Code(256), ..failure(0) }).is_err());
        assert!(finish(Failure { exit: Exit::Code(0), ..failure(0) }).is_err());
        let stalled = Some(std::time::Duration::from_secs(5));
        assert_eq!(finish(Failure { exit: Exit::Code(0), stalled, ..failure(0) }), Ok(()), "it was asked to stop");
        assert!(finish(Failure { consequences: vec![(9, Exit::Code(0))], ..failure(0) }).is_err());
        assert!(finish(Failure { consequences: vec![(1, Exit::Code(256))], ..failure(0) }).is_err());
        assert!(FromCoordinator::Start { attempt: 0, port: 0 }.check(4).is_err());
        assert!(FromCoordinator::Start { attempt: u32::MAX, port: 1 }.check(4).is_err());
        assert!(FromCoordinator::Finish(Verdict::Stopped(i32::MAX)).check(4).is_err());
        assert!(FromCoordinator::Trace { idle: std::time::Duration::ZERO, steps: vec![None; 5] }.check(4).is_err());
    }

    #[test]
    fn welcome_must_match_this_nodes_options() {
        let member = |first_rank, nproc| Member { host: "h".into(), first_rank, nproc, gpus: None };
        let own = member(0, 2);
        let check = |members: &[Member]| check_welcome(members, "run-1-2", 2, (1, &own));
        assert_eq!(check(&[member(0, 1), member(1, 2)]), Ok(()));
        for wrong in [
            vec![member(0, 1)],
            vec![member(0, 1), member(1, 3)],
            vec![member(0, 1), member(2, 2)],
            vec![member(0, 0), member(0, 2)],
            vec![member(0, 1 << 63), member(1 << 63, 2)],
        ] {
            assert!(check(&wrong).is_err(), "{wrong:?}");
        }
        assert!(check_welcome(&[member(0, 1), member(1, 2)], "a\nb", 2, (1, &own)).is_err());
    }

    #[test]
    fn text_is_shortened_between_characters() {
        assert_eq!(shortened("short".into(), 10), "short");
        let long = shortened("é".repeat(100), 20);
        assert!(long.len() <= 20 && long.ends_with('…'), "{long}");
    }
}
