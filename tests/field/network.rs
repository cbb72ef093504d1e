//! What listens on the network, and what a stranger or a peer can do to a job.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::Path;
use std::time::Duration;

use ddp_tests::{Ddp, Job, SIGTERM, wait_until, worker};
use serde_json::{Value, json};
use tempfile::{TempDir, tempdir};

/// Another node was lost.
const NODE_LOST: i32 = 5;
const SECRET: &str = "0123456789abcdef0123456789abcdef";
const NOBODY: u32 = 65534;
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

/// Someone who speaks the launchers' protocol.
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

    /// The first exchange: whether node 0 has a secret.
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
fn strangers_neither_stop_a_job_nor_hold_it_up() {
    let (a, b, port) = (tempdir().unwrap(), tempdir().unwrap(), free_port());
    let zero = node_0(a.path(), port, "echo started $RANK");
    // Connections that say nothing, or begin and say no more. (Each used to block node 0 for 2 s.)
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
fn only_who_knows_the_secret_joins() {
    let (a, b, port) = (tempdir().unwrap(), tempdir().unwrap(), free_port());
    let script = "echo secret=${DDP_JOB_SECRET-none} file=${DDP_JOB_SECRET_FILE-none}";
    let secret = |node: Ddp, secret: &str| node.env("DDP_JOB_SECRET", secret);
    let zero = secret(node(a.path(), "0", port, &[], script), SECRET).start();
    zero.wait_for("Waiting for node 1");
    // A stranger that skips the proof, one that guesses, and launchers with another secret or none.
    let mut stranger = Peer::connect(port);
    assert!(stranger.greet());
    stranger.say(&json!({"Join": {"node_rank": 1, "nnodes": 2, "host": "h", "nproc": 1, "gpus": null}}));
    assert_eq!(stranger.hear(), Value::Null);
    let mut guesser = Peer::connect(port);
    assert!(guesser.greet());
    guesser.say(&json!({"Proof": "00".repeat(32)}));
    assert!(guesser.hear()["Refused"].as_str().unwrap().contains("secret differs"));
    let other = secret(node(b.path(), "1", port, &[], script), "another secret of 28 letters").run();
    other.ends_with(NODE_LOST).says(&["error: the nodes can't meet", "its job secret differs from node 0's"]);
    let none = node(b.path(), "1", port, &[], script).run().ends_with(NODE_LOST);
    none.says(&["the job has a secret, and this node does not know it: set DDP_JOB_SECRET or --secret-file"]);
    let one = secret(node(b.path(), "1", port, &[], script), SECRET).run().succeeds();
    let zero = zero.wait().succeeds().says(&["warning: a launcher at 127.0.0.1 was refused: its job secret differs"]);
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
    let one = one.wait().ends_with(NODE_LOST).says(&["what answers there does not know the job's secret"]);
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
    short.says(&["error: DDP_JOB_SECRET: the secret is too short", "hint: `openssl rand -hex 32`"]);
    // Node 0 created its secret behind such a link again and again, whatever --join-timeout said.
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
    assert!(words.contains("protocol 2, and the other node has 0.0.9 with protocol 1: install the same"), "{words}");
    zero.signal(SIGTERM);
    zero.wait().leaves_no_process();
}

#[test]
fn peer_that_speaks_of_ranks_it_does_not_have_is_lost() {
    let exited = |rank: u64, exit: Value| json!({"Exited": {"rank": rank, "pid": 1, "exit": exit, "message": null, "last_lines": [], "error_file": null}});
    for message in [
        exited(999, json!({"Code": 1})),
        exited(u64::MAX, json!({"Code": 1})),
        // Node 0's own rank.
        exited(0, json!({"Code": 0})),
        exited(1, json!({"Signal": i32::MAX})),
        // Its low byte is 0: the launcher ended with that.
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
        zero.says(&["Joined node 1 (evil\\u{1b}[2J)", "was lost: it sen"]);
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
fn one_node_listens_on_its_loopback_address_alone() {
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

#[test]
fn control_sequences_of_files_do_not_reach_the_terminal() {
    let dir = tempdir().unwrap();
    let error =
        r#"{"message": {"message": "bad\u001b[2J\u009b2J", "extraInfo": {"py_callstack": "\u001b]0;x\u0007"}}}"#;
    let script = format!("printf '%s' '{error}' > $TORCHELASTIC_ERROR_FILE; printf 'last\\033[2J\\n' >&2; exit 3");
    let args =
        ["launch", "--nproc", "1", "--max-restarts", "0", "--show", "none", "--log-dir", "logs", "--", "sh", "-c"];
    let done = Ddp::new(args.into_iter().chain([script.as_str(), CLEAR])).dir(dir.path()).run().ends_with(3);
    let is_clean = |text: &str| assert!(!text.contains(['\u{1b}', '\u{9b}', '\u{7}']), "{text:?}");
    is_clean(&done.stderr);
    done.says(&[r"it said: bad\u{1b}[2J\u{9b}2J"]);
    let runs = Ddp::new(["runs", "--log-dir", "logs"]).dir(dir.path()).run().succeeds();
    is_clean(&runs.stdout);
    assert!(runs.stdout.contains(r"\u{1b}[2J"), "{}", runs.stdout);
    let json = Ddp::new(["runs", "--json", "--log-dir", "logs"]).dir(dir.path()).run().succeeds().stdout;
    is_clean(&json);

    let empty = Ddp::new(["runs", "--log-dir", &format!("no{CLEAR}\u{9b}where")]).dir(dir.path()).run().succeeds();
    assert_eq!(empty.stdout, "no run is kept in no\\u{1b}[2J\\u{9b}where\n");
    let printed = r"printf 'x\302\2332J\177\342\200\256\n'";
    let args = ["launch", "--json", "--nproc", "1", "--log-dir", "logs", "--", "sh", "-c", printed];
    let json = Ddp::new(args).dir(dir.path()).run().succeeds().stdout;
    assert!(json.contains(r#""line":"x\u009b2J\u007f\u202e""#), "{json}");

    let name = format!("weight{CLEAR}\u{9b}\u{202e}");
    let tensor = safetensors::tensor::TensorView::new(safetensors::Dtype::F32, vec![1], &[0; 4]).unwrap();
    let aliases = [(format!("tied{CLEAR}"), name.clone())].into();
    let bytes = safetensors::serialize([(name.clone(), tensor)], Some(aliases)).unwrap();
    fs::write(dir.path().join("model.safetensors"), bytes).unwrap();
    let ddp = |args: &[&str]| Ddp::new(args).dir(dir.path()).run();
    let imported = ddp(&["snapshot", "import", "model.safetensors"]);
    is_clean(&imported.stderr);
    let imported = imported.status.success();
    for args in [
        &["snapshot", "show"][..],
        &["snapshot", "show", "--json"],
        &["snapshot", "diff", "snapshots", "model.safetensors"],
    ] {
        let done = ddp(args);
        is_clean(&done.stdout);
        is_clean(&done.stderr);
        let shown = [r"weight\u{1b}[2J", r"tied\u{1b}[2J: the same tensor as weight"];
        let has_all = shown.iter().all(|name| done.stdout.contains(name));
        assert!(!imported || !args.ends_with(&["show"]) || has_all, "{}", done.stdout);
    }

    let start = json!({"event": "start", "format": 1, "step": 0, "attempt": 0, "world_size": 1, "time": 0.0});
    let scalar = |step: u32| json!({"event": "scalar", "name": format!("loss{CLEAR}\0<"), "step": step, "value": 0.5, "time": 1.0});
    fs::create_dir(dir.path().join("run")).unwrap();
    fs::write(dir.path().join("run/metrics.jsonl"), format!("{start}\n{}\n{}\n", scalar(1), scalar(2))).unwrap();
    ddp(&["plot", "run", "-o", "plot.svg"]).succeeds();
    let svg = fs::read_to_string(dir.path().join("plot.svg")).unwrap();
    assert!(svg.contains(r"loss\u{1b}[2J\u{0}&lt;"), "{svg}");
    assert!(!svg.contains(|c: char| c.is_control() && !c.is_whitespace()));
}

#[test]
fn arguments_of_a_run_are_its_users_alone() {
    let dir = tempdir().unwrap();
    let args = ["launch", "--nproc", "1", "--log-dir", "logs", "--", "sh", "-c", "true", "--password=hunter2"];
    Ddp::new(args).dir(dir.path()).run().succeeds();
    let run = dir.path().join("logs/1");
    assert_eq!(fs::metadata(&run).unwrap().mode() & 0o777, 0o700);
    for name in ["run.json", "report.json"] {
        let path = run.join(name);
        assert!(fs::read_to_string(&path).unwrap().contains("hunter2"));
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600, "{name}");
    }
}

#[test]
fn debug_socket_is_its_users_alone() {
    let dir = tempdir().unwrap();
    let toy = worker("toy");
    let args = ["launch", "--nproc", "1", "--", toy.to_str().unwrap(), "env"];
    let job = Ddp::new(args).dir(dir.path()).env("DDP_DEBUG", "compound").start();
    job.wait_for("Waiting for rank 0");
    let socket = dir.path().join(".ddp/debug/toy.sock");
    assert_eq!(fs::metadata(&socket).unwrap().mode() & 0o777, 0o600);
    if rustix::process::geteuid().is_root() {
        // Even where the mode lets others in.
        for (path, mode) in [(dir.path(), 0o755), (&dir.path().join(".ddp/debug"), 0o755), (&socket, 0o666)] {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        }
        let path = socket.clone();
        std::thread::spawn(move || connect_as_nobody(&path)).join().unwrap();
        job.wait_for(&format!("warning: a process of another user was refused (pid {}", std::process::id()));
    } else {
        eprintln!("SKIPPED: needs root, to connect as another user");
    }
    // A worker of the same user joins.
    let mut joining = std::process::Command::new(&toy);
    let joined = joining.arg("env").env("DDP_JOIN", &socket).env("DDP_JOIN_RANK", "0").output().unwrap();
    assert!(joined.status.success(), "{}", String::from_utf8_lossy(&joined.stderr));
    job.wait().succeeds().leaves_no_process();
}

/// Changes the user of this thread alone.
fn connect_as_nobody(path: &Path) {
    use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType};
    // SAFETY: a system call; glibc's function would change all threads.
    let changed = unsafe { libc::syscall(libc::SYS_setresuid, -1, NOBODY, -1) };
    assert_eq!(changed, 0);
    let socket =
        rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
    rustix::net::connect(&socket, &SocketAddrUnix::new(path).unwrap()).unwrap();
    let _ = rustix::net::send(&socket, br#"{"version":1,"rank":0}"#, SendFlags::NOSIGNAL);
    let mut answer = [0; 4096];
    let (length, _) = rustix::net::recv(&socket, &mut answer[..], RecvFlags::empty()).unwrap_or((0, 0));
    assert_eq!(length, 0, "it was told {}", String::from_utf8_lossy(&answer[..length]));
}

/// A project that was never set up, and an empty cache.
struct Fresh(TempDir);

impl Fresh {
    fn new() -> Self {
        let dir = tempdir().unwrap();
        fs::create_dir_all(dir.path().join("project/src")).unwrap();
        fs::create_dir_all(dir.path().join("cache/cargo-ddp")).unwrap();
        fs::write(dir.path().join("project/Cargo.toml"), "[package]\nname = \"p\"\nedition = \"2024\"\n").unwrap();
        fs::write(dir.path().join("project/src/main.rs"), "fn main() {}\n").unwrap();
        Self(dir)
    }

    fn path(&self, below: &str) -> std::path::PathBuf {
        self.0.path().join(below)
    }

    /// Set-up with a Python whose pip keeps its arguments and its list of packages, and fails.
    fn setup(&self) -> Ddp {
        let python = self.path("python");
        let here = self.0.path().display();
        let script = format!(
            "#!/bin/sh\ncase \"$1 $2 $3\" in\n\
             \"-c \"*) echo '{{\"python\": \"3.12.0\", \"version\": null, \"folder\": null}}';;\n\
             *--version) ;;\n\
             *) echo \"$@\" > {here}/args; for last; do :; done; cp \"$last\" {here}/list; exit 1;;\nesac\n"
        );
        fs::write(&python, script).unwrap();
        fs::set_permissions(&python, fs::Permissions::from_mode(0o755)).unwrap();
        let ddp = Ddp::new(["setup", "--cpu", "--python", python.to_str().unwrap()]).dir(&self.path("project"));
        ddp.env("XDG_CACHE_HOME", self.path("cache")).env_remove("LIBTORCH").env_remove("VIRTUAL_ENV")
    }
}

#[test]
fn setup_installs_wheels_with_known_hashes_alone() {
    let fresh = Fresh::new();
    fresh.setup().run().ends_with(3);
    let args = fs::read_to_string(fresh.path("args")).unwrap();
    for flag in ["--require-hashes", "--only-binary=:all:", "--no-deps", "--requirement"] {
        assert!(args.contains(flag), "{args}");
    }
    let list = fs::read_to_string(fresh.path("list")).unwrap();
    assert!(list.contains("torch==2.13.0") && list.contains("--hash=sha256:"), "{list}");
}

#[test]
fn setup_follows_no_link_in_place_of_its_lock() {
    let fresh = Fresh::new();
    fs::write(fresh.path("victim"), "important").unwrap();
    symlink(fresh.path("victim"), fresh.path("cache/cargo-ddp/lock")).unwrap();
    fresh.setup().run().ends_with(4).says(&["can't lock "]);
    assert_eq!(fs::read_to_string(fresh.path("victim")).unwrap(), "important");
    assert!(!fresh.path("args").exists());
}

#[test]
fn cache_that_others_can_change_is_refused() {
    let fresh = Fresh::new();
    let cache = fresh.path("cache/cargo-ddp");
    fs::set_permissions(&cache, fs::Permissions::from_mode(0o777)).unwrap();
    fresh.setup().run().ends_with(3).says(&["can't be trusted: every user of this machine can write to it", "hint: "]);
    fs::set_permissions(&cache, fs::Permissions::from_mode(0o755)).unwrap();
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: needs root, to give the cache to another user");
        return;
    }
    chown(&cache, Some(NOBODY), None).unwrap();
    fresh.setup().run().ends_with(3).says(&["it belongs to another user (uid 65534; this is uid 0)", "XDG_CACHE_HOME"]);
    assert!(!fresh.path("args").exists());
    // A run needs no cache.
    let args = ["launch", "--nproc", "1", "--log-dir", "logs", "--", "true"];
    let run = Ddp::new(args).dir(fresh.0.path()).env("XDG_CACHE_HOME", fresh.path("cache")).run();
    run.succeeds();
    wait_until("no entry of a job", String::new, || !cache.join("jobs").exists());
}
