//! Signals, and launchers that are stopped, killed or stuck: they end in time, with the right exit code.

use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use ddp_tests::{SIGKILL, SIGTERM, cargo_ddp, launcher_processes, signal_process, wait_until};
use tempfile::tempdir;

use super::calls::{BOUND, launch, stderr, terminal, with_stdout};

const SIGSTOP: i32 = 19;

#[test]
fn stopped_launcher_is_woken_by_a_signal() {
    let dir = tempdir().unwrap();
    let started = || {
        let job = launch(dir.path(), &["--nproc", "2"], "echo ready; exec sleep 500").start();
        job.wait_for_count("ready", 2);
        job
    };
    for stopped in [&[2][..], &[1, 2]] {
        let job = started();
        let processes = launcher_processes(job.pid());
        stopped.iter().for_each(|index| signal_process(processes[*index], SIGSTOP));
        job.signal(SIGTERM);
        job.wait().ends_with(143).leaves_no_process();
    }
    // Ctrl-Z stops all of it.
    for now in [&[][..], &["--now"]] {
        let job = started();
        launcher_processes(job.pid()).into_iter().for_each(|pid| signal_process(pid, SIGSTOP));
        let output = with_stdout(dir.path(), &[&["stop"], now].concat(), Stdio::piped());
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        job.wait().ends_with(143).leaves_no_process();
    }
}

// The launcher was continued once, and `stop` waited forever.
#[test]
fn stop_now_ends_a_launcher_that_its_worker_stops_again_and_again() {
    let dir = tempdir().unwrap();
    let script = "trap '' TERM; P=$PPID; K=$(cut -d' ' -f4 /proc/$P/stat); G=$(cut -d' ' -f4 /proc/$K/stat)
        echo ready; until [ -e go ]; do sleep 0.01; done; while :; do kill -STOP $P $K $G; sleep 0.02; done";
    let job = launch(dir.path(), &["--nproc", "1", "--grace", "1000"], script).start();
    job.wait_for("ready");
    fs::write(dir.path().join("go"), "").unwrap();
    let start = Instant::now();
    let output = with_stdout(dir.path(), &["stop", "--now"], Stdio::piped());
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(start.elapsed() < BOUND, "{:?}", start.elapsed());
    job.wait().ends_with(143).leaves_no_process();
}

// A background job of a script ignores SIGINT, which was the second signal.
#[test]
fn stop_now_needs_no_sigint() {
    let dir = tempdir().unwrap();
    let mut command = Command::new("sh");
    command.args(["-c", "trap '' INT; exec \"$@\"", "sh"]).arg(cargo_ddp());
    command.args(["ddp", "launch", "--nproc", "1", "--grace", "1000", "--", "sh", "-c"]);
    command.arg("trap '' TERM; touch ready; while :; do sleep 0.05; done").current_dir(dir.path());
    command.env("XDG_CACHE_HOME", dir.path().join("cache")).stdin(Stdio::null()).stderr(Stdio::null());
    let mut job = command.spawn().unwrap();
    wait_until("the worker", String::new, || dir.path().join("ready").exists());
    let start = Instant::now();
    let output = with_stdout(dir.path(), &["stop", "--now"], Stdio::piped());
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(start.elapsed() < BOUND, "{:?}", start.elapsed());
    assert_eq!(job.wait().unwrap().code(), Some(143));
}

/// A job whose output goes to `stdout`, with a worker that has written more than a pipe or a terminal takes.
fn stuck(dir: &Path, stdout: impl Into<Stdio>, stderr: impl Into<Stdio>, script: &str) -> Child {
    let mut command = Command::new(cargo_ddp());
    let script = format!("touch ready-$RANK; {script}");
    command.args(["ddp", "launch", "--nproc", "2", "--grace", "2", "--", "sh", "-c", &script]).current_dir(dir);
    command.env("XDG_CACHE_HOME", dir.join("cache")).stdin(Stdio::null()).stdout(stdout).stderr(stderr);
    let job = command.spawn().unwrap();
    wait_until("the workers", String::new, || dir.join("ready-0").exists() && dir.join("ready-1").exists());
    job
}

#[test]
fn paused_reader_of_the_output_delays_no_signal() {
    for script in ["exec yes", "trap '' TERM; yes | head -c 300000; while :; do sleep 0.1; done"] {
        let dir = tempdir().unwrap();
        // Nobody reads, and the pipe is full.
        let (reader, writer) = std::io::pipe().unwrap();
        let errors = writer.try_clone().unwrap();
        let mut job = stuck(dir.path(), writer, errors, script);
        let start = Instant::now();
        signal_process(job.id(), SIGTERM);
        assert_eq!(job.wait().unwrap().code(), Some(143));
        assert!(start.elapsed() < BOUND, "{:?}", start.elapsed());
        drop(reader);

        let dir = tempdir().unwrap();
        let (master, terminal) = terminal();
        // SAFETY: a system call, on a descriptor that is ours.
        assert_eq!(unsafe { libc::tcflow(terminal.as_raw_fd(), libc::TCOOFF) }, 0, "as Ctrl-S does");
        let mut job = stuck(dir.path(), terminal.try_clone().unwrap(), terminal.try_clone().unwrap(), script);
        signal_process(job.id(), SIGTERM);
        assert_eq!(job.wait().unwrap().code(), Some(143));
        drop((master, terminal));
    }
}

// The other two processes blocked while they reported the failure to the reader.
#[test]
fn killed_launcher_does_not_wait_for_the_reader_of_stderr() {
    let dir = tempdir().unwrap();
    let (reader, writer) = std::io::pipe().unwrap();
    let mut job = stuck(dir.path(), Stdio::null(), writer, "yes >&2");
    let [.., launcher] = launcher_processes(job.id());
    signal_process(launcher, SIGKILL);
    let start = Instant::now();
    assert_eq!(job.wait().unwrap().code(), Some(137));
    assert!(start.elapsed() < BOUND, "{:?}", start.elapsed());
    drop(reader);
}

#[test]
fn launcher_that_does_not_respond_is_killed_after_the_second_signal() {
    let dir = tempdir().unwrap();
    let job = launch(dir.path(), &["--nproc", "2"], "setsid sleep 500 & echo ready; exec sleep 501").start();
    job.wait_for_count("ready", 2);
    let [.., launcher] = launcher_processes(job.pid());
    let launcher = libc::pid_t::try_from(launcher).unwrap();
    let null = std::ptr::null_mut::<libc::c_void>();
    // SAFETY: a system call. In this state only SIGKILL reaches the process.
    if unsafe { libc::ptrace(libc::PTRACE_ATTACH, launcher, null, null) } != 0 {
        ddp_tests::skipped("needs the right to trace processes");
        job.signal(SIGTERM);
        job.wait().ends_with(143);
        return;
    }
    let wait = |options| {
        // SAFETY: a system call.
        unsafe { libc::waitpid(launcher, std::ptr::null_mut(), libc::__WALL | options) }
    };
    assert_eq!(wait(0), launcher, "it is stopped");
    job.signal(SIGTERM);
    job.signal(2);
    wait_until("end of the launcher", String::new, || wait(libc::WNOHANG) != 0);
    job.wait().ends_with(143).says(&["error: the launcher did not respond"]).leaves_no_process();
}

#[test]
fn launcher_kills_all_workers_if_any_two_of_its_processes_die() {
    let dir = tempdir().unwrap();
    let script = "setsid sleep 501 & (setsid sh -c 'sleep 502 & sleep 503' &) ; echo ready; sleep 504";
    for killed in [[0, 1], [0, 2], [1, 2]] {
        let job = launch(dir.path(), &["--nproc", "2"], script).start();
        job.wait_for_count("ready", 2);
        let processes = launcher_processes(job.pid());
        signal_process(processes[killed[0]], SIGKILL);
        // The death of the first process may have ended this one already.
        if Path::new("/proc").join(processes[killed[1]].to_string()).exists() {
            let _ = Command::new("kill").args(["-9", &processes[killed[1]].to_string()]).output();
        }
        job.wait().leaves_no_process_after(BOUND);
    }
}

#[test]
fn launcher_kills_all_workers_if_processes_die_while_others_are_stopped() {
    let dir = tempdir().unwrap();
    let script = "setsid sleep 501 & echo ready; sleep 504";
    for killed in [&[0][..], &[1], &[2], &[0, 1], &[0, 2], &[1, 2]] {
        let job = launch(dir.path(), &["--nproc", "2"], script).start();
        job.wait_for_count("ready", 2);
        let processes = launcher_processes(job.pid());
        processes.into_iter().for_each(|pid| signal_process(pid, SIGSTOP));
        killed.iter().for_each(|index| signal_process(processes[*index], SIGKILL));
        job.wait().leaves_no_process_after(BOUND);
    }
}

#[test]
fn launcher_does_not_depend_on_its_parents_signals() {
    let dir = tempdir().unwrap();
    let launch = |script: &str| {
        let mut command = Command::new(cargo_ddp());
        command.args(["ddp", "launch", "--nproc", "1", "--", "sh", "-c", script]).current_dir(dir.path());
        command.env("XDG_CACHE_HOME", dir.path().join("cache")).stdin(Stdio::null()).stdout(Stdio::null());
        let setup = || {
            // SAFETY: no handler is set.
            unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
            let mut all = std::mem::MaybeUninit::uninit();
            // SAFETY: plain memory for the C library to fill.
            unsafe { libc::sigfillset(all.as_mut_ptr()) };
            // SAFETY: the call above filled it.
            unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), std::ptr::null_mut()) };
            Ok(())
        };
        // SAFETY: the closure runs between fork and exec, and makes system calls only.
        unsafe { command.pre_exec(setup) };
        command.spawn().unwrap()
    };
    let mut job = launch("grep -q '^SigBlk:[[:space:]]*0*$' /proc/self/status && exit 0; exit 3");
    assert_eq!(job.wait().unwrap().code(), Some(0));
    let mut job = launch("touch ready; exec sleep 500");
    wait_until("the worker", String::new, || dir.path().join("ready").exists());
    signal_process(job.id(), SIGTERM);
    assert_eq!(job.wait().unwrap().code(), Some(143));
}
