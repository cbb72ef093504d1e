//! The faults that are injected into a run, and the outcome that each must have.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use ddp_tests::{Job, SIGINT, SIGKILL, SIGTERM, launcher_processes, snapshots};

use crate::round::{Round, signal};

const PREEMPTED: i32 = 75;

pub enum Outcome {
    Disturbed,
    /// This machine can't do it.
    Skipped(&'static str),
}

pub struct Fault {
    pub name: &'static str,
    pub run: fn(&mut Round) -> Outcome,
}

pub const FAULTS: [Fault; 14] = [
    Fault { name: "kill -9 of a rank, up to 3 times", run: kill_ranks },
    Fault { name: "a rank crashes (SIGSEGV, SIGABRT, SIGBUS, SIGILL)", run: crash },
    Fault { name: "kill -9 of two ranks at once", run: kill_two },
    Fault { name: "kill -9 of one launcher process", run: kill_launcher },
    Fault { name: "kill -9 of two or all launcher processes", run: kill_launchers },
    Fault { name: "a signal asks the job to stop", run: stop_job },
    Fault { name: "SIGUSR1 to a rank", run: stop_rank },
    Fault { name: "a rank is paused for a while", run: pause },
    Fault { name: "the launcher is paused for a while", run: pause_launcher },
    Fault { name: "the newest snapshot is damaged between two runs", run: damage_between },
    Fault { name: "the newest snapshot is damaged, then kill -9 of a rank", run: damage_and_kill },
    Fault { name: "full disk", run: full_disk },
    Fault { name: "a second job with the same snapshots", run: second_job },
    Fault { name: "output and event floods", run: flood },
];

fn kill_ranks(round: &mut Round) -> Outcome {
    let job = round.start();
    let mut killed = Vec::new();
    let mut step = 0;
    for attempt in 0..=round.random.below(3) {
        step = round.wait_for_a_step(&job, step);
        let rank = round.random_rank();
        if kill_rank(&job, attempt, rank, SIGKILL) {
            killed.push((rank, "SIGKILL".to_owned()));
        }
    }
    round.ends_with(job, 0);
    assert_eq!(round.causes(), killed, "the causes of the restarts");
    round.compare();
    Outcome::Disturbed
}

/// Signals a rank of the given attempt; returns whether the rank was still alive.
fn kill_rank(job: &Job, attempt: u64, rank: usize, number: i32) -> bool {
    job.wait_for_count(" Running ", usize::try_from(attempt).unwrap() + 1);
    signal(job.workers()[rank], number)
}

fn crash(round: &mut Round) -> Outcome {
    let (number, name) = round.random.pick(&[(11, "SIGSEGV"), (6, "SIGABRT"), (7, "SIGBUS"), (4, "SIGILL")]);
    let job = round.start();
    round.wait_for_a_step(&job, 0);
    let rank = round.random_rank();
    let hit = kill_rank(&job, 0, rank, number);
    // Rust's handler takes the first SIGSEGV or SIGBUS for a stack overflow, finds none, and only resets the signal.
    let pid = job.workers()[rank];
    while signal(pid, number) {
        std::thread::sleep(Duration::from_millis(20));
    }
    round.ends_with(job, 0);
    let expected = if hit { vec![(rank, name.to_owned())] } else { Vec::new() };
    assert_eq!(round.causes(), expected, "the cause of the restart");
    round.compare();
    Outcome::Disturbed
}

fn kill_two(round: &mut Round) -> Outcome {
    let job = round.start();
    round.wait_for_a_step(&job, 0);
    let first = round.random_rank();
    let second = (first + 1) % round.nproc;
    let workers = job.workers();
    let hit = [first, second].map(|rank| signal(workers[rank], SIGKILL));
    round.ends_with(job, 0);
    if hit[0] {
        let causes = round.causes();
        let [(rank, name)] = &causes[..] else { panic!("one restart, not {causes:?}") };
        assert!(name == "SIGKILL" && [first, second].contains(rank), "the cause is {causes:?}");
    }
    round.compare();
    Outcome::Disturbed
}

fn kill_launcher(round: &mut Round) -> Outcome {
    let job = round.start();
    round.wait_for_a_step(&job, 0);
    let pid = round.random.pick(&launcher_processes(job.pid()));
    signal(pid, SIGKILL);
    round.is_killed(job);
    round.finish();
    Outcome::Disturbed
}

fn kill_launchers(round: &mut Round) -> Outcome {
    let job = round.start();
    round.wait_for_a_step(&job, 0);
    let pids = launcher_processes(job.pid());
    // All, or all but one.
    let spared = round.random.below(4);
    for (_, pid) in (0..).zip(pids).filter(|(number, _)| *number != spared) {
        signal(pid, SIGKILL);
    }
    round.is_killed(job);
    round.finish();
    Outcome::Disturbed
}

fn stop_job(round: &mut Round) -> Outcome {
    let number = round.random.pick(&[SIGTERM, SIGINT, libc::SIGUSR1]);
    let job = round.start();
    round.wait_for_a_step(&job, 0);
    job.signal(number);
    round.ends_with(job, PREEMPTED);
    round.finish();
    Outcome::Disturbed
}

fn stop_rank(round: &mut Round) -> Outcome {
    let job = round.start();
    round.wait_for_a_step(&job, 0);
    let rank = round.random_rank();
    signal(job.workers()[rank], libc::SIGUSR1);
    round.ends_with(job, PREEMPTED);
    round.finish();
    Outcome::Disturbed
}

fn pause(round: &mut Round) -> Outcome {
    let job = round.start();
    round.wait_for_a_step(&job, 0);
    let rank = round.random_rank();
    let pid = job.workers()[rank];
    signal(pid, libc::SIGSTOP);
    round.random.sleep(1500);
    signal(pid, libc::SIGCONT);
    round.ends_with(job, 0);
    assert_eq!(round.causes(), [], "a pause is no failure");
    round.compare();
    Outcome::Disturbed
}

fn pause_launcher(round: &mut Round) -> Outcome {
    let job = round.start();
    round.wait_for_a_step(&job, 0);
    let pids = launcher_processes(job.pid());
    let paused = round.random.pick(&[&pids[..], &pids[..1], &pids[1..2], &pids[2..]]);
    for pid in paused {
        signal(*pid, libc::SIGSTOP);
    }
    round.random.sleep(1500);
    for pid in paused {
        signal(*pid, libc::SIGCONT);
    }
    round.ends_with(job, 0);
    assert_eq!(round.causes(), [], "a pause is no failure");
    round.compare();
    Outcome::Disturbed
}

fn damage_between(round: &mut Round) -> Outcome {
    let job = round.start();
    // Past the second snapshot, so that there is one to fall back to.
    round.wait_for_a_step(&job, 10);
    signal(launcher_processes(job.pid())[0], SIGKILL);
    round.is_killed(job);
    let newest = snapshots(&round.snapshots()).into_iter().next().expect("ten steps are done, with snapshots");
    damage(round, &newest);
    let done = round.finish();
    let name = newest.file_name().unwrap().to_str().unwrap();
    assert!(done.stderr.contains(name) || done.stdout.contains(name), "{name} is not reported:\n{}", done.stderr);
    Outcome::Disturbed
}

fn damage_and_kill(round: &mut Round) -> Outcome {
    let job = round.start();
    round.wait_for_a_step(&job, 10);
    if let Some(newest) = snapshots(&round.snapshots()).into_iter().next() {
        damage(round, &newest);
    }
    let rank = round.random_rank();
    kill_rank(&job, 0, rank, SIGKILL);
    round.ends_with(job, 0);
    round.compare();
    Outcome::Disturbed
}

/// Flips a bit of a file, cuts it off, or removes it. The run may remove the snapshot meanwhile.
fn damage(round: &mut Round, snapshot: &Path) {
    let file = round.random.pick(&["model.safetensors", "optimizer.safetensors", "rng.safetensors", "state.json"]);
    let path = snapshot.join(file);
    let Ok(mut bytes) = fs::read(&path) else { return };
    let at = usize::try_from(round.random.below(bytes.len() as u64)).unwrap();
    let written = match round.random.below(3) {
        0 => {
            bytes[at] ^= 1 << round.random.below(8);
            fs::write(&path, bytes)
        }
        1 => fs::write(&path, &bytes[..at]),
        _ => fs::remove_file(&path),
    };
    drop(written);
}

/// A separate file system for the snapshots, which is full for a while.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(dir: PathBuf) -> Option<Self> {
        fs::create_dir_all(&dir).unwrap();
        let mount = Command::new("mount").args(["-t", "tmpfs", "-o", "size=2m", "ddp-chaos"]).arg(&dir).output();
        mount.is_ok_and(|output| output.status.success()).then_some(Self(dir))
    }

    /// Writes until nothing more fits.
    fn fill(&self) {
        let mut filler = fs::File::options().append(true).create(true).open(self.0.join("filler")).unwrap();
        while std::io::Write::write(&mut filler, &[0; 512]).is_ok() {}
    }

    fn free(&self) {
        fs::remove_file(self.0.join("filler")).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

fn full_disk(round: &mut Round) -> Outcome {
    let Some(disk) = SmallDisk::mount(round.snapshots()) else { return Outcome::Skipped("it needs to mount a tmpfs") };
    let job = round.start();
    round.wait_for_a_step(&job, 0);
    // A snapshot that had all of its space already makes room for the next ones when it replaces an older one.
    while !job.has_ended() {
        disk.fill();
        std::thread::sleep(Duration::from_millis(5));
    }
    let done = round.ends_with(job, 1);
    assert!(done.stderr.contains("no space left"), "the reason is not reported:\n{}", done.stderr);
    disk.free();
    round.finish();
    Outcome::Disturbed
}

fn second_job(round: &mut Round) -> Outcome {
    let job = round.start();
    round.wait_for_a_step(&job, 0);
    // The first job can't end before the second one does.
    let pid = job.workers()[0];
    signal(pid, libc::SIGSTOP);
    let second = round.second_job().run();
    signal(pid, libc::SIGCONT);
    let steps = second.stdout.lines().filter(|line| line.contains("] step ")).count();
    assert!(steps == 0 && !second.status.success(), "the second job was not refused:\n{}", second.stderr);
    second.leaves_no_process();
    round.ends_with(job, 0);
    assert_eq!(round.causes(), [], "the first job must not notice the second");
    round.compare();
    Outcome::Disturbed
}

fn flood(round: &mut Round) -> Outcome {
    // Lines, one endless line, and unknown events, while the ranks start and train.
    let script = r#"
        { yes 'a line of a flood' | head -c 2000000; head -c 2000000 /dev/zero | tr '\0' x; echo; } &
        yes '{"event":"coffee_break","minutes":5}' | head -c 2000000 >"/proc/self/fd/$DDP_EVENT_FD" &
        head -c 2000000 /dev/zero | tr '\0' x >"/proc/self/fd/$DDP_EVENT_FD" &
        wait
        exec "$0" "$@""#;
    let job = round.start_behind(&["sh", "-c", script]);
    round.ends_with(job, 0);
    round.compare();
    Outcome::Disturbed
}
