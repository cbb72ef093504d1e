//! Every error with its message, hint and exit code, as text snapshots: one file per section of the enum.

use std::collections::BTreeSet;
use std::os::unix::process::ExitStatusExt;

use super::*;
use crate::snap::assert_text;

/// Names the variants once, by section. A new variant of [`Error`] fails to compile until it is listed, and a listed one
/// fails [`every_variant_has_a_sample`] until [`samples`] has it.
macro_rules! sections {
    ($($section:literal: $($variant:ident),+;)+) => {
        const VARIANTS: &[(&str, &str)] = &[$($(($section, stringify!($variant))),+),+];

        fn place(err: &Error) -> (&'static str, &'static str) {
            match err {
                $($(Error::$variant { .. } => ($section, stringify!($variant)),)+)+
            }
        }
    };
}

sections! {
    "usage_projects": Exists, BadName, BadFolder, NoTemplate, BadManifest, CantJoin, NoRecord, BadRecord, MadeByNewer,
        Unconfirmed, NoProject, BadProject, NoBinary, ManyBinaries, ManyPlatforms;
    "usage_settings": BadSetting, BadOption, BadVariable, BadDebug, BadSecret, BadGpuList, NoSuchGpu, NoDriver,
        GpuNotVisible, NoFeature;
    "usage_programs": NoProgram, NotExecutable, NoInterpreter;
    "usage_jobs": NoRun, NoRunInProject, ManyRuns, RunsElsewhere, NotDebugged, JoinTaken, NotJoined,
        OneRank, NoAnswer, JobEnded, CantCompare;
    "usage_editor": StartsAnother, BadJson, NoTarget, NothingToDebug, Stale;
    "snapshots": NoSnapshot, NoSnapshotFolder, Damaged, SnapshotsInUse, BadTensorFile, CantImport, BadNames;
    "runs": RunDir, NoRunFolder, NoEarlierRun, OtherProgram, NoSuchStep, StepOutOfReach, StepNotReached, NoMetrics, NoMetric, BadMetrics;
    "setup": BadLibtorch, NoPython, BadPython, NoPip, NoSpace, Pip, Incomplete, NoCache, UnsafeCache;
    "nodes": Rendezvous;
    "system": Build, Start, System, Output, Template;
}

fn os_error(errno: rustix::io::Errno) -> io::Error {
    errno.into()
}

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn paths(paths: &[&str]) -> Vec<PathBuf> {
    paths.iter().map(PathBuf::from).collect()
}

/// At least one error per variant; several where the message or the hint depends on the data.
fn samples() -> Vec<Error> {
    [
        usage_projects(),
        usage_settings(),
        usage_programs(),
        usage_jobs(),
        usage_editor(),
        snapshots(),
        runs(),
        setup(),
        system(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn usage_projects() -> Vec<Error> {
    let manifest = || PathBuf::from("/me/m/Cargo.toml");
    vec![
        Error::Exists("/me/m".into()),
        Error::BadName {
            name: "2fast".into(),
            problem: "it starts with a digit".into(),
            suggestion: "my-2fast".into(),
        },
        Error::BadFolder { path: "/me/a:b".into(), problem: "the path contains a `:`" },
        Error::NoTemplate { name: "quadratic".into(), known: "bare, linear, vision, mingpt".into() },
        Error::BadManifest { path: manifest(), problem: "`dependencies` is not a table".into() },
        Error::CantJoin { folder: "/me/m".into(), problem: "no folder above it is a workspace".into() },
        Error::NoRecord("/me/m".into()),
        Error::BadRecord { path: "/me/m/.ddp-template.toml".into(), problem: "missing field `format`".into() },
        Error::MadeByNewer { version: "9.0.0".into() },
        Error::Unconfirmed,
        Error::NoProject("could not find `Cargo.toml` in `/me` or any parent directory".into()),
        Error::BadProject("failed to parse manifest at `/me/m/Cargo.toml`".into()),
        Error::NoBinary,
        Error::ManyBinaries("eval, train".into()),
        Error::ManyPlatforms("s390x-unknown-linux-gnu, m68k-unknown-linux-gnu".into()),
    ]
}

fn usage_settings() -> Vec<Error> {
    let place = "Cargo.toml [package.metadata.ddp]";
    vec![
        Error::BadSetting {
            place: place.into(),
            problem: "unknown key `max_restart`; did you mean `max-restarts`?".into(),
        },
        Error::BadOption { option: "show", problem: "rank 7 not found: ranks are 0 to 1".into() },
        Error::BadVariable {
            name: "DDP_TIMEOUT",
            value: "soon".into(),
            problem: "expected a number of seconds, at most 3153600000".into(),
        },
        Error::BadDebug("gdb".into()),
        Error::BadSecret("the secret is too short: 5 bytes, expected at least 16".into()),
        Error::BadGpuList { list: "2,2".into(), problem: "GPU 2 is listed twice".into() },
        Error::NoSuchGpu { missing: "7".into(), present: names(&["0", "1"]) },
        Error::NoSuchGpu { missing: "0".into(), present: vec![] },
        Error::NoDriver("can't load the NVIDIA driver (libnvidia-ml.so.1: cannot open shared object file)".into()),
        Error::GpuNotVisible { gpu: "2".into(), visible: "0,1".into() },
        Error::NoFeature("plot"),
    ]
}

fn usage_programs() -> Vec<Error> {
    let not_executable = |errno| Error::NotExecutable { program: "./train.py".into(), source: os_error(errno) };
    let no_interpreter = |interpreter: &str, fault| Error::NoInterpreter {
        program: "./train.py".into(),
        interpreter: interpreter.into(),
        fault,
    };
    vec![
        Error::NoProgram("tarin".into()),
        not_executable(rustix::io::Errno::ACCESS),
        not_executable(rustix::io::Errno::NOEXEC),
        no_interpreter("/opt/python3", Fault::Missing),
        no_interpreter("/bin/sh", Fault::Windows),
        no_interpreter("/opt/python3", Fault::NotExecutable),
    ]
}

fn usage_jobs() -> Vec<Error> {
    vec![
        Error::NoRun { run: String::new(), running: vec![] },
        Error::NoRun { run: "run-9".into(), running: vec![] },
        Error::NoRun { run: "run-9".into(), running: names(&["run-1-4711", "run-2-4712"]) },
        Error::NoRunInProject(names(&["run-1-4711"])),
        Error::ManyRuns("run-1-4711, run-2-4712".into()),
        Error::RunsElsewhere("not running on this machine: run-1-4711 on node7".into()),
        Error::NotDebugged,
        Error::JoinTaken("/me/m/.ddp/debug/join".into()),
        Error::NotJoined { missing: vec![1], seconds: 600 },
        Error::NotJoined { missing: vec![1, 2], seconds: 600 },
        Error::OneRank("run-1-4711".into()),
        Error::NoAnswer { run: "run-1-4711".into(), seconds: 60.0, listens: true },
        Error::NoAnswer { run: "run-1-4711".into(), seconds: 2.5, listens: false },
        Error::JobEnded("run-1-4711".into()),
        Error::CantCompare { run: "run-1-4711".into(), problem: "rank 1: CUDA out of memory".into() },
    ]
}

fn usage_editor() -> Vec<Error> {
    vec![
        Error::StartsAnother { built: "/tmp/target/debug/train".into(), started: "/me/m/target/debug/train".into() },
        Error::BadJson {
            path: "/me/m/.vscode/launch.json".into(),
            line: 3,
            column: 22,
            problem: "expected an object".into(),
        },
        Error::NoTarget { name: "trian".into(), known: names(&["train", "eval"]) },
        Error::NothingToDebug,
        Error::Stale(paths(&[".vscode/launch.json"])),
        Error::Stale(paths(&[".vscode/launch.json", ".vscode/tasks.json"])),
    ]
}

fn snapshots() -> Vec<Error> {
    let folder = || PathBuf::from("snapshots");
    let tensors =
        |help| Error::BadTensorFile { path: "model.bin".into(), problem: "the header is too large".into(), help };
    vec![
        Error::NoSnapshot { dir: folder(), others: vec![] },
        Error::NoSnapshot { dir: folder(), others: paths(&["runs/7/kept"]) },
        Error::NoSnapshot { dir: folder(), others: paths(&["runs/7/kept", "runs/8/kept"]) },
        Error::NoSnapshotFolder { path: "README.md".into(), problem: "it is not a directory", others: vec![] },
        Error::Damaged {
            folder: "snapshots/step-00000040".into(),
            damage: SnapshotError::Checksum("optimizer.safetensors".into()),
        },
        Error::SnapshotsInUse { dir: folder(), problem: "run-1-4711 (pid 4711 on node7) writes to it".into() },
        tensors(None),
        tensors(Some("export it with `safetensors.torch.save_file`".into())),
        Error::CantImport {
            path: "model.safetensors".into(),
            problem: "it has no tensors".into(),
            help: "import another file".into(),
        },
        Error::BadNames { path: "names.toml".into(), problem: "two patterns match `head.weight`".into() },
    ]
}

fn runs() -> Vec<Error> {
    vec![
        Error::RunDir { dir: "/var/runs".into(), source: os_error(rustix::io::Errno::ACCESS) },
        Error::NoRunFolder { run: "7".into(), runs: paths(&["runs"]), known: names(&["1", "2"]) },
        Error::NoRunFolder { run: "7".into(), runs: paths(&["runs", "target/ddp/runs"]), known: vec![] },
        Error::NoEarlierRun { program: "train".into(), runs: paths(&["runs"]) },
        Error::OtherProgram { run: 7, program: "train".into() },
        Error::OtherProgram { run: 7, program: String::new() },
        Error::NoSuchStep { run: 7, step: 99, last: Some(80) },
        Error::NoSuchStep { run: 7, step: 1, last: None },
        Error::StepOutOfReach { run: 7, step: 12, reachable: Some((41, 80)) },
        Error::StepOutOfReach { run: 7, step: 12, reachable: None },
        Error::StepNotReached { step: 43, last: Some(40) },
        Error::NoMetrics("run 1".into()),
        Error::NoMetric { name: "lost".into(), known: names(&["loss", "lr"]) },
        Error::BadMetrics { path: "runs/1/metrics.jsonl".into(), problem: "line 3 is not an object".into() },
    ]
}

fn setup() -> Vec<Error> {
    let pip = |fault| Error::Pip { line: "ERROR: …".into(), fault };
    vec![
        Error::BadLibtorch { path: "/opt/libtorch".into(), problem: "lib/libtorch.so is missing".into() },
        Error::NoPython,
        Error::BadPython { python: "/usr/bin/python".into(), problem: "found Python 2.7.18".into() },
        Error::NoPip { python: "/usr/bin/python3".into() },
        Error::NoSpace { path: "/me/.cache/cargo-ddp".into(), free_gb: 1.25, needed_gb: 12.0 },
        pip(PipFault::Network),
        pip(PipFault::Disk),
        pip(PipFault::NoWheel),
        pip(PipFault::Hash),
        pip(PipFault::Other),
        Error::Incomplete("torch/lib/libtorch_cuda.so is missing".into()),
        Error::NoCache,
        Error::UnsafeCache {
            path: "/me/.cache/cargo-ddp".into(),
            problem: "every user of this machine can write to it".into(),
        },
    ]
}

fn system() -> Vec<Error> {
    let full = || os_error(rustix::io::Errno::NOSPC);
    vec![
        Error::Rendezvous { place: "10.0.0.1:29500".into(), problem: "node 1 of 2 did not join within 600 s".into() },
        Error::Build(ExitStatus::from_raw(101 << 8)),
        Error::Start { program: "cargo".into(), source: os_error(rustix::io::Errno::NOMEM) },
        Error::System { action: "can't write runs/1/job.json".into(), source: full() },
        Error::System { action: "can't create a pipe".into(), source: os_error(rustix::io::Errno::MFILE) },
        Error::Output { stream: "stdout", source: full() },
        Error::Template { template: "bare/Cargo.toml.jinja".into(), problem: "undefined value".into() },
    ]
}

fn rendered(err: &Error) -> String {
    let (_, variant) = place(err);
    let hint = err.hint().map(|hint| format!("hint: {hint}\n")).unwrap_or_default();
    format!("{variant} (exit code {})\nerror: {err}\n{hint}", err.exit_code())
}

/// Without what depends on the version and the machine.
fn redacted(text: &str) -> String {
    let limit = crate::os::descriptors::hint();
    let without_number = limit.split(' ').map(|word| if word.parse::<u64>().is_ok() { "[LIMIT]" } else { word });
    text.replace(&limit, &without_number.collect::<Vec<_>>().join(" "))
        .replace(NEEDED, "[LIBTORCH]")
        .replace(env!("CARGO_PKG_VERSION"), "[VERSION]")
        .replace(std::env::consts::ARCH, "[ARCH]")
}

#[test]
fn every_variant_has_a_sample() {
    let sampled: BTreeSet<_> = samples().iter().map(place).collect();
    let missing: Vec<_> = VARIANTS.iter().filter(|variant| !sampled.contains(variant)).collect();
    assert!(missing.is_empty(), "no sample of {missing:?}");
}

#[test]
fn messages_hints_and_exit_codes_match_their_snapshots() {
    let sections: BTreeSet<_> = VARIANTS.iter().map(|(section, _)| section).collect();
    for section in sections {
        let errors = samples();
        let texts: Vec<_> = errors.iter().filter(|err| place(err).0 == *section).map(rendered).collect();
        assert_text!(*section, redacted(&texts.join("\n")));
    }
}
