//! A job on two nodes: two launchers in two network namespaces with a cable between them, or on one address.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use ddp_tests::{Ddp, Job, SIGKILL, SIGTERM, launcher_processes, signal_process};
use tempfile::{TempDir, tempdir};

/// Another node was lost.
const NODE_LOST: i32 = 5;
/// Silence after which a node counts as lost, and time for its processes to end. A busy machine takes longer.
const BOUND: Duration = Duration::from_secs(20 + 60);

/// Two machines, as far as the network is concerned.
struct Machines {
    names: [String; 2],
    /// The launchers' log folders, which outlive the jobs of a test.
    logs: TempDir,
}

impl Machines {
    /// `None` where the user may not make them; CI may.
    fn new() -> Option<Self> {
        static COUNT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let id = format!("{}-{number}", std::process::id());
        let machines = Self { names: [0, 1].map(|node| format!("ddp{node}-{id}")), logs: tempdir().unwrap() };
        let [zero, one] = &machines.names;
        // The names of links are short.
        let [cable0, cable1] = [0, 1].map(|node| format!("d{node}x{id}"));
        let steps = [
            format!("netns add {zero}"),
            format!("netns add {one}"),
            format!("link add {cable0} type veth peer name {cable1}"),
            format!("link set {cable0} netns {zero} name eth0"),
            format!("link set {cable1} netns {one} name eth0"),
            format!("-n {zero} addr add 10.77.0.1/24 dev eth0"),
            format!("-n {one} addr add 10.77.0.2/24 dev eth0"),
            format!("-n {zero} link set lo up"),
            format!("-n {one} link set lo up"),
            format!("-n {zero} link set eth0 up"),
            format!("-n {one} link set eth0 up"),
        ];
        if steps.iter().all(|step| ip(step)) {
            return Some(machines);
        }
        assert!(std::env::var_os("CI").is_none(), "CI has iproute2, and may make network namespaces");
        ddp_tests::skipped("needs network namespaces (`ip netns add`)");
        None
    }

    fn pull_the_cable(&self) {
        assert!(ip(&format!("-n {} link set eth0 down", self.names[0])));
    }

    /// The launcher of a node, for the worker `toy`.
    fn start(&self, node: usize, nproc: &str, flags: &[&str], args: &[&str]) -> Job {
        let rank = node.to_string();
        let logs = self.logs.path().join(&rank);
        let nodes = ["--nnodes", "2", "--node-rank", &rank, "--master-addr", "10.77.0.1", "--nproc", nproc];
        let logs = ["--grace", "5", "--log-dir", logs.to_str().unwrap()];
        Ddp::toy(&[&nodes[..], &logs, flags].concat(), args).in_namespace(&self.names[node]).start()
    }

    /// Both nodes, with two workers on the first and one on the second.
    fn job(&self, flags: &[&str], args: &[&str]) -> [Job; 2] {
        [self.start(0, "2", flags, args), self.start(1, "1", flags, args)]
    }
}

impl Drop for Machines {
    fn drop(&mut self) {
        for name in &self.names {
            ip(&format!("netns del {name}"));
        }
    }
}

fn ip(words: &str) -> bool {
    let status = Command::new("ip").args(words.split(' ')).stdout(Stdio::null()).stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}

#[test]
fn ranks_on_two_nodes_connect_and_all_restart_when_one_fails() {
    let Some(machines) = Machines::new() else { return };
    let [zero, one] = machines.job(&["--max-restarts", "1"], &["first-attempt-fails", "2"]);
    let (zero, one) = (zero.wait().succeeds().leaves_no_process(), one.wait().succeeds().leaves_no_process());
    for rank in ["rank 0 sees 3 ranks", "rank 1 sees 3 ranks"] {
        assert!(zero.stdout.contains(rank), "{}", zero.stdout);
    }
    assert!(one.stdout.contains("[rank 2] rank 2 sees 3 ranks"), "{}", one.stdout);
    for done in [zero, one] {
        // Both report the cause and its message, though it happened on one.
        done.says(&[
            "rank 2 ended with exit code 1 (node 1 (",
            ") after step 7",
            "message: toy fails once",
            "(1 of 1)",
            "Finished 3 workers",
        ]);
    }
}

#[test]
fn killed_worker_is_named_on_both_nodes_and_both_exit_with_its_code() {
    let Some(machines) = Machines::new() else { return };
    for (node, rank) in [(1, 2), (0, 1)] {
        let jobs = machines.job(&["--max-restarts", "0"], &["sleep"]);
        jobs[0].wait_for_count("asleep", 2);
        jobs[1].wait_for("asleep");
        let workers = jobs[node].workers();
        signal_process(*workers.last().unwrap(), SIGKILL);
        for job in jobs {
            let done = job.wait().ends_with(137).leaves_no_process();
            done.says(&[&format!("error: rank {rank} was killed by SIGKILL (node {node} ("), "afterwards: rank "]);
        }
    }
}

#[test]
fn signal_to_either_launcher_ends_the_job_on_both() {
    let Some(machines) = Machines::new() else { return };
    for node in [0, 1] {
        let jobs = machines.job(&[], &["sleep"]);
        jobs[0].wait_for_count("asleep", 2);
        jobs[1].wait_for("asleep");
        jobs[node].signal(SIGTERM);
        for job in jobs {
            job.wait().ends_with(143).leaves_no_process();
        }
    }
}

#[test]
fn lost_launcher_ends_the_other_nodes_workers_with_the_reason() {
    let Some(machines) = Machines::new() else { return };
    for (lost, all) in [(0, false), (1, true)] {
        let jobs = machines.job(&[], &["sleep"]);
        jobs[0].wait_for_count("asleep", 2);
        jobs[1].wait_for("asleep");
        let start = Instant::now();
        // First the process that a user sees, then all at once.
        let pids = launcher_processes(jobs[lost].pid());
        pids.into_iter().take(if all { 3 } else { 1 }).for_each(|pid| signal_process(pid, SIGKILL));
        for (node, job) in jobs.into_iter().enumerate() {
            let done = job.wait();
            if node == lost {
                done.leaves_no_process_after(Duration::from_secs(5));
            } else {
                let reason = format!("error: the job has ended: node {lost} (");
                done.ends_with(NODE_LOST).leaves_no_process().says(&[&reason, ") was lost: "]);
                assert!(start.elapsed() < BOUND);
            }
        }
    }
}

#[test]
fn lost_network_ends_both_nodes_in_bounded_time() {
    let Some(machines) = Machines::new() else { return };
    let jobs = machines.job(&[], &["sleep"]);
    jobs[0].wait_for_count("asleep", 2);
    jobs[1].wait_for("asleep");
    let start = Instant::now();
    machines.pull_the_cable();
    for job in jobs {
        job.wait().ends_with(NODE_LOST).leaves_no_process().says(&["was lost: no message for 20 s"]);
    }
    assert!(start.elapsed() < BOUND);
}

/// `cargo ddp launch` of a shell's script on one address, with `--nnodes 2`.
fn launch(dir: &Path, node: &str, port: u16, flags: &[&str], script: &str) -> Ddp {
    let port = port.to_string();
    let nodes = ["launch", "--nnodes", "2", "--node-rank", node, "--master-addr", "127.0.0.1", "--master-port", &port];
    Ddp::new(nodes.iter().chain(flags).chain(&["--", "sh", "-c", script])).dir(dir)
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

#[test]
fn workers_on_two_nodes_get_their_ranks_in_the_job() {
    let (a, b, port) = (tempdir().unwrap(), tempdir().unwrap(), free_port());
    let script = "echo $RANK of $WORLD_SIZE, $LOCAL_RANK of $LOCAL_WORLD_SIZE, node $GROUP_RANK of $GROUP_WORLD_SIZE";
    // The second node may start first.
    let one = launch(b.path(), "1", port, &["--nproc", "1"], script).start();
    one.wait_for("Joining node 0 at 127.0.0.1:");
    let zero = launch(a.path(), "0", port, &["--nproc", "2"], script).run().succeeds();
    let one = one.wait().succeeds();
    let mut lines: Vec<_> = zero.stdout.lines().chain(one.stdout.lines()).collect();
    lines.sort_unstable();
    let expected = [
        "[rank 0] 0 of 3, 0 of 2, node 0 of 2",
        "[rank 1] 1 of 3, 1 of 2, node 0 of 2",
        "[rank 2] 2 of 3, 0 of 1, node 1 of 2",
    ];
    assert_eq!(lines, expected);
}

#[test]
fn nodes_that_do_not_join_or_do_not_match_are_named() {
    let dir = tempdir().unwrap();
    let port = free_port();
    let run = |node, flags: &[&str]| launch(dir.path(), node, port, flags, "echo started").run();
    run("0", &["--join-timeout", "0.5"]).ends_with(NODE_LOST).says(&[
        "error: rendezvous failed at 127.0.0.1:",
        "node 1 of 2 did not join within 0.5 s",
        "hint: start `cargo ddp` on every node",
    ]);
    run("1", &["--join-timeout", "0.5"]).ends_with(NODE_LOST).says(&["node 0 could not be reached within"]);
    run("2", &[]).ends_with(2).says(&["--node-rank: node 2 not found: nodes are 0 to 1"]);
    let alone = Ddp::new(["launch", "--nnodes", "2", "--", "true"]).dir(dir.path()).run();
    alone.ends_with(2).says(&["--node-rank: required for a job on 2 nodes: a different number on each node"]);
    let nowhere = Ddp::new(["launch", "--nnodes", "2", "--node-rank", "0", "--", "true"]).dir(dir.path()).run();
    nowhere.ends_with(2).says(&["--master-addr: required for several nodes: an address of node 0"]);
    let foreign = ["launch", "--nnodes", "2", "--node-rank", "0", "--master-addr", "203.0.113.7", "--", "true"];
    Ddp::new(foreign).dir(dir.path()).run().ends_with(NODE_LOST).says(&["node 0 has no such address"]);
}
