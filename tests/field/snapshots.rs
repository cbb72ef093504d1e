//! Snapshots: retention, sharing, and damage.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use ddp_contract::snapshot;
use ddp_tests::{Ddp, SIGKILL, SIGTERM, cargo_ddp, repo, signal_process, snapshots, worker};
use serde_json::Value;
use tempfile::{TempDir, tempdir};

/// The worker `keeper` on two ranks.
pub(super) fn keeper(dir: &Path, settings: &[&str]) -> Ddp {
    Ddp::worker("keeper", &["--nproc", "2", "--max-restarts", "0"], &[&[dir.to_str().unwrap()], settings].concat())
}

/// The steps of the snapshots in `dir`, newest first.
pub(super) fn steps(dir: &Path) -> Vec<u64> {
    snapshots(dir).iter().map(|folder| snapshot::step_of(folder).unwrap()).collect()
}

fn newest_valid(dir: &Path) -> u64 {
    snapshot::newest_valid(dir).unwrap().valid.expect("a valid snapshot is left").manifest.step
}

fn flip(file: &Path) {
    let mut bytes = fs::read(file).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(file, bytes).unwrap();
}

/// `keep_last(1)` counted a damaged snapshot as the newest, and removed the valid one just written.
#[test]
fn keep_last_with_a_damaged_newest_snapshot_leaves_a_valid_one() {
    let dir = tempdir().unwrap();
    keeper(dir.path(), &["steps=4", "every=2"]).run().succeeds();
    flip(&dir.path().join("step-00000004/model.safetensors"));
    let done = keeper(dir.path(), &["steps=3", "every=1", "keep=1"]).run().succeeds();
    assert!(done.stdout.contains("begins after step 2"), "{}", done.stdout);
    assert_eq!((steps(dir.path()), newest_valid(dir.path())), (vec![4, 3], 3));
    // The next run resumes from there, and replaces the damaged one.
    let done = keeper(dir.path(), &["steps=4", "every=1", "keep=1"]).run().succeeds();
    assert!(done.stdout.contains("begins after step 3"), "{}", done.stdout);
    assert_eq!((steps(dir.path()), newest_valid(dir.path())), (vec![4], 4));
}

/// `prune` kept a link as the newest snapshot, and removed what it points to.
#[test]
fn prune_removes_nothing_that_a_link_points_to() {
    let dir = tempdir().unwrap();
    keeper(dir.path(), &["steps=3", "every=1"]).run().succeeds();
    let prune = |flags: &[&str]| {
        let args = ["snapshot", "prune", dir.path().to_str().unwrap(), "--keep-last", "1"];
        Ddp::new(args.iter().chain(flags)).run()
    };
    // A link to a snapshot, in the place of the newest.
    fs::remove_dir_all(dir.path().join("step-00000003")).unwrap();
    fs::rename(dir.path().join("step-00000002"), dir.path().join("step-00000000")).unwrap();
    symlink("step-00000001", dir.path().join("step-00000002")).unwrap();
    prune(&[]).succeeds().says(&["step-00000002: it is a link"]);
    assert_eq!(steps(dir.path()), [2, 1]);
    assert_eq!(newest_valid(dir.path()), 1);

    // Links to older ones: of any name, and in a snapshot that stays.
    fs::remove_file(dir.path().join("step-00000002")).unwrap();
    keeper(dir.path(), &["steps=5", "every=1"]).run().succeeds();
    assert_eq!(steps(dir.path()), [5, 4, 3, 2, 1]);
    symlink("step-00000002", dir.path().join("best")).unwrap();
    let (model, target) =
        (dir.path().join("step-00000005/model.safetensors"), dir.path().join("step-00000003/model.safetensors"));
    fs::rename(&model, &target).unwrap();
    symlink("../step-00000003/model.safetensors", &model).unwrap();
    prune(&["--dry-run"]).succeeds();
    prune(&[]).succeeds();
    // Snapshot 3 is damaged by that, and left alone.
    assert_eq!((steps(dir.path()), newest_valid(dir.path())), (vec![5, 3, 2], 5));
}

/// A file system without RENAME_EXCHANGE (NFS): the only valid snapshot had a temporary name for a moment, and a run
/// that was killed then lost it.
#[test]
fn replaced_snapshot_exists_at_every_moment_without_renameat2_exchange() {
    if Command::new("strace").arg("-V").output().is_err() {
        ddp_tests::skipped("needs strace");
        return;
    }
    let mut names = Vec::new();
    for kill_at in 1.. {
        let dir = tempdir().unwrap();
        let snapshots = dir.path().join("s");
        let kill = format!("inject=rename:signal=KILL:when={kill_at}");
        let output = Command::new("strace")
            .args(["-f", "-qq", "-o", "/dev/null", "-e", "trace=rename,renameat2"])
            .args(["-e", "inject=renameat2:error=EINVAL", "-e", &kill])
            .arg(worker("keeper"))
            .arg(&snapshots)
            // Saved at its last step, and again at the end of its epoch.
            .args(["trainer=1", "steps=5", "every=5", "keep=1"])
            .output()
            .unwrap();
        names.push(steps(&snapshots));
        if kill_at > 1 {
            assert_eq!(newest_valid(&snapshots), 5, "{names:?}");
            Command::new(worker("keeper")).arg(&snapshots).args(["steps=6", "every=1", "keep=1"]).output().unwrap();
            assert_eq!((steps(&snapshots), newest_valid(&snapshots)), (vec![6], 6));
        }
        if output.status.success() {
            break;
        }
    }
    // Before, one; with the new one next to it; without the old one; under its name.
    assert_eq!(names, [vec![], vec![5], vec![5, 5], vec![5], vec![5]]);
}

/// On NCCL jobs, the ranks gave up after 10 minutes, the timeout of their collectives.
#[test]
fn snapshot_may_take_longer_to_write_than_a_collective_may_take() {
    if Command::new("strace").arg("-V").output().is_err() {
        ddp_tests::skipped("needs strace");
        return;
    }
    let dir = tempdir().unwrap();
    let slow_disk = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=fsync"];
    let keeper = worker("keeper");
    let (keeper, snapshots) = (keeper.to_str().unwrap(), dir.path().to_str().unwrap());
    let run = ["launch", "--nproc", "2", "--max-restarts", "0", "--"].into_iter().chain(slow_disk);
    let run = run.chain(["-e", "inject=fsync:delay_enter=12000000:when=1", keeper, snapshots, "steps=2", "every=2"]);
    let start = Instant::now();
    Ddp::new(run).env("DDP_TIMEOUT", "5").run().succeeds().leaves_no_process();
    assert!(start.elapsed() >= Duration::from_secs(12), "the disk was not slow");
    assert_eq!(newest_valid(dir.path()), 2);
}

/// Two programs removed each other's partial snapshots, and resumed from each other's.
#[test]
fn second_program_in_a_snapshot_directory_is_refused_before_it_trains() {
    let dir = tempdir().unwrap();
    let first = keeper(dir.path(), &["steps=1000000", "every=2", "keep=2", "pause=20"]).start();
    first.wait_for("step 0 4");
    let holder = fs::read_to_string(dir.path().join(".lock")).unwrap();
    let holder: Value = serde_json::from_str(&holder).unwrap();
    assert_eq!(holder["pid"].as_u64().map(|pid| pid as u32), Some(first.workers()[0]));
    for settings in [&["steps=9", "every=1"][..], &["steps=9", "trainer=1"]] {
        let second = keeper(dir.path(), settings).run().ends_with(1).leaves_no_process();
        assert!(!second.stdout.contains("step 0 "), "{}", second.stdout);
        let process = format!("another program is writing to it: process {} on ", holder["pid"]);
        second.says(&[&process, "(run ", "use a different directory"]);
    }
    // A program that saves only at its end fails only then, but prints a note earlier.
    let late = keeper(dir.path(), &["late=2", "steps=0"]).run().ends_with(1);
    late.says(&["note: process ", "is writing to", "another program is writing to it"]);

    // Readers are allowed, and change nothing.
    let partial = dir.path().join(".step-99999999.partial");
    fs::create_dir(&partial).unwrap();
    let reader = keeper(dir.path(), &["read=1"]).run().succeeds();
    assert!(reader.stdout.contains("begins after step "), "{}", reader.stdout);
    assert!(partial.exists());

    first.signal(SIGTERM);
    first.wait().ends_with(75).leaves_no_process();
    let done = keeper(dir.path(), &["steps=1", "every=1"]).run().succeeds();
    assert!(done.stdout.contains("begins after step "), "{}", done.stdout);
    assert!(!dir.path().join(".lock").exists());
}

/// Partial snapshots are removed by a program that saves, and by no other.
#[test]
fn reader_leaves_the_partial_snapshots_of_a_run_that_was_killed() {
    let dir = tempdir().unwrap();
    keeper(dir.path(), &["steps=2", "every=2"]).run().succeeds();
    let partial = dir.path().join(".step-00000003.partial");
    fs::create_dir(&partial).unwrap();
    keeper(dir.path(), &["read=1"]).run().succeeds();
    assert!(partial.exists());
    keeper(dir.path(), &["steps=4", "every=2"]).run().succeeds();
    assert!(!partial.exists());
}

#[test]
fn one_of_two_programs_that_start_together_trains() {
    let dir = tempdir().unwrap();
    keeper(dir.path(), &["read=1"]).run().succeeds(); // builds it
    // The winner trains until both have started.
    let start = || keeper(dir.path(), &["steps=1000000", "every=50", "keep=1", "pause=1"]).start();
    let mut jobs = vec![start(), start()];
    let end = Instant::now() + Duration::from_secs(300);
    let refused = loop {
        if let Some(refused) = jobs.iter().position(|job| job.printed().contains("another program is writing to it")) {
            break refused;
        }
        assert!(Instant::now() < end, "neither was refused");
        std::thread::sleep(Duration::from_millis(20));
    };
    jobs.remove(refused).wait().ends_with(1);
    let winner = jobs.remove(0);
    winner.wait_for("step 0 60");
    winner.signal(SIGTERM);
    winner.wait().ends_with(75);
}

#[test]
fn lock_of_a_killed_program_blocks_no_other() {
    let dir = tempdir().unwrap();
    let first = keeper(dir.path(), &["steps=1000000", "every=2", "pause=20"]).start();
    first.wait_for("step 0 4");
    first.workers().into_iter().chain([first.pid()]).for_each(|pid| signal_process(pid, SIGKILL));
    // Immediately: the other processes may still be dying.
    let done = keeper(dir.path(), &["steps=1", "every=1"]).run().succeeds();
    assert!(
        done.stdout.contains("begins after step ") && !done.stdout.contains("begins after step 0"),
        "{}",
        done.stdout
    );
    drop(first);
    // A restart by the launcher is the same run, and the earlier process is dead.
    let dir = tempdir().unwrap();
    let settings = [dir.path().to_str().unwrap(), "steps=40", "every=2", "pause=10"];
    let job = Ddp::worker("keeper", &["--nproc", "2", "--max-restarts", "1"], &settings).start();
    job.wait_for("step 0 4");
    signal_process(job.workers()[0], SIGKILL);
    job.wait().succeeds();
    assert_eq!(newest_valid(dir.path()), 40);
}

/// Runs a script where it may mount file systems, in its own directory.
fn with_mounts(script: &str) -> Option<(TempDir, Output)> {
    let place = tempdir().unwrap();
    let within = |script: &str| {
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "--mount", "sh", "-ec"]);
        command.arg(format!("mount -t tmpfs none {}\n{script}", place.path().display()));
        command.env("place", place.path()).env("keeper", worker("keeper")).env("ddp", cargo_ddp()).current_dir(repo());
        command
    };
    if !within("true").stderr(Stdio::null()).status().is_ok_and(|status| status.success()) {
        ddp_tests::skipped("needs a user namespace in which tmpfs can be mounted");
        return None;
    }
    let output = within(script).output().unwrap();
    Some((place, output))
}

/// A snapshot that could not be removed ended the run, and each later start.
#[test]
fn snapshot_that_cannot_be_removed_is_left_with_a_warning() {
    let script = r#"
        mkdir "$place/s"; cd "$place/s"
        "$keeper" . steps=2 every=1 keep=9
        # A mount in a directory keeps it from being removed, for root, too.
        mkdir -p .step-00000003.partial/x step-00000001/x
        mount --bind /proc .step-00000003.partial/x
        mount --bind /proc step-00000001/x
        "$keeper" . steps=5 every=1 keep=1
        "$ddp" ddp snapshot ls .
        "$keeper" . steps=6 every=1 keep=1
        "$ddp" ddp snapshot verify .
        mkdir step-00000006/x; mount --bind /proc step-00000006/x
        "$keeper" . steps=7 every=1
        "$ddp" ddp snapshot prune . --keep-last 1 || echo "prune ends with $?"
    "#;
    let Some((_place, output)) = with_mounts(script) else { return };
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{stdout}{stderr}");
    assert!(stdout.contains("ends with step 5") && stdout.contains("ends with step 7"), "{stdout}{stderr}");
    assert!(
        stderr.contains("warning: can't remove ./.step-00000003.partial")
            || stderr.contains(".step-00000003.partial: "),
        "{stderr}"
    );
    assert!(stderr.contains("; training continues"), "{stderr}");
    assert!(
        stdout.contains("prune ends with 4") && stderr.contains("can't remove ./step-00000006"),
        "{stdout}{stderr}"
    );
}

/// A directory in which not even root can remove files and directories (`chattr +i`), until this is dropped.
struct Immutable<'a>(&'a Path);

impl<'a> Immutable<'a> {
    fn new(dir: &'a Path, paths: &[PathBuf]) -> Option<Self> {
        let this = Self(dir);
        let made = Command::new("chattr").arg("+i").args(paths).output();
        made.is_ok_and(|output| output.status.success()).then_some(this)
    }
}

impl Drop for Immutable<'_> {
    fn drop(&mut self) {
        let _ = Command::new("chattr").args(["-R", "-f", "-i"]).arg(self.0).output();
    }
}

#[test]
fn immutable_files_and_directories_are_left_with_a_warning() {
    let dir = tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    keeper(dir.path(), &["steps=3", "every=1", "keep=9"]).run().succeeds();
    fs::create_dir(path(".step-00000009.partial")).unwrap();
    let odd = ["step-00000001/model.safetensors", "step-00000002", ".step-00000009.partial"].map(path);
    let Some(immutable) = Immutable::new(dir.path(), &odd) else {
        ddp_tests::skipped("needs `chattr +i`");
        return;
    };
    let run = |steps: &str| keeper(dir.path(), &[steps, "every=1", "keep=1"]).run().succeeds();
    let done = run("steps=5");
    done.says(&["can't remove", "step-00000001", "step-00000002", ".step-00000009.partial", "training continues"]);
    assert_eq!(newest_valid(dir.path()), 5);
    let prune = || Ddp::new(["snapshot", "prune", dir.path().to_str().unwrap(), "--keep-last", "1"]).run();
    prune().ends_with(4).says(&["step-00000002"]);
    run("steps=6");
    drop(immutable);
    run("steps=7");
    prune().succeeds();
    assert_eq!(steps(dir.path()), [7]);
    let hidden = fs::read_dir(dir.path()).unwrap().filter(|entry| entry.as_ref().unwrap().path().is_dir()).count();
    assert_eq!(hidden, 1, "what was left is removed once it can be");
}

/// overlayfs does not rename a directory of a lower layer (EXDEV): <https://docs.kernel.org/filesystems/overlayfs.html>
#[test]
fn snapshots_in_a_lower_layer_are_removed_and_replaced() {
    // Without user.overlay.* attributes, it renames no directory at all.
    for options in ["", "userxattr,"] {
        let script = r#"
            cd "$place"; mkdir lower upper work merged
            "$keeper" lower steps=3 every=1 keep=9
            printf x >> lower/step-00000003/model.safetensors
            printf x >> lower/step-00000002/model.safetensors
            mount -t overlay overlay -o OPTIONSlowerdir=lower,upperdir=upper,workdir=work merged || { echo "no overlay"; exit 0; }
            "$keeper" merged steps=4 every=1 keep=1
            "$keeper" merged steps=5 every=1 keep=1
            "$ddp" ddp snapshot verify merged || true
            ls -A merged
        "#;
        let Some((_place, output)) = with_mounts(&script.replace("OPTIONS", options)) else { return };
        let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{stdout}{stderr}");
        if stdout.contains("no overlay") {
            ddp_tests::skipped("needs overlayfs in a user namespace");
            return;
        }
        assert!(stdout.contains("begins after step 1,") && stdout.contains("begins after step 4,"), "{stdout}{stderr}");
        assert!(stdout.contains("valid    merged/step-00000005 "), "{stdout}{stderr}");
        // Without the attributes, it does not even remove all directories, and the empty ones stay.
        if !options.is_empty() {
            assert_eq!(stdout.lines().next_back(), Some("step-00000005"), "{stdout}{stderr}");
        }
    }
}

/// Any error after a preemption was exit code 75, without a message.
#[test]
fn error_after_a_preemption_is_reported() {
    let dir = tempdir().unwrap();
    let job = keeper(dir.path(), &["steps=100000", "every=100000", "pause=10", "fail=1"]).start();
    job.wait_for("step 0 4");
    job.signal(SIGTERM);
    let done = job.wait().ends_with(1).leaves_no_process();
    done.says(&["error: rank 1 ended with exit code 1", "can't write the summary", "it was not restarted"]);
    // The snapshot is valid nevertheless.
    assert!(newest_valid(dir.path()) >= 4);
}
