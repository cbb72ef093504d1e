//! What listens on the network, and what a stranger or a peer can do to a job.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;
use std::time::Duration;

use ddp_tests::{Ddp, Job, SIGTERM, worker};
use serde_json::{Value, json};
use tempfile::tempdir;

/// Another node was lost.
const NODE_LOST: i32 = 5;
const SECRET: &str = "0123456789abcdef0123456789abcdef";
/// Clears a screen.
const CLEAR: &str = "\u{1b}[2J";

/// `cargo ddp launch` of a shell's script on one of two nodes.
fn node(dir: &Path, node: &str, port: u16, flags: &[&str], script: &str) -> Ddp {
    let port = port.to_string();
    let nodes = ["launch", "--nnodes", "2", "--node-rank", node, "--master-addr", "127.0.0.1", "--master-port", &port];
    let others = ["--nproc", "1", "--join-timeout", "300", "--grace", "1"];
    let args = [&nodes[..], &others, flags, &["--", "sh", "-c", script]].concat();
    Ddp::new(args).dir(dir).env_remove("DDP_JOB_SECRET").env_remove("DDP_JOB_SECRET_FILE")
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Node 0, waiting for node 1.
fn node_0(dir: &Path, port: u16, script: &str) -> Job {
    let job = node(dir, "0", port, &[], script).start();
    job.wait_for("Waiting for node 1");
    job
}

/// A peer that speaks the launchers' protocol.
struct Peer {
    stream: TcpStream,
    lines: BufReader<TcpStream>,
}

impl Peer {
    fn connect(port: u16) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(300))).unwrap();
        let lines = BufReader::new(stream.try_clone().unwrap());
        Self { stream, lines }
    }

    fn say(&mut self, message: &Value) {
        // The other side may have ended the connection.
        let _ = writeln!(self.stream, "{message}");
    }

    /// The next message; null at the end of the connection.
    fn hear(&mut self) -> Value {
        let mut line = String::new();
        match self.lines.read_line(&mut line) {
            Ok(1..) => serde_json::from_str(&line).unwrap(),
            _ => Value::Null,
        }
    }

    /// The first exchange; returns whether node 0 has a secret.
    fn greet(&mut self) -> bool {
        let version = version();
        self.say(&json!({"Hello": {"protocol": 2, "version": version, "nonce": "00".repeat(32)}}));
        let answer = self.hear();
        answer["Challenge"]["secret"].as_bool().unwrap_or_else(|| panic!("{answer}"))
    }

    fn join(&mut self, host: &str) {
        assert!(!self.greet());
        self.say(&json!({"Join": {"node_rank": 1, "nnodes": 2, "host": host, "nproc": 1, "gpus": null}}));
    }
}

fn version() -> String {
    let manifest = fs::read_to_string(ddp_tests::repo().join("Cargo.toml")).unwrap();
    let line = manifest.lines().find(|line| line.starts_with("version = ")).unwrap();
    line.split('"').nth(1).unwrap().to_owned()
}

/// Peak memory of a process in megabytes.
fn peak_mb(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1024
}

fn hostile_lines() -> Vec<Vec<u8>> {
    let version = version();
    let hello = json!({"Hello": {"protocol": 2, "version": version, "nonce": "00".repeat(32)}});
    let join = |node_rank: Value, nproc: Value, gpus: Value| {
        let join = json!({"Join": {"node_rank": node_rank, "nnodes": 2, "host": "h", "nproc": nproc, "gpus": gpus}});
        format!("{hello}\n{join}\n").into_bytes()
    };
    let mut lines = vec![
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(),
        b"\n\n\n{}\n[]\nnull\n".to_vec(),
        [b"[".repeat(100_000), b"\n".to_vec()].concat(),
        b"x".repeat(8 << 20),
        format!("{{\"Hello\":{{\"version\":\"{version}\",\"node_rank\":1,\"nnodes\":2,\"host\":\"h\",\"nproc\":9223372036854775808,\"gpus\":null}}}}\n").into_bytes(),
        json!({"Hello": {"protocol": 4_294_967_295_u32, "version": CLEAR}}).to_string().into_bytes(),
        join(json!(1), json!(1_u64 << 63), Value::Null),
        join(json!(1), json!(0), Value::Null),
        join(json!(u64::MAX), json!(1), Value::Null),
        join(json!(0), json!(1), Value::Null),
        join(json!(1), json!(4096), json!(["0"])),
        join(json!(1), json!(1), json!([CLEAR])),
        join(json!(1), json!(1), json!({"a": []})),
        join(json!(1), json!(-1), json!([1, 2])),
    ];
    // Every beginning of a valid greeting.
    let valid = join(json!(1), json!(-7), Value::Null);
    lines.extend((0..valid.len()).step_by(3).map(|length| valid[..length].to_owned()));
    lines
}

#[test]
fn unknown_connections_neither_stop_nor_block_a_job() {
    let (a, b, port) = (tempdir().unwrap(), tempdir().unwrap(), free_port());
    let zero = node_0(a.path(), port, "echo started $RANK");
    // Connections that send nothing, or only the beginning of a message. (Each used to block node 0 for 2 s.)
    let silent: Vec<_> = (0..300).map(|_| TcpStream::connect(("127.0.0.1", port)).unwrap()).collect();
    for line in hostile_lines() {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        let _ = stream.write_all(&line);
    }
    let mut half: Vec<_> = (0..50).map(|_| Peer::connect(port)).collect();
    half.iter_mut().for_each(|peer| drop(peer.stream.write_all(b"{\"Hello\"")));
    let memory = peak_mb(zero.pid());
    let one = node(b.path(), "1", port, &[], "echo started $RANK").run().succeeds();
    let zero = zero.wait().succeeds().leaves_no_process();
    assert!(one.stdout.contains("started 1") && zero.stdout.contains("started 0"), "{}", zero.stdout);
    assert!(memory < 100, "node 0 took {memory} MB");
    assert!(!zero.stderr.contains('\u{1b}'), "{}", zero.stderr);
    drop((silent, half));
}

#[test]
fn node_joins_only_with_the_secret() {
    let (a, b, port) = (tempdir().unwrap(), tempdir().unwrap(), free_port());
    let script = "echo secret=${DDP_JOB_SECRET-none} file=${DDP_JOB_SECRET_FILE-none}";
    let secret = |node: Ddp, secret: &str| node.env("DDP_JOB_SECRET", secret);
    let zero = secret(node(a.path(), "0", port, &[], script), SECRET).start();
    zero.wait_for("Waiting for node 1");
    // A peer that skips the proof, one that guesses, and launchers with another secret or none.
    let mut stranger = Peer::connect(port);
    assert!(stranger.greet());
    stranger.say(&json!({"Join": {"node_rank": 1, "nnodes": 2, "host": "h", "nproc": 1, "gpus": null}}));
    assert_eq!(stranger.hear(), Value::Null);
    let mut guesser = Peer::connect(port);
    assert!(guesser.greet());
    guesser.say(&json!({"Proof": "00".repeat(32)}));
    assert!(guesser.hear()["Refused"].as_str().unwrap().contains("secret differs"));
    let other = secret(node(b.path(), "1", port, &[], script), "another secret of 28 letters").run();
    other.ends_with(NODE_LOST).says(&["error: rendezvous failed at ", ": the job secret differs from node 0's"]);
    let none = node(b.path(), "1", port, &[], script).run().ends_with(NODE_LOST);
    none.says(&["the job has a secret that this node does not know: set DDP_JOB_SECRET or --secret-file"]);
    let one = secret(node(b.path(), "1", port, &[], script), SECRET).run().succeeds();
    let zero = zero.wait().succeeds().says(&["warning: a launcher at 127.0.0.1 was refused: the job secret differs"]);
    for done in [one, zero] {
        assert!(done.stdout.contains("secret=none file=none"), "workers do not see it: {}", done.stdout);
        assert!(!done.stderr.contains(SECRET), "{}", done.stderr);
    }
}

#[test]
fn impostor_of_node_0_gets_no_worker() {
    let dir = tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let one = node(dir.path(), "1", port, &[], "echo started").env("DDP_JOB_SECRET", SECRET).start();
    let (stream, _) = listener.accept().unwrap();
    let mut peer = Peer { lines: BufReader::new(stream.try_clone().unwrap()), stream };
    assert!(peer.hear()["Hello"]["nonce"].is_string());
    let version = version();
    peer.say(&json!({"Challenge": {"protocol": 2, "version": version, "nonce": "11".repeat(32), "secret": true}}));
    assert!(peer.hear()["Proof"].is_string());
    peer.say(&json!({"Proof": "00".repeat(32)}));
    let one = one.wait().ends_with(NODE_LOST).says(&["node 0 does not know the job's secret"]);
    assert_eq!(one.stdout, "");
}

#[test]
fn secret_file_is_created_by_node_0_and_waited_for_by_others() {
    let (a, b, port) = (tempdir().unwrap(), tempdir().unwrap(), free_port());
    let path = a.path().join("secret");
    let file = path.to_str().unwrap();
    let one = node(b.path(), "1", port, &["--secret-file", file], "echo started").start();
    one.wait_for("Waiting for the secret file ");
    let zero = node(a.path(), "0", port, &[], "echo started").env("DDP_JOB_SECRET_FILE", file);
    zero.run().succeeds();
    one.wait().succeeds().says(&["Waiting for the secret file ", "which node 0 creates"]);
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
    assert!(fs::read_to_string(&path).unwrap().trim().len() >= 64);
    fs::write(&path, "short").unwrap();
    node(a.path(), "0", port, &["--secret-file", file], "true")
        .run()
        .ends_with(NODE_LOST)
        .says(&["too short: 5 bytes"]);
    let short = node(a.path(), "0", port, &[], "true").env("DDP_JOB_SECRET", "short").run().ends_with(2);
    short.says(&["error: invalid DDP_JOB_SECRET: the secret is too short", "`openssl rand -hex 32`"]);
    // Node 0 created its secret behind such a link again and again, whatever the value of --join-timeout.
    let link = b.path().join("link");
    symlink("nothing", &link).unwrap();
    node(b.path(), "0", port, &["--secret-file", link.to_str().unwrap()], "true")
        .run()
        .ends_with(NODE_LOST)
        .says(&["is a link to a file that does not exist: create that file, or remove the link"]);
    assert!(fs::read_dir(b.path()).unwrap().flatten().all(|entry| !entry.file_name().as_bytes().starts_with(b".tmp")));
}

#[test]
fn launchers_of_different_protocols_name_the_versions() {
    let (dir, port) = (tempdir().unwrap(), free_port());
    let zero = node_0(dir.path(), port, "true");
    let mut older = Peer::connect(port);
    older.say(
        &json!({"Hello": {"version": "0.0.9", "node_rank": 1, "nnodes": 2, "host": "h", "nproc": 1, "gpus": null}}),
    );
    let refused = older.hear();
    let words = refused["Refused"].as_str().unwrap();
    assert!(words.contains("protocol 2, but the other has 0.0.9 with protocol 1: install the same"), "{words}");
    zero.signal(SIGTERM);
    zero.wait().leaves_no_process();
}

#[test]
fn node_that_reports_ranks_of_others_is_disconnected() {
    let exited = |rank: u64, exit: Value| json!({"Exited": {"rank": rank, "pid": 1, "exit": exit, "message": null, "last_lines": [], "error_file": null}});
    for message in [
        exited(999, json!({"Code": 1})),
        exited(u64::MAX, json!({"Code": 1})),
        // Node 0's own rank.
        exited(0, json!({"Code": 0})),
        exited(1, json!({"Signal": i32::MAX})),
        // Its low byte is 0, which became the launcher's exit code.
        exited(1, json!({"Code": 256})),
        json!({"Output": {"rank": 2}}),
        json!({"Event": {"rank": 77, "event": {"event": "step", "epoch": 0, "step": 1}}}),
        json!({"Signal": i32::MAX}),
        json!({"Traced": {"step": 1, "waits": false, "rank": 5, "pid": 1}}),
        json!({"GivesUp": "x".repeat(1 << 20)}),
        json!({"Welcome": {"members": [], "run": "x"}}),
    ] {
        let (dir, port) = (tempdir().unwrap(), free_port());
        let zero = node_0(dir.path(), port, "sleep 1000");
        let mut peer = Peer::connect(port);
        peer.join(&format!("evil{CLEAR}"));
        assert!(peer.hear()["Welcome"].is_object());
        assert!(peer.hear()["Start"].is_object());
        peer.say(&message);
        let zero = zero.wait().ends_with(NODE_LOST).leaves_no_process();
        assert!(!zero.stderr.contains('\u{1b}'), "{}", zero.stderr);
        zero.says(&["Joined node 1 (evil\\u{1b}[2J)", "was lost: received an invalid message: "]);
    }
}

/// Where the process listens: `(address, port)`, as in /proc/net/tcp.
fn listens_at(pid: u32) -> Vec<String> {
    let fds = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
    let targets = fds.filter_map(|fd| Some(fs::read_link(fd.path()).ok()?.to_string_lossy().into_owned()));
    let inodes: Vec<String> =
        targets.filter_map(|link| Some(link.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned())).collect();
    let mut found = Vec::new();
    for table in ["tcp", "tcp6"] {
        let text = fs::read_to_string(format!("/proc/{pid}/net/{table}")).unwrap_or_default();
        for line in text.lines().skip(1) {
            let fields: Vec<_> = line.split_whitespace().collect();
            // State 0A is LISTEN; the tenth field is the inode.
            if fields[3] == "0A" && inodes.iter().any(|inode| inode == fields[9]) {
                found.push(fields[1].split(':').next().unwrap().to_owned());
            }
        }
    }
    found
}

#[test]
fn job_on_one_node_listens_on_its_loopback_address_only() {
    let toy = worker("toy");
    let dir = tempdir().unwrap();
    let job = Ddp::new(["launch", "--nproc", "2", "--", toy.to_str().unwrap(), "sleep"]).dir(dir.path()).start();
    job.wait_for_count("asleep", 2);
    let workers = job.workers();
    let store = listens_at(workers[0]);
    assert!(!store.is_empty(), "rank 0 has the store");
    for at in workers.iter().flat_map(|pid| listens_at(*pid)) {
        let loopback = ["0100007F", "00000000000000000000000001000000", "0000000000000000FFFF00000100007F"];
        assert!(loopback.contains(&at.as_str()), "a worker listens at {at}");
    }
    job.signal(SIGTERM);
    job.wait().leaves_no_process();
}
