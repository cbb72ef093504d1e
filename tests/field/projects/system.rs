//! Unusual machines: missing interpreters, invalid variables, low limits, hosts without IPv4.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output};

use ddp_tests::{cargo_ddp, repo, worker};
use tempfile::tempdir;

use super::*;

fn script(dir: &Path, name: &str, text: &str) -> String {
    write(dir.join(name), text);
    fs::set_permissions(dir.join(name), fs::Permissions::from_mode(0o755)).unwrap();
    format!("./{name}")
}

#[test]
fn script_whose_interpreter_is_missing_is_reported() {
    let dir = tempdir().unwrap();
    for (name, text, expected) in [
        (
            "gone",
            "#!/opt/no/python3\n",
            &["interpreter /opt/no/python3 does not exist", "hint: install the interpreter"][..],
        ),
        (
            "windows",
            "#!/bin/sh\r\necho x\r\n",
            &["interpreter /bin/sh is followed by a carriage return", "sed -i 's/\\r$//' "],
        ),
        ("by env", "#!/usr/bin/env sh\r\necho x\r\n", &["interpreter sh is followed by a carriage return", "by env'"]),
        ("unknown", "#!/usr/bin/env no-such-python\n", &["interpreter no-such-python does not exist"]),
    ] {
        let path = script(dir.path(), name, text);
        let done = ddp(dir.path(), &["launch", "--nproc", "2", "--", &path]).run().ends_with(126).says(expected);
        assert!(!done.stderr.contains("restart"), "{}", done.stderr);
        assert!(!done.stderr.contains(" pid "), "a worker was started: {}", done.stderr);
    }
    let fine = script(dir.path(), "fine", "#!/usr/bin/env sh\necho fine\n");
    let done = ddp(dir.path(), &["launch", "--nproc", "1", "--log-dir", "logs", "--", &fine]).run().succeeds();
    assert!(done.stdout.contains("fine"), "{}", done.stdout);
    let gone = script(dir.path(), "gone", "#!/opt/no/python3\n");
    ddp(dir.path(), &["exec", &gone]).run().ends_with(126).says(&["interpreter /opt/no/python3 "]);
}

#[test]
fn invalid_variable_is_refused_before_the_build() {
    let dir = project(&["train"], "");
    for (name, value) in [
        ("DDP_TIMEOUT", "abc"),
        ("DDP_TIMEOUT", "0"),
        ("DDP_TIMEOUT", "-1"),
        ("DDP_TIMEOUT", "30s"),
        ("DDP_TIMEOUT", "1e19"),
        ("DDP_TIMEOUT", "nan"),
        ("DDP_WAIT_DEBUGGER", "soon"),
        ("DDP_DEBUG", "gdb"),
    ] {
        let expected = format!("invalid {name} `{value}`: expected ");
        for args in [&["run"][..], &["launch", "--", "true"]] {
            ddp(dir.path(), args).env(name, value).run().ends_with(2).says(&[&expected, "hint: "]);
        }
    }
    assert!(!dir.path().join("target").exists(), "something was built");
    let launch = ["launch", "--nproc", "1", "--log-dir", "logs", "--", "true"];
    for (name, value) in [("DDP_TIMEOUT", "1800"), ("DDP_TIMEOUT", ""), ("DDP_DEBUG", "")] {
        ddp(dir.path(), &launch).env(name, value).run().succeeds();
    }
    // A worker without a launcher.
    let toy = worker("toy");
    for (name, value, code) in [
        ("DDP_TIMEOUT", "abc", 1),
        ("DDP_EVENT_FD", "x", 1),
        ("DDP_STORE_FD", "x", 1),
        ("DDP_WAIT_DEBUGGER", "soon", 2),
    ] {
        let output = Command::new(&toy).args(["panic", "9"]).env(name, value).current_dir(dir.path()).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{name}: {stderr}");
        assert!(stderr.contains(&format!("invalid {name} `{value}`: ")), "{stderr}");
    }
}

/// `cargo ddp` after a command of the shell.
fn after(setup: &str, dir: &Path, args: &[&str]) -> Output {
    let script = format!("{setup} && exec \"$0\" ddp \"$@\"");
    Command::new("sh").args(["-c", &script]).arg(cargo_ddp()).args(args).current_dir(dir).output().unwrap()
}

#[test]
fn low_limit_of_open_files_is_raised_or_explained() {
    let dir = tempdir().unwrap();
    let command = ["launch", "--nproc", "8", "--log-dir", "logs", "--", "sh", "-c", "ulimit -n"];
    let output = after("ulimit -Sn 24 && ulimit -Hn 4096", dir.path(), &command);
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(stdout.lines().filter(|line| line.ends_with("] 1024")).count(), 8, "{stdout}");
    // A sufficient limit stays unchanged.
    let output = after("ulimit -Sn 2000 && ulimit -Hn 4096", dir.path(), &command);
    assert!(String::from_utf8_lossy(&output.stdout).contains("[rank 7] 2000"));
    let output = after("ulimit -n 32", dir.path(), &command);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(4), "{stderr}");
    assert!(stderr.contains("hint: this process may open 32 files") && stderr.contains("ulimit -Hn"), "{stderr}");
}

#[test]
fn quiet_prints_only_the_workers_output() {
    let dir = project(&["train"], "");
    let done = ddp(dir.path(), &["run", "--nproc", "2", "-q"]).run().succeeds();
    assert_eq!(done.stderr, "");
    assert_eq!(done.stdout.lines().count(), 2, "{}", done.stdout);
    // cargo's errors are errors.
    write(dir.path().join("src/bin/train.rs"), "fn main() { nothing() }\n");
    ddp(dir.path(), &["run", "--nproc", "2", "--quiet"])
        .run()
        .ends_with(101)
        .says(&["cannot find function", "error: the build failed"]);
}

/// `cargo ddp` in a network namespace whose loopback interface has only ::1. `None` where that is not allowed.
fn without_ipv4(dir: &Path, args: &[&str]) -> Option<Output> {
    let setup = "ip link set lo up && ip -4 addr flush dev lo && ip -6 addr show dev lo | grep -q ::1";
    let probe = Command::new("unshare").args(["-rn", "sh", "-c", setup]).output();
    if !probe.is_ok_and(|probe| probe.status.success()) {
        ddp_tests::skipped("needs `unshare -rn`, `ip` and IPv6");
        return None;
    }
    let script = format!("{setup} && exec \"$0\" ddp \"$@\"");
    let mut command = Command::new("unshare");
    command.args(["-rn", "sh", "-c", &script]).arg(cargo_ddp()).args(args).current_dir(dir);
    Some(command.output().unwrap())
}

#[test]
fn host_without_ipv4_can_train() {
    let dir = tempdir().unwrap();
    let toy = worker("toy");
    let launched = ["launch", "--nproc", "2", "--max-restarts", "0", "--log-dir", "logs", "--", toy.to_str().unwrap()];
    let logs = dir.path().join("logs");
    let built = ["run", "-p", "ddp-tests", "--bin", "worker", "--nproc", "2", "--max-restarts", "0", "--log-dir"];
    let built = [&built[..], &[logs.to_str().unwrap(), "--", "toy"]].concat();
    for (dir, args) in [(dir.path(), &launched[..]), (repo(), &built)] {
        let Some(output) = without_ipv4(dir, &[args, &["panic", "9"]].concat()) else { return };
        let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success() && stdout.contains("sees 2 ranks"), "{stderr}\n{stdout}");
    }
}

#[test]
fn ipv6_address_may_be_in_brackets() {
    if std::net::TcpListener::bind("[::1]:0").is_err() {
        ddp_tests::skipped("needs IPv6");
        return;
    }
    let dir = tempdir().unwrap();
    let port = std::net::TcpListener::bind("[::1]:0").unwrap().local_addr().unwrap().port().to_string();
    let toy = worker("toy");
    let node = |rank| {
        let logs = format!("logs-{rank}");
        let nodes =
            ["launch", "--nproc", "1", "--nnodes", "2", "--node-rank", rank, "--master-addr", "[::1]", "--master-port"];
        let rest =
            [port.as_str(), "--max-restarts", "0", "--log-dir", &logs, "--", toy.to_str().unwrap(), "panic", "9"];
        ddp(dir.path(), &[&nodes[..], &rest].concat()).start()
    };
    let (first, second) = (node("0"), node("1"));
    first.wait_for(&format!("at [::1]:{port}"));
    first.wait().succeeds();
    second.wait().succeeds();
}
