//! Snapshots on disk: readable by other programs, and never incomplete.

use std::fs;
use std::path::Path;

use ddp_contract::snapshot;
use ddp_tests::{CudaTorch, Ddp, fitted, snapshots, stdout_of};
use tempfile::tempdir;

fn train(dir: &Path, epochs: &str) -> ddp_tests::Done {
    let args = ["run", "--nproc", "2", "--max-restarts", "0", "--", "--save-every", "1", "--total-epochs", epochs];
    Ddp::in_linear(args.iter().copied().chain(["--snapshots", dir.to_str().unwrap()])).run()
}

#[test]
fn snapshot_model_is_read_by_pythons_safetensors() {
    let Some(torch) = CudaTorch::find() else { return };
    let dir = tempdir().unwrap();
    train(dir.path(), "1").succeeds();
    let script = "import sys, safetensors.torch as s\nfor k, v in sorted(s.load_file(sys.argv[1]).items()): print(k, tuple(v.shape), v.dtype)";
    let model = snapshots(dir.path())[0].join("model.safetensors");
    let printed = stdout_of(torch.python().arg("-c").arg(script).arg(model));
    assert_eq!(printed, "bias (1,) torch.float32\nweight (1, 2) torch.float32\n");
}

#[test]
fn snapshot_manifest_lists_its_contents() {
    let dir = tempdir().unwrap();
    train(dir.path(), "2").succeeds();
    let found = snapshots(dir.path());
    assert_eq!(found.len(), 2);
    let manifest = snapshot::verify(&found[0]).unwrap();
    assert_eq!((manifest.epoch, manifest.step, manifest.world_size, manifest.format_version), (2, 64, 2, 1));
    assert_eq!(
        manifest.files.keys().collect::<Vec<_>>(),
        ["model.safetensors", "optimizer.safetensors", "rng.safetensors"]
    );
    // A plain safetensors reader, not ours.
    let bytes = fs::read(found[0].join("model.safetensors")).unwrap();
    let model = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(model.tensor("weight").unwrap().shape(), [1, 2]);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2, "nothing but snapshots is left");
}

#[test]
fn damaged_snapshot_is_skipped_with_a_warning() {
    let (dir, undisturbed) = (tempdir().unwrap(), tempdir().unwrap());
    let expected = train(undisturbed.path(), "4").succeeds();
    train(dir.path(), "3").succeeds();
    let newest = snapshots(dir.path())[0].clone();
    let model = newest.join("model.safetensors");
    let mut bytes = fs::read(&model).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&model, bytes).unwrap();
    // Leftovers of a writer that was killed.
    fs::create_dir(dir.path().join(".step-00000128.partial")).unwrap();

    let done = train(dir.path(), "4").succeeds();
    done_says(&done, "warning: skipping snapshot ");
    done_says(&done, ": model.safetensors: checksum mismatch");
    assert!(done.stdout.contains("resuming from epoch 2 of 4"), "{}", done.stdout);
    assert_eq!(fitted(&done.stdout), fitted(&expected.stdout));
    assert!(snapshots(dir.path()).iter().all(|folder| snapshot::verify(folder).is_ok()), "the damaged one is replaced");
    assert!(!dir.path().join(".step-00000128.partial").exists());
}

#[test]
fn truncated_and_newer_snapshots_are_named_on_all_ranks() {
    let dir = tempdir().unwrap();
    train(dir.path(), "1").succeeds();
    let only = snapshots(dir.path())[0].clone();
    let manifest = only.join("state.json");
    let text = fs::read_to_string(&manifest).unwrap();
    fs::write(&manifest, text.replace("\"format_version\": 1", "\"format_version\": 2")).unwrap();
    let done = train(dir.path(), "2").ends_with(1).leaves_no_process();
    done_says(&done, "unsupported format version 2: this program reads up to version 1");
    fs::write(&manifest, text.replace("\"step\": 32", "\"step\": 33")).unwrap();
    let done = train(dir.path(), "2").ends_with(1).leaves_no_process();
    done_says(&done, "state.json: checksum mismatch");
    fs::write(&manifest, &text[..text.len() / 2]).unwrap();
    let done = train(dir.path(), "2").ends_with(1).leaves_no_process();
    done_says(&done, "can't read state.json: ");
    assert!(only.exists(), "nothing is removed");
}

fn done_says(done: &ddp_tests::Done, words: &str) {
    assert!(done.stderr.contains(words), "{words:?} is not in:\n{}", done.stderr);
}
