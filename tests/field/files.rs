//! Files that the launcher writes: reports, plots, exports and metrics. Anything but a regular file is written through.

use std::fs::{self, File};
use std::os::unix::fs::{FileTypeExt, symlink};
use std::path::Path;
use std::process::{Command, Stdio};

use ddp_tests::{Ddp, Done, cargo_ddp};
use serde_json::Value;
use tempfile::tempdir;

use super::runs::{launch, write};

fn fifo(path: &Path) {
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    rustix::fs::mknodat(rustix::fs::CWD, path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
}

/// A failing job with `--report`; its report is what `read` gives.
fn report(dir: &Path, to: &str, read: impl FnOnce(Done) -> Vec<u8>) {
    let done = launch(dir, &["--max-restarts", "0", "--report", to], "exit 3").run().ends_with(3);
    assert!(!done.stderr.contains("report"), "{}", done.stderr);
    let text = read(done);
    let report: Value = serde_json::from_slice(&text).unwrap_or_else(|err| panic!("{to}: {err}"));
    assert_eq!((&report["outcome"], &report["exit_code"]), (&"failed".into(), &3.into()), "{to}");
}

// `--report /dev/stdout`, as root, made a regular file of the device.
#[test]
fn report_is_written_through_fifos_and_devices() {
    let dir = tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    for stream in ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"] {
        report(dir.path(), stream, |done| done.stdout.into_bytes());
    }
    symlink("/dev/stdout", path("to-stdout")).unwrap();
    report(dir.path(), "to-stdout", |done| done.stdout.into_bytes());
    assert!(path("to-stdout").is_symlink());

    fifo(&path("fifo"));
    symlink("fifo", path("to-fifo")).unwrap();
    for name in ["fifo", "to-fifo"] {
        let fifo = path(name);
        let reader = std::thread::spawn(move || fs::read(fifo).unwrap());
        report(dir.path(), name, |_| reader.join().unwrap());
    }
    assert!(fs::symlink_metadata(path("fifo")).unwrap().file_type().is_fifo() && path("to-fifo").is_symlink());

    fs::write(path("file"), "old").unwrap();
    symlink("file", path("to-file")).unwrap();
    symlink("new", path("dangling")).unwrap();
    for name in ["to-file", "dangling"] {
        report(dir.path(), name, |_| fs::read(path(name)).unwrap());
        assert!(path(name).is_symlink());
    }
    // Earlier output to stdout stays before it.
    let file = path("stdout.txt");
    let mut command = Command::new(cargo_ddp());
    command.current_dir(dir.path()).args([
        "ddp",
        "launch",
        "--nproc",
        "1",
        "--report",
        "/dev/stdout",
        "--",
        "echo",
        "text",
    ]);
    let status =
        command.stdin(Stdio::null()).stdout(File::create(&file).unwrap()).stderr(Stdio::null()).status().unwrap();
    assert!(status.success());
    let text = fs::read_to_string(&file).unwrap();
    assert!(text.starts_with("[rank 0] text\n{") && text.contains(r#""outcome": "done""#), "{text}");

    launch(dir.path(), &["--report", "/dev/fd/77"], "true")
        .run()
        .ends_with(2)
        .says(&["--report: can't write to /dev/fd/77"]);
    launch(dir.path(), &["--report", "no/where"], "true").run().ends_with(2).says(&["no is not a directory"]);
    // The report was lost at the end, with a warning.
    launch(dir.path(), &["--report", "missing/"], "true")
        .run()
        .ends_with(2)
        .says(&["expected the name of a file, got a directory that does not exist"]);
}

// `--report /proc/PID/fd/1` replaced the file, and the process's output before and after was lost.
#[test]
fn report_to_a_descriptor_of_another_process_replaces_no_file() {
    let dir = tempdir().unwrap();
    let script = r#"exec >> file; echo before; "$0" ddp launch --nproc 1 --report /proc/$$/fd/1 -- true; echo after"#;
    let mut command = Command::new("bash");
    command.args(["-c", script]).arg(cargo_ddp()).current_dir(dir.path()).stdin(Stdio::null()).stderr(Stdio::null());
    assert!(command.status().unwrap().success());
    let text = fs::read_to_string(dir.path().join("file")).unwrap();
    assert!(text.starts_with("before\n{") && text.contains(r#""outcome": "done""#), "{text}");
    assert!(text.ends_with("after\n"), "{text}");
}

// Under a scheduler's agent, TORCHELASTIC_ERROR_FILE may not be a regular file either.
#[test]
fn error_file_around_the_launcher_is_written_through() {
    let dir = tempdir().unwrap();
    let failing = |to: &Path| launch(dir.path(), &["--max-restarts", "0"], "exit 3").env("TORCHELASTIC_ERROR_FILE", to);
    let path = dir.path().join("fifo");
    fifo(&path);
    let reader = std::thread::spawn({
        let path = path.clone();
        move || fs::read_to_string(path).unwrap()
    });
    failing(&path).run().ends_with(3);
    let text = reader.join().unwrap();
    assert!(text.contains("rank 0 ended with exit code 3"), "{text}");
    // Nobody reads it.
    failing(&path).run().ends_with(3);
    assert!(fs::symlink_metadata(&path).unwrap().file_type().is_fifo());
}

#[test]
fn report_keeps_device_nodes() {
    let dir = tempdir().unwrap();
    let null = dir.path().join("null");
    let (kind, mode) = (rustix::fs::FileType::CharacterDevice, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR);
    if rustix::fs::mknodat(rustix::fs::CWD, &null, kind, mode, rustix::fs::makedev(1, 3)).is_err()
        || fs::write(&null, "x").is_err()
    {
        ddp_tests::skipped("needs the right to make device nodes, and to use them");
        return;
    }
    launch(dir.path(), &["--report", "null"], "true").run().succeeds();
    assert!(fs::symlink_metadata(&null).unwrap().file_type().is_char_device());
}

// Nobody reads it, but the launcher exits anyway.
// The report was lost with a warning and exit code 0.
#[test]
fn report_that_cannot_be_written_is_an_error() {
    let dir = tempdir().unwrap();
    let report = |script| launch(dir.path(), &["--report", "/dev/full", "--max-restarts", "0"], script).run();
    let words = ["error: can't write the report: No space left on device", "hint: the run directory has a copy: "];
    report("true").ends_with(4).says(&words);
    report("exit 3").ends_with(3).says(&words);
}

#[test]
fn report_to_a_fifo_that_nobody_reads_ends_with_a_warning() {
    let dir = tempdir().unwrap();
    fifo(&dir.path().join("fifo"));
    launch(dir.path(), &["--report", "fifo"], "true").run().succeeds().says(&["warning: can't write the report: "]);
}

#[test]
fn plot_is_written_through_fifos_and_devices() {
    let dir = tempdir().unwrap();
    let lines = [
        r#"{"event":"start","format":1,"step":0,"attempt":0,"world_size":1,"time":1700000000.5}"#,
        r#"{"event":"scalar","name":"loss","step":1,"value":0.5,"time":1700000001.5}"#,
        r#"{"event":"scalar","name":"loss","step":2,"value":0.25,"time":1700000002.5}"#,
    ];
    write(dir.path().join("run/metrics.jsonl"), &(lines.join("\n") + "\n"));
    let plot = |to: &str| Ddp::new(["plot", "./run", "-o", to]).dir(dir.path());
    let done = plot("/dev/stdout").run().succeeds();
    assert!(done.stdout.starts_with("<svg") && done.stdout.trim_end().ends_with("</svg>"), "{}", done.stdout);
    symlink("/dev/stdout", dir.path().join("out.svg")).unwrap();
    assert_eq!(plot("out.svg").run().succeeds().stdout, done.stdout);
    assert!(dir.path().join("out.svg").is_symlink());
    fifo(&dir.path().join("fifo.png"));
    let path = dir.path().join("fifo.png");
    let reader = std::thread::spawn(move || fs::read(path).unwrap());
    plot("fifo.png").run().succeeds();
    assert!(reader.join().unwrap().starts_with(b"\x89PNG"));
    fs::write(dir.path().join("real.svg"), "old").unwrap();
    symlink("real.svg", dir.path().join("link.svg")).unwrap();
    assert_eq!(plot("link.svg").run().succeeds().stdout, "link.svg\n");
    assert!(dir.path().join("link.svg").is_symlink());
    assert_eq!(fs::read_to_string(dir.path().join("real.svg")).unwrap().trim_end(), done.stdout.trim_end());
}

#[test]
fn export_is_written_through_fifos_and_devices() {
    let dir = tempdir().unwrap();
    let header = r#"{"weight":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#;
    let mut model = (header.len() as u64).to_le_bytes().to_vec();
    model.extend(header.as_bytes());
    model.extend([0; 8]);
    fs::write(dir.path().join("model.safetensors"), model).unwrap();
    let snapshot = |args: &[&str]| Ddp::new(["snapshot"].iter().chain(args)).dir(dir.path());
    snapshot(&["import", "model.safetensors", "--to", "snapshots"]).run().succeeds();
    let export = |to: &str| snapshot(&["export", "snapshots", "--to", to]);
    let file = export("plain.safetensors").run().succeeds();
    assert_eq!(file.stdout, "plain.safetensors\n");
    // The order of metadata differs.
    let names = |bytes: &[u8]| {
        let names = safetensors::SafeTensors::deserialize(bytes).unwrap().names().join(" ");
        (bytes.len(), names)
    };
    let plain = names(&fs::read(dir.path().join("plain.safetensors")).unwrap());
    assert_eq!(plain.1, "weight");

    fifo(&dir.path().join("fifo.safetensors"));
    let path = dir.path().join("fifo.safetensors");
    let reader = std::thread::spawn(move || fs::read(path).unwrap());
    export("fifo.safetensors").run().succeeds();
    assert_eq!(names(&reader.join().unwrap()), plain);
    assert!(fs::metadata(dir.path().join("fifo.safetensors")).unwrap().file_type().is_fifo());
    symlink("/dev/null", dir.path().join("null.pt")).unwrap();
    symlink("new.safetensors", dir.path().join("link.safetensors")).unwrap();
    for to in ["null.pt", "link.safetensors"] {
        export(to).run().succeeds();
        assert!(dir.path().join(to).is_symlink());
    }
    assert_eq!(names(&fs::read(dir.path().join("new.safetensors")).unwrap()), plain);
    // An existing file is not overwritten, nor is one behind a link.
    export("link.safetensors").run().ends_with(2);
}

#[test]
fn metrics_are_written_through_fifos_and_devices() {
    let dir = tempdir().unwrap();
    let train = || {
        let logs = dir.path().join("runs");
        let flags = ["--nproc", "2", "--max-restarts", "0", "--log-dir", logs.to_str().unwrap()];
        Ddp::worker("metrics", &flags, &["trainer", dir.path().to_str().unwrap()]).run().succeeds()
    };
    let path = dir.path().join("metrics.jsonl");
    // Another run that does the same.
    let null = File::open("/dev/null").unwrap();
    rustix::fs::flock(&null, rustix::fs::FlockOperation::LockExclusive).unwrap();
    symlink("/dev/null", &path).unwrap();
    train();
    assert_eq!(fs::read_link(&path).unwrap(), Path::new("/dev/null"));
    fs::remove_file(&path).unwrap();
    fifo(&path);
    let reader = std::thread::spawn(move || fs::read_to_string(path).unwrap());
    train();
    let text = reader.join().unwrap();
    assert!(text.lines().all(|line| serde_json::from_str::<Value>(line).is_ok()), "{text}");
    assert!(text.contains("train/loss") && text.contains(r#""event":"end""#), "{text}");
}
