//! Gradients that were not averaged, tied weights, and tensors that cannot be sent.

use std::fs;
use std::path::Path;
use std::process::Command;

use ddp_contract::snapshot;
use ddp_tests::{CudaTorch, Ddp, Done, snapshots, stdout_of};
use tempfile::{TempDir, tempdir};

/// `tests/workers/model.rs` on two ranks, with snapshots in `dir`.
fn model(scenario: &str, dir: &Path) -> Done {
    Ddp::worker("model", &["--nproc", "2"], &[scenario, dir.to_str().unwrap()]).run()
}

/// Both ranks refuse, for the same reason, which has all `words` in it, and no snapshot is newer than `last`.
#[track_caller]
fn refused(scenario: &str, words: &[&str], last: Option<u64>) {
    let dir = tempdir().unwrap();
    let done = model(scenario, dir.path()).succeeds();
    let reasons: Vec<&str> = done.stdout.lines().filter_map(|line| line.split(" refused: ").nth(1)).collect();
    assert!(reasons.len() == 2 && reasons[0] == reasons[1], "{scenario}: {}", done.stdout);
    words.iter().for_each(|word| assert!(reasons[0].contains(word), "{scenario}: {word:?} is not in {}", reasons[0]));
    let newest = snapshots(dir.path()).first().and_then(|folder| snapshot::step_of(folder));
    assert_eq!(newest, last, "{scenario}: a snapshot of ranks that differ");
}

#[track_caller]
fn trained(scenario: &str) {
    let done = model(scenario, tempdir().unwrap().path()).succeeds();
    assert_eq!(done.stdout.matches(" trained").count(), 2, "{scenario}: {}", done.stdout);
}

/// PyTorch says so one step later, in Python's terms and without names:
/// <https://github.com/pytorch/pytorch/issues/57473>.
#[test]
fn parameters_that_a_loss_skips_are_named_before_anything_is_saved() {
    let words =
        ["does not depend on first.bias, first.weight,", "gradients were not averaged", "`find_unused_parameters`"];
    refused("skipped", &words, Some(2));
    refused("skipped-static-graph", &words, Some(2));
    refused("skipped-by-plain-backward", &words, Some(2));
    refused("no-parameter", &["first.bias, first.weight, second.bias, second.weight"], Some(2));
    trained("skipped-find-unused");
}

#[test]
fn rank_that_skips_a_parameter_is_the_cause() {
    let dir = tempdir().unwrap();
    let dir_name = dir.path().to_str().unwrap();
    Ddp::worker("model", &["--nproc", "2", "--max-restarts", "0"], &["skipped-by-rank-1", dir_name])
        .run()
        .ends_with(1)
        .says(&["rank 1", "does not depend on first.bias, first.weight", "`find_unused_parameters`"])
        .leaves_no_process();
    assert_eq!(snapshots(dir.path()).len(), 2);
}

/// <https://github.com/pytorch/pytorch/issues/12603>, <https://github.com/pytorch/pytorch/issues/104336>
#[test]
fn parameters_added_after_ddp_are_named() {
    let words = ["changed after `Ddp::new`: third.bias, third.weight were added", "gradients would not be averaged"];
    refused("added", &words, None);
    refused("added-in-forward", &words, None);
    refused("unfrozen", &["first.bias, first.weight were unfrozen"], None);
    refused("frozen", &["first.bias was frozen"], Some(1));
    trained("frozen-find-unused");
    let words = ["first.bias, first.weight, second.bias, second.weight were converted to another dtype or device"];
    refused("converted", &words, Some(1));
    refused("converted-and-back", &words, Some(1));
}

#[test]
fn loss_that_is_not_of_a_forward_pass_is_refused() {
    let words = ["the gradients of this loss would not be averaged: run each loss through Ddp::forward"];
    refused("no-forward", &words, None);
    refused("second-loss", &words, None);
    refused("second-loss-by-plain-backward", &words, None);
    let stderr = model("without-ddp", tempdir().unwrap().path()).succeeds().stderr;
    let words = "warning: a gradient of first.bias was computed without Ddp::forward and is not averaged";
    assert_eq!(stderr.matches(words).count(), 1, "{stderr}");
}

#[test]
fn tensors_that_cannot_be_sent_are_named_at_the_start() {
    for (scenario, form) in [("Int16", "Int16"), ("sparse", "sparse"), ("quantized", "quantized")] {
        refused(scenario, &["can't be sent between ranks by Gloo", &format!("mask ({form})")], None);
    }
    refused("ComplexFloat", &["can't be saved in a snapshot's safetensors file", "mask (ComplexFloat)"], None);
    trained("Bool");
    trained("Int8");
}

/// A `HashMap` has a different order in each process, and names came from that order. Files are like those of
/// <https://github.com/safetensors/safetensors/pull/236>.
#[test]
fn tied_weights_have_one_name_on_all_ranks_and_in_all_runs() {
    let dir = tempdir().unwrap();
    for start in 0..4 {
        let done = model("tied", dir.path()).succeeds();
        for rank in 0..2 {
            let line = format!("rank {rank} resumed at {} with head inner.bias inner.weight", 3 * start);
            assert!(done.stdout.contains(&line), "{line:?} is not in\n{}\n{}", done.stdout, done.stderr);
        }
        assert_eq!(done.stdout.matches(" trained").count(), 2, "{}", done.stdout);
    }
    let shown = command(dir.path(), &["show", "."]).succeeds().stdout;
    for words in
        ["model: 3 tensors", "out: the same tensor as head", "wte: the same tensor as head", "step of 3 parameters"]
    {
        assert!(shown.contains(words), "{words:?} is not in\n{shown}");
    }
}

fn command(dir: &Path, args: &[&str]) -> Done {
    Ddp::new(["snapshot"].iter().chain(args)).dir(dir).run()
}

/// A snapshot of tied weights, with its optimizer's states.
fn tied() -> TempDir {
    let dir = tempdir().unwrap();
    model("tied", dir.path()).succeeds();
    dir
}

/// Checks that a run can begin with the model in `file`.
fn begins_with(file: &Path) {
    let dir = tempdir().unwrap();
    command(file.parent().unwrap(), &["import", file.to_str().unwrap(), "--to", dir.path().to_str().unwrap()])
        .succeeds();
    let done = model("tied", dir.path()).succeeds();
    assert_eq!(done.stdout.matches(" trained").count(), 2, "{}", done.stdout);
}

#[test]
fn tied_weights_keep_their_names_from_snapshot_to_file_and_back() {
    let dir = tied();
    for ending in ["safetensors", "pt"] {
        command(dir.path(), &["export", ".", "--to", &format!("model.{ending}")]).succeeds();
    }
    let exported = dir.path().join("model.safetensors");
    begins_with(&exported);
    // The names of the tied weights swapped: the files do not differ.
    fs::write(dir.path().join("names.toml"), "head = \"wte\"\nwte = \"head\"\n").unwrap();
    command(dir.path(), &["export", ".", "--to", "other.safetensors", "--names", "names.toml"]).succeeds();
    for (a, b) in [
        ("model.safetensors", "other.safetensors"),
        ("other.safetensors", "model.safetensors"),
        ("step-00000003", "model.safetensors"),
    ] {
        let compared = command(dir.path(), &["diff", a, b]).succeeds().stdout;
        assert!(compared.contains(", 0 differ"), "{a} {b}: {compared}");
    }
    begins_with(&dir.path().join("other.safetensors"));
    // One of three names left.
    fs::write(dir.path().join("names.toml"), "head = \"\"\nwte = \"\"\n").unwrap();
    command(dir.path(), &["export", ".", "--to", "one.safetensors", "--names", "names.toml"]).succeeds();
    begins_with(&dir.path().join("one.safetensors"));
}

/// What PyTorch's own programs read and write.
#[test]
fn tied_weights_match_python() {
    let Some(torch) = CudaTorch::find() else { return };
    let dir = tied();
    for ending in ["safetensors", "pt"] {
        command(dir.path(), &["export", ".", "--to", &format!("model.{ending}")]).succeeds();
    }
    let script = r#"
import sys, torch, safetensors.torch as s
class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.wte = self.head = self.out = torch.nn.Parameter(torch.zeros(5, 3))
        self.inner = torch.nn.Linear(3, 3)
folder = sys.argv[1]
a, b = Model(), Model()
print(s.load_model(a, f"{folder}/model.safetensors"))
state = torch.load(f"{folder}/model.pt", weights_only=True)
assert state["wte"].data_ptr() == state["out"].data_ptr() == state["head"].data_ptr()
print(b.load_state_dict(state))
assert torch.equal(a.wte, b.wte) and torch.equal(a.inner.weight, b.inner.weight) and a.wte.any()
s.save_model(a, f"{folder}/from_python.safetensors")
s.save_file({k: v.clone() for k, v in a.state_dict().items()}, f"{folder}/copies.safetensors")
"#;
    stdout_of(torch.python().args(["-c", script]).arg(dir.path()));
    begins_with(&dir.path().join("from_python.safetensors"));
    begins_with(&dir.path().join("copies.safetensors"));
    for file in ["from_python.safetensors", "copies.safetensors"] {
        let compared = command(dir.path(), &["diff", "model.safetensors", file]).succeeds().stdout;
        assert!(compared.contains(", 0 differ"), "{file}: {compared}");
    }
}

/// A safetensors file of `Float` zeros, three of each name.
fn zeros(path: &Path, names: &[&str]) {
    let entries = names.iter().enumerate().map(|(i, name)| {
        format!("{name:?}:{{\"dtype\":\"F32\",\"shape\":[3],\"data_offsets\":[{},{}]}}", 12 * i, 12 * (i + 1))
    });
    let header = format!("{{{}}}", entries.collect::<Vec<_>>().join(","));
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.resize(bytes.len() + 12 * names.len(), 0);
    fs::write(path, bytes).unwrap();
}

#[test]
fn import_of_a_wrong_file_is_explained() {
    let dir = tempdir().unwrap();
    let import = |file: &str| command(dir.path(), &["import", file, "--to", "snapshots"]);
    for (content, words) in [
        (
            "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a21\nsize 548105171\n",
            ["Git LFS pointer", "git lfs pull"],
        ),
        (
            r#"{"metadata": {}, "weight_map": {"a": "m-1.safetensors", "b": "m-2.safetensors"}}"#,
            ["in 2 files", "save_file"],
        ),
        ("PK\u{3}\u{4}", ["torch.save", "save_file"]),
        ("<!DOCTYPE html>", ["a web page", "download"]),
        ("", ["it is empty", "save_file"]),
    ] {
        fs::write(dir.path().join("model.safetensors"), content).unwrap();
        import("model.safetensors").ends_with(2).says(&words).says(&["hint: "]);
    }
    for (names, words) in [
        (&["", "a"][..], "empty name"),
        (&[], "no tensor to import"),
        (&["bn.num_batches_tracked"], "BatchNorm's counters"),
    ] {
        zeros(&dir.path().join("model.safetensors"), names);
        import("model.safetensors").ends_with(2).says(&["can't import model.safetensors: ", words, "hint: "]);
    }
    import(".").ends_with(2).says(&["can't import .: it is a directory", "give the file: ./model.safetensors"]);
    let pipe = dir.path().join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    import("pipe").ends_with(2).says(&["it is a FIFO, not a regular file"]);
    assert!(!dir.path().join("snapshots").exists(), "nothing was imported");

    zeros(&dir.path().join("model-00001-of-00002.safetensors"), &["bn.weight", "bn.num_batches_tracked"]);
    let shard = "model-00001-of-00002.safetensors";
    let done = import(shard).succeeds().says(&["one of 2 files", "bn.num_batches_tracked", "1 tensor of"]);
    assert_eq!(done.stdout.trim(), "snapshots/step-00000000");
    // They can be imported if they are named.
    fs::write(dir.path().join("names.json"), r#"{"*.num_batches_tracked": "*.num_batches_tracked"}"#).unwrap();
    command(dir.path(), &["import", shard, "--to", "all", "--names", "names.json"]).succeeds().says(&["2 tensors of"]);
}

#[test]
fn snapshot_folder_that_is_not_writable_is_reported_before_the_first_step() {
    // Not even root can create a folder there.
    for scenario in ["Bool", "trainer"] {
        let done = model(scenario, Path::new("/proc/self/task")).succeeds();
        let warnings = done.stdout.matches("can't save snapshots in /proc/self/task").count();
        assert!(warnings == 2 && !done.stdout.contains("begins at step"), "{}", done.stdout);
    }
}

#[test]
fn run_without_trainable_parameters_is_an_error() {
    let dir = tempdir().unwrap();
    let linear = |epochs: &str| {
        let args = ["run", "--nproc", "2", "--", "--total-epochs", epochs, "--snapshots", dir.path().to_str().unwrap()];
        Ddp::in_linear(args).run().succeeds()
    };
    assert!(!linear("1").stdout.contains("nothing to train"));
    let done = linear("1");
    assert!(done.stdout.contains("nothing to train: 1 of 1 epochs are done"), "{}", done.stdout);
}

#[test]
fn trainer_without_trainable_parameters_is_an_error() {
    let (dir, other) = (tempdir().unwrap(), tempdir().unwrap());
    let printed = |scenario: &str, dir: &Path| {
        let done = model(scenario, dir).succeeds();
        done.stdout + &done.stderr
    };
    let first = printed("trainer", dir.path());
    assert!(first.contains("epoch   2") && !first.contains("nothing to train"), "{first}");
    let again = printed("trainer", dir.path());
    let words = "nothing to train: the run is finished, with 2 of 2 epochs done at step 4";
    assert_eq!(again.matches(words).count(), 1, "{again}");
    let empty = printed("trainer-empty", other.path());
    let words = "warning: an epoch has no batches: 3 samples for 2 ranks, in full batches of 4";
    assert_eq!(empty.matches(words).count(), 1, "{empty}");
}
