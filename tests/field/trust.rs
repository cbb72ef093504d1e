//! Other users of the machine, hostile files and changed packages do no harm.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::Path;

use ddp_tests::{Ddp, wait_until, worker};
use serde_json::json;
use tempfile::{TempDir, tempdir};

const NOBODY: u32 = 65534;
/// Clears a screen.
const CLEAR: &str = "\u{1b}[2J";

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
    done.says(&[r"message: bad\u{1b}[2J\u{9b}2J"]);
    let runs = Ddp::new(["runs", "--log-dir", "logs"]).dir(dir.path()).run().succeeds();
    is_clean(&runs.stdout);
    assert!(runs.stdout.contains(r"\u{1b}[2J"), "{}", runs.stdout);
    let json = Ddp::new(["runs", "--json", "--log-dir", "logs"]).dir(dir.path()).run().succeeds().stdout;
    is_clean(&json);

    let empty = Ddp::new(["runs", "--log-dir", &format!("no{CLEAR}\u{9b}where")]).dir(dir.path()).run().succeeds();
    assert_eq!(empty.stdout, "no runs in no\\u{1b}[2J\\u{9b}where\n");
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
fn arguments_of_a_run_are_readable_by_its_user_only() {
    let dir = tempdir().unwrap();
    let args = ["launch", "--nproc", "1", "--log-dir", "logs", "--", "sh", "-c", "true", "--password=hunter2"];
    Ddp::new(args).dir(dir.path()).run().succeeds();
    let run = dir.path().join("logs/1");
    assert_eq!(fs::metadata(&run).unwrap().mode() & 0o777, 0o700);
    let path = run.join("job.json");
    assert!(fs::read_to_string(&path).unwrap().contains("hunter2"));
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
    // Files of earlier versions have no second copy.
    assert!(!run.join("run.json").exists() && !run.join("report.json").exists());
}

#[test]
fn debug_socket_is_accessible_by_its_user_only() {
    let dir = tempdir().unwrap();
    let toy = worker("toy");
    let args = ["launch", "--nproc", "1", "--", toy.to_str().unwrap(), "env"];
    let job = Ddp::new(args).dir(dir.path()).env("DDP_DEBUG", "compound").start();
    job.wait_for("Waiting for rank 0");
    let socket = dir.path().join(".ddp/debug/toy.sock");
    assert_eq!(fs::metadata(&socket).unwrap().mode() & 0o777, 0o600);
    if rustix::process::geteuid().is_root() {
        // Even where the mode grants access to others.
        for (path, mode) in [(dir.path(), 0o755), (&dir.path().join(".ddp/debug"), 0o755), (&socket, 0o666)] {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        }
        let path = socket.clone();
        std::thread::spawn(move || connect_as_nobody(&path)).join().unwrap();
        job.wait_for(&format!("warning: a process of another user was refused (pid {}", std::process::id()));
    } else {
        ddp_tests::skipped("needs root, to connect as another user");
    }
    // A worker of the same user joins.
    let mut joining = std::process::Command::new(&toy);
    let joined = joining.arg("env").env("DDP_JOIN", &socket).env("DDP_JOIN_RANK", "0").output().unwrap();
    assert!(joined.status.success(), "{}", String::from_utf8_lossy(&joined.stderr));
    job.wait().succeeds().leaves_no_process();
}

/// Changes the user of this thread only.
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

    /// Setup with a Python whose pip records its arguments and its list of packages, and fails.
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
fn setup_installs_only_wheels_with_known_hashes() {
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
    fresh.setup().run().ends_with(3).says(&[
        "unsafe cache directory ",
        ": every user of this machine can write to it",
        "hint: ",
    ]);
    fs::set_permissions(&cache, fs::Permissions::from_mode(0o755)).unwrap();
    if !rustix::process::geteuid().is_root() {
        ddp_tests::skipped("needs root, to give the cache to another user");
        return;
    }
    chown(&cache, Some(NOBODY), None).unwrap();
    fresh.setup().run().ends_with(3).says(&["it belongs to another user (uid 65534, expected 0)", "XDG_CACHE_HOME"]);
    assert!(!fresh.path("args").exists());
    // A run needs no cache.
    let args = ["launch", "--nproc", "1", "--log-dir", "logs", "--", "true"];
    let run = Ddp::new(args).dir(fresh.0.path()).env("XDG_CACHE_HOME", fresh.path("cache")).run();
    run.succeeds();
    wait_until("no entry of a job", String::new, || !cache.join("jobs").exists());
}
