//! `cargo ddp snapshot …`, on snapshots that real workers saved.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use ddp_contract::snapshot;
use ddp_tests::{CudaTorch, Ddp, Done, fitted, snapshots, stdout_of};
use serde_json::Value;
use tempfile::{TempDir, tempdir};

use crate::console::{printed, shown, without_long_numbers};

/// Snapshots of the worker `resume`: steps 24 (the best, with metric 4), 40 and 48.
fn trained() -> TempDir {
    static ONCE: OnceLock<TempDir> = OnceLock::new();
    let original = ONCE.get_or_init(|| {
        let dir = tempdir().unwrap();
        Ddp::worker("resume", &["--nproc", "2"], &[dir.path().to_str().unwrap(), "2", "8"]).run().succeeds();
        dir
    });
    let copy = tempdir().unwrap();
    for folder in snapshots(original.path()) {
        let to = copy.path().join(folder.file_name().unwrap());
        fs::create_dir(&to).unwrap();
        for file in fs::read_dir(folder).unwrap() {
            let file = file.unwrap();
            fs::copy(file.path(), to.join(file.file_name())).unwrap();
        }
    }
    copy
}

fn command(dir: &Path, args: &[&str]) -> Done {
    Ddp::new(["snapshot"].iter().chain(args)).dir(dir).run()
}

fn json(dir: &Path, args: &[&str]) -> Value {
    serde_json::from_str(&command(dir, args).stdout).unwrap()
}

fn damage(file: &Path) {
    let mut bytes = fs::read(file).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(file, bytes).unwrap();
}

fn steps(dir: &Path) -> Vec<u64> {
    let mut steps: Vec<_> = snapshots(dir).iter().map(|folder| snapshot::step_of(folder).unwrap()).collect();
    steps.sort_unstable();
    steps
}

#[test]
fn snapshot_ls_lists_snapshots_and_names_damage() {
    let dir = trained();
    assert_eq!(steps(dir.path()), [24, 40, 48]);
    let listed = json(dir.path(), &["ls", ".", "--json"]);
    let facts: Vec<_> = listed
        .as_array()
        .unwrap()
        .iter()
        .map(|s| (s["step"].as_u64(), s["epoch"].as_u64(), s["metric"].as_f64()))
        .collect();
    // At the end of an epoch, a run continues with the next one; the last snapshot was saved without a metric.
    assert_eq!(facts[0].0.zip(facts[0].2), Some((24, 4.0)), "{listed}");
    assert_eq!(facts.iter().map(|(step, ..)| step.unwrap()).collect::<Vec<_>>(), [24, 40, 48]);
    command(dir.path(), &["verify", "."]).succeeds();

    damage(&dir.path().join("step-00000040/optimizer.safetensors"));
    fs::remove_file(dir.path().join("step-00000048/model.safetensors")).unwrap();
    let text = command(dir.path(), &["ls", "."]).succeeds().stdout;
    let lines: Vec<_> = text.lines().collect();
    assert!(lines[1].ends_with("valid"), "{text}");
    assert!(lines[2].ends_with("damaged: optimizer.safetensors: checksum mismatch"), "{text}");
    assert!(lines[3].ends_with("damaged: model.safetensors is missing"), "{text}");
    let verified = command(dir.path(), &["verify", "."]).ends_with(6).stdout;
    assert!(verified.starts_with("valid    ./step-00000024 (4 files, "), "{verified}");
    command(dir.path(), &["verify", "step-00000024"]).succeeds();
    assert_eq!(json(dir.path(), &["verify", "--json", "step-00000040"])[0]["valid"], false);
    // The command shows what other programs would load.
    assert!(command(dir.path(), &["show", "."]).succeeds().stdout.starts_with("./step-00000024\n"));
    command(dir.path(), &["show", "step-00000040"]).ends_with(6).says(&[
        "can't load ",
        ": optimizer.safetensors",
        "hint: ",
    ]);
}

// The stray manifest hid all of them, and `prune` exited with 0.
#[test]
fn stray_manifest_next_to_snapshots_is_ignored() {
    let dir = trained();
    fs::write(dir.path().join("state.json"), "{}").unwrap();
    let steps: Vec<_> = json(dir.path(), &["ls", "--json", "."]).as_array().unwrap().clone();
    assert_eq!(steps.iter().map(|snapshot| snapshot["step"].as_u64().unwrap()).collect::<Vec<_>>(), [24, 40, 48]);
    command(dir.path(), &["verify", "."]).succeeds();
    assert!(command(dir.path(), &["show", "."]).succeeds().stdout.starts_with("./step-00000048\n"));
    let done = command(dir.path(), &["prune", "--keep-last", "1", "--dry-run", "."]).succeeds();
    assert!(
        done.stdout.contains("would remove 2 snapshots") && done.stdout.ends_with("; 1 remain\n"),
        "{}",
        done.stdout
    );
}

#[test]
fn snapshot_commands_point_to_snapshots_in_subfolders() {
    let dir = trained();
    // Among the parent's folders it is the only one with snapshots.
    let outside = tempdir().unwrap();
    fs::create_dir_all(outside.path().join("runs/7")).unwrap();
    let kept = outside.path().join("runs/7/kept");
    assert!(Command::new("cp").arg("-r").args([dir.path(), &*kept]).status().unwrap().success());
    for args in [&["ls"][..], &["show"], &["verify"], &["prune", "--keep-last", "1"], &["export", "--to", "x.pt"]] {
        command(outside.path(), args).ends_with(2).says(&["does not exist", "hint: runs/7/kept has snapshots"]);
    }
    command(outside.path(), &["diff", "runs", "runs/7/kept"]).ends_with(2);
    // The folder that the project's settings name needs no flag.
    fs::write(outside.path().join("train.toml"), "snapshots = \"runs/7/kept\"\n").unwrap();
    assert!(command(outside.path(), &["ls"]).succeeds().stdout.contains("STEP"));
}

#[test]
fn snapshot_commands_refuse_folders_without_snapshots() {
    let dir = tempdir().unwrap();
    for args in [["ls", "."], ["show", "."], ["verify", "."]] {
        command(dir.path(), &args).ends_with(2).says(&["no snapshots in .", "hint: "]);
    }
    fs::write(dir.path().join("x"), "no tensors").unwrap();
    for subcommand in ["ls", "show", "verify"] {
        let done = command(dir.path(), &[subcommand]).ends_with(2);
        done.says(&["snapshots is not a folder of snapshots: it does not exist", "hint: "]);
        let done = command(dir.path(), &[subcommand, "x"]).ends_with(2);
        done.says(&["x is not a folder of snapshots: it is not a directory", "hint: "]);
    }
    command(dir.path(), &["diff", "x", "x"]).ends_with(2).says(&["x is not a safetensors file", "hint: "]);
    command(dir.path(), &["import", "x", "--to", "s"]).ends_with(2);
    assert!(!dir.path().join("s").exists());
}

#[test]
fn snapshot_show_prints_tensors_and_states() {
    let dir = trained();
    let text = command(dir.path(), &["show", "step-00000024"]).succeeds().stdout;
    for words in [
        "2 workers",
        "metric: 4",
        "model: 4 tensors in 1.3 kB",
        "  in.weight   F32  [32, 8]  1.0 kB",
        "optimizer: 12 tensors",
        "exp_avg_sq of 4 parameters",
        "scheduler: {",
        "scaler: {",
        "value mean: ",
    ] {
        assert!(text.contains(words), "{words:?} is not in:\n{text}");
    }
    let shown = json(dir.path(), &["show", "step-00000024", "--json"]);
    assert_eq!(shown["model"][0]["name"], "in.bias");
    assert_eq!(shown["model"][1]["shape"], serde_json::json!([32, 8]));
    assert_eq!((&shown["step"], &shown["world_size"]), (&24.into(), &2.into()));
}

#[test]
fn snapshot_diff_measures_differences() {
    let Some(torch) = CudaTorch::find() else { return };
    let dir = trained();
    assert!(
        command(dir.path(), &["diff", "step-00000024", "step-00000024"])
            .succeeds()
            .stdout
            .contains("4 tensors equal, 0 differ")
    );
    let found = command(dir.path(), &["diff", "--json", "step-00000024", "step-00000048"]).ends_with(6).stdout;
    let found: Value = serde_json::from_str(&found).unwrap();
    let script = "import sys, json, safetensors.torch as s\na, b = (s.load_file(p) for p in sys.argv[1:])\n\
        print(json.dumps({k: (a[k].double() - b[k].double()).abs().max().item() for k in a}))";
    let files = ["step-00000024", "step-00000048"].map(|name| dir.path().join(name).join("model.safetensors"));
    let expected: Value = serde_json::from_str(&stdout_of(torch.python().arg("-c").arg(script).args(files))).unwrap();
    for (name, most) in expected.as_object().unwrap() {
        assert_eq!(found["files"]["model"]["changes"][name]["max_abs"], *most, "{name}");
    }
    assert!(found["files"]["optimizer"]["changes"].as_object().unwrap().len() >= 8);
}

#[test]
fn snapshot_prune_keeps_the_newest_valid_and_the_best() {
    let dir = trained();
    let would = command(dir.path(), &["prune", ".", "--keep-last", "1", "--dry-run"]).succeeds().stdout;
    assert!(would.contains("would remove 2 snapshots"), "{would}");
    assert_eq!(steps(dir.path()), [24, 40, 48]);
    // The newest is damaged: the newest valid one stays, and so do the remains of the damaged one.
    damage(&dir.path().join("step-00000048/model.safetensors"));
    let done = command(dir.path(), &["prune", ".", "--keep-last", "1", "--keep-best", "1"]).succeeds();
    done.says(&["skipping ./step-00000048: model.safetensors: checksum mismatch"]);
    assert_eq!(steps(dir.path()), [24, 40, 48]);
    command(dir.path(), &["prune", ".", "--keep-last", "1", "--keep-best", "1", "--best", "max"]).succeeds();
    assert_eq!(steps(dir.path()), [40, 48]);
    command(dir.path(), &["prune", ".", "--keep-last", "1"]).succeeds();
    assert_eq!(steps(dir.path()), [40, 48]);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2, "nothing half removed is left");
    command(dir.path(), &["prune", ".", "--keep-last", "0"]).ends_with(2);
    command(dir.path(), &["prune", "."]).ends_with(2).says(&["--keep-last"]);
}

/// Every type that both sides know, odd shapes, and unusual names.
const MAKE: &str = "
import sys, torch, safetensors.torch as s
g = torch.Generator().manual_seed(3)
t = {f'model.{str(d)[6:]}': (torch.randn(3, 4, generator=g) * 9).to(d) for d in
     [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8]}
t |= {'model.uint8': torch.arange(5, dtype=torch.uint8), 'model.bool': torch.tensor([True, False]),
      'model.scalar': torch.tensor(2.5), 'model.empty': torch.zeros(0, 3), 'model.\u{e9}.\"quoted\"': torch.ones(1)}
s.save_file(t, sys.argv[1])
";

#[test]
fn import_and_export_exchange_models_with_python_in_both_formats() {
    let Some(torch) = CudaTorch::find() else { return };
    let dir = tempdir().unwrap();
    let path = |name: &str| -> PathBuf { dir.path().join(name) };
    stdout_of(torch.python().arg("-c").arg(MAKE).arg(path("in.safetensors")));
    fs::write(path("in.toml"), "\"model.*\" = \"*\"\n").unwrap();
    fs::write(path("out.json"), "{\"*\": \"model.*\"}").unwrap();
    let done = command(dir.path(), &["import", "in.safetensors", "--names", "in.toml", "--to", "s"]).succeeds();
    assert_eq!(done.stdout, "s/step-00000000\n");
    assert!(command(dir.path(), &["ls", "s"]).succeeds().stdout.contains("valid (a model only)"));
    for to in ["out.safetensors", "out.pt"] {
        command(dir.path(), &["export", "s", "--to", to, "--names", "out.json"])
            .succeeds()
            .says(&["Exported 13 tensors"]);
    }
    let compare = "
import sys, torch, safetensors.torch as s
a, b = s.load_file(sys.argv[1]), s.load_file(sys.argv[2])
c = torch.load(sys.argv[3], weights_only=True)
d = torch.load(sys.argv[3], weights_only=True, mmap=True)
for other in b, c, d:
    assert sorted(a) == sorted(other), (sorted(a), sorted(other))
    for k in a:
        assert a[k].dtype == other[k].dtype and a[k].shape == other[k].shape and torch.equal(a[k], other[k]), k
m = torch.nn.Linear(4, 3, bias=False)
m.load_state_dict({'weight': c['model.float32']})
c['model.float32'] += 1  # they own their memory
print('same')";
    let files = ["in.safetensors", "out.safetensors", "out.pt"].map(path);
    assert_eq!(stdout_of(torch.python().arg("-c").arg(compare).args(files)), "same\n");
    // An existing file is never replaced.
    let before = fs::read(path("out.pt")).unwrap();
    command(dir.path(), &["export", "s", "--to", "out.pt"]).ends_with(2).says(&["out.pt already exists"]);
    assert_eq!(fs::read(path("out.pt")).unwrap(), before);
    command(dir.path(), &["import", "in.safetensors", "--to", "s"])
        .ends_with(2)
        .says(&["step-00000000 already exists"]);
    command(dir.path(), &["export", "s", "--to", "out.onnx"])
        .ends_with(2)
        .says(&["must end in .safetensors, .pt or .pth"]);
    fs::write(path("typo.toml"), "\"modle.*\" = \"*\"\n").unwrap();
    let done = command(dir.path(), &["import", "in.safetensors", "--names", "typo.toml", "--to", "t"]).ends_with(2);
    done.says(&["--names: no tensor is named \"modle.*\""]);
    let left: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(left.iter().all(|name| !name.to_string_lossy().starts_with('.')), "{left:?}");
}

#[test]
fn imported_model_starts_a_run() {
    let Some(torch) = CudaTorch::find() else { return };
    let dir = tempdir().unwrap();
    let file = dir.path().join("model.safetensors");
    let make = "import sys, torch, safetensors.torch as s\n\
        s.save_file({'net.weight': torch.tensor([[-2.5, 3.25]]), 'net.bias': torch.tensor([4.0])}, sys.argv[1])";
    stdout_of(torch.python().arg("-c").arg(make).arg(&file));
    fs::write(dir.path().join("names.toml"), "net.weight = \"weight\"\nnet.bias = \"bias\"\n").unwrap();
    command(dir.path(), &["import", "model.safetensors", "--names", "names.toml"]).succeeds();
    let train = |epochs: &str| {
        let snapshots = dir.path().join("snapshots");
        let args = ["run", "--nproc", "2", "--", "--total-epochs", epochs, "--snapshots", snapshots.to_str().unwrap()];
        Ddp::in_linear(args).run()
    };
    let at_start = fitted(&train("0").succeeds().stdout);
    assert_eq!(at_start, ["[-2.5, 3.25] (true: [-2.0, 3.4]), b = 4.0 (true: 4.2)"; 2]);
    let first = train("1").succeeds();
    assert!(first.stdout.contains("epoch   1  loss "), "it begins with the first epoch: {}", first.stdout);
    assert_eq!(steps(&dir.path().join("snapshots")), [0, 32]);

    // A model that does not fit is refused, with the name of the missing tensor.
    let other = tempdir().unwrap();
    command(other.path(), &["import", file.to_str().unwrap()]).succeeds();
    let snapshots = other.path().join("snapshots");
    let args = ["run", "--nproc", "1", "--max-restarts", "0", "--", "--snapshots", snapshots.to_str().unwrap()];
    Ddp::in_linear(args).run().ends_with(1).says(&["the snapshot has no "]);
}

#[test]
fn docs_of_snapshot_show_the_printed_output() {
    let snapshots = trained();
    let dir = tempdir().unwrap();
    fs::rename(snapshots.path(), dir.path().join("snapshots")).unwrap();
    for shown in shown("snapshots.md") {
        let ddp = Ddp::new(&shown.command).dir(dir.path());
        let found = without_long_numbers(&printed(ddp));
        assert_eq!(found, without_long_numbers(&shown.output), "{:?}", shown.command);
    }
}
