//! Hostile content for every parser of files that others may have written: nothing panics, hangs, or is taken for valid when it
//! is not. Messages of other nodes have their own test (`launch/nodes/fuzz.rs`), and so has launch.json
//! (`vscode/properties.rs`).
//!
//! `DDP_FUZZ_CASES=1000000 cargo ddp exec -- cargo test --release -p cargo-ddp fuzz` tries more.

use std::fs;
use std::path::Path;

#[cfg(feature = "plot")]
use ddp_contract::metrics::Curves;
use ddp_contract::snapshot::{self as format, MODEL};
use ddp_contract::{ErrorFile, Event};
use tempfile::tempdir;

#[cfg(feature = "plot")]
use crate::inspect::plots::{Figure, Options, Run};
use crate::inspect::snapshots::{self as snapshot, Goal, Names, Retention, TensorFile};
use crate::launch::Store;

/// A xorshift generator: every run tries the same inputs, unless DDP_FUZZ_SEED is another number than 0.
pub(crate) struct Random(u64);

impl Random {
    /// A test's own sequence.
    pub(crate) fn new(test: u64) -> Self {
        let seed = std::env::var("DDP_FUZZ_SEED").map_or(0, |text| text.parse().expect("DDP_FUZZ_SEED is a number"));
        Self((test ^ u64::wrapping_mul(seed, 0x9e37_79b9_7f4a_7c15)).max(1))
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound as u64).unwrap()
    }

    pub(crate) fn pick<'a, T: ?Sized>(&mut self, list: &[&'a T]) -> &'a T {
        list[self.below(list.len())]
    }

    /// `seed` with some of its bytes, numbers and values changed.
    pub(crate) fn mutated(&mut self, seed: &[u8]) -> Vec<u8> {
        let mut text = seed.to_owned();
        for _ in 0..1 + self.below(3) {
            let at = self.below(text.len().max(1));
            match self.below(8) {
                0 if !text.is_empty() => text[at] ^= 1 << self.below(8),
                1 => text.truncate(at),
                2 => text.insert(at.min(text.len()), self.below(256) as u8),
                3 => {
                    let copy = text[at.min(text.len())..].to_owned();
                    text.extend(copy.into_iter().take(200));
                }
                4 => {
                    let nested = self.pick(&["[[[[[[[[", "{\"a\":{\"a\":", "null", "\"\\u001b[2J\"", "\u{202e}"]);
                    text.splice(at.min(text.len())..at.min(text.len()), nested.bytes());
                }
                // A number becomes one that is at some type's end.
                _ => {
                    let digits: Vec<usize> = (0..text.len()).filter(|&i| text[i].is_ascii_digit()).collect();
                    if let Some(&start) = digits.get(self.below(digits.len().max(1))) {
                        let end = (start..text.len()).find(|&i| !text[i].is_ascii_digit()).unwrap_or(text.len());
                        let number = self.pick(&[
                            "0",
                            "-1",
                            "1",
                            "3",
                            "4",
                            "5",
                            "64",
                            "65",
                            "255",
                            "4096",
                            "4097",
                            "65536",
                            "2147483647",
                            "-2147483648",
                            "4294967295",
                            "9223372036854775807",
                            "9223372036854775808",
                            "18446744073709551615",
                            "18446744073709551616",
                            "1e308",
                            "1e19",
                            "0.5",
                            "-0",
                        ]);
                        text.splice(start..end, number.bytes());
                    }
                }
            }
        }
        text
    }
}

/// How many inputs each test tries.
pub(crate) fn cases(default: u32) -> u32 {
    std::env::var("DDP_FUZZ_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(default)
}

/// A model of two tensors, as safetensors has it.
fn model() -> Vec<u8> {
    let header = r#"{"__metadata__":{"format":"pt"},"a.bias":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"a.weight":{"dtype":"F32","shape":[2,2],"data_offsets":[8,24]}}"#;
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(header.as_bytes());
    bytes.extend((0..6).flat_map(|i| (i as f32).to_le_bytes()));
    bytes
}

fn manifest(model: &[u8]) -> Vec<u8> {
    let crc = crc32c::crc32c(model);
    let text = format!(
        r#"{{
  "format_version": 1,
  "epoch": 2,
  "step": 1,
  "world_size": 2,
  "samples_in_epoch": 7,
  "metric": 0.5,
  "states": {{
    "value.best": 0.1
  }},
  "files": {{
    "model.safetensors": {{
      "bytes": {},
      "crc32c": "{crc:08x}"
    }}
  }}"#,
        model.len()
    );
    sealed(text.into_bytes())
}

/// With the checksum that belongs to it, so that what is behind the check is reached.
fn sealed(mut body: Vec<u8>) -> Vec<u8> {
    let crc = crc32c::crc32c(&body);
    body.extend_from_slice(format!(",\n  \"crc32c\": \"{crc:08x}\"\n}}\n").as_bytes());
    body
}

fn unsealed(manifest: &[u8]) -> &[u8] {
    let seal = b",\n  \"crc32c\": \"";
    let at = manifest.windows(seal.len()).rposition(|window| window == seal).unwrap();
    &manifest[..at]
}

fn use_snapshots(dir: &Path) {
    for listed in snapshot::list(dir).unwrap() {
        if let Ok(file) = TensorFile::open(&listed.folder.join(MODEL)) {
            let _ = (file.infos(), file.aliases(), file.sorted().map(|tensors| tensors.len()));
            let _ = snapshot::compare(&file, &file);
        }
    }
    let _ = snapshot::newest_valid(dir);
    let _ = snapshot::prune(dir, Retention { last: 1, best: Some((1, Goal::Minimize)), every: Some(3) }, true);
}

#[test]
fn fuzzed_snapshots_are_damaged_or_unchanged() {
    let dir = tempdir().unwrap();
    let folder = dir.path().join("step-00000001");
    fs::create_dir(&folder).unwrap();
    let (model, mut random) = (model(), Random::new(0x5eed_0001));
    let manifest = manifest(&model);
    for case in 0..cases(3000) {
        let (mut bytes, mut text) = (model.clone(), manifest.clone());
        match case % 3 {
            0 => bytes = random.mutated(&model),
            1 => text = random.mutated(&manifest),
            _ => text = sealed(random.mutated(unsealed(&manifest))),
        }
        fs::write(folder.join(MODEL), &bytes).unwrap();
        fs::write(folder.join(format::MANIFEST), &text).unwrap();
        let verdict = format::verify(&folder);
        let is_complete = bytes == model && (text == manifest || case % 3 == 2);
        assert!(is_complete || verdict.is_err(), "case {case} is valid: {}", String::from_utf8_lossy(&text));
        use_snapshots(dir.path());
    }
}

#[test]
fn fuzzed_safetensors_files_are_imported_or_refused() {
    let dir = tempdir().unwrap();
    let (file, into) = (dir.path().join("model.safetensors"), dir.path().join("into"));
    let (model, mut random) = (model(), Random::new(0x5eed_0002));
    for _ in 0..cases(1500) {
        fs::write(&file, random.mutated(&model)).unwrap();
        let _ = snapshot::import(&file, &Names::default(), &into);
        let _ = fs::remove_dir_all(&into);
    }
}

#[test]
fn fuzzed_events_are_events_or_skipped() {
    let seeds: [&[u8]; 4] = [
        br#"{"event":"started"}"#,
        br#"{"event":"resumed","snapshot":"s/step-00000064","epoch":2,"step":64}"#,
        br#"{"event":"step","epoch":0,"step":1,"loss":0.5,"steps":64,"samples":8,"learning_rate":0.1,"grad_norm":1.5,"memory":1}"#,
        br#"{"event":"snapshot_saved","snapshot":"s/step-00000064","epoch":2,"step":64,"metric":0.5,"lower_is_better":true}"#,
    ];
    let mut random = Random::new(0x5eed_0003);
    for _ in 0..cases(50_000) {
        let seed = random.pick(&seeds);
        let text = random.mutated(seed);
        if let Ok(event) = serde_json::from_slice::<Event>(&text) {
            // What was understood can be passed on, to a file or to another node.
            assert!(serde_json::to_vec(&event).is_ok(), "{}", String::from_utf8_lossy(&text));
        }
    }
}

#[test]
#[cfg(feature = "plot")]
fn fuzzed_metrics_are_drawn_or_refused() {
    let seed = br#"{"event":"start","format":1,"step":0,"attempt":0,"world_size":2,"time":0.25}
{"event":"scalar","name":"train/loss","step":1,"value":4.0,"time":1.5}
{"event":"scalar","name":"train/loss","step":2,"value":"NaN","time":1.5}
{"event":"scalar","name":"train/loss","step":3,"value":0.5,"time":1.5}
{"event":"start","format":1,"step":2,"attempt":1,"world_size":2,"time":0.5}
{"event":"scalar","name":"train/loss","step":4,"value":1e-30,"time":1.5}
{"event":"hparams","values":{"lr":0.1}}
{"event":"end","time":2.0}
"#;
    let unchanged = Curves::parse(seed).unwrap();
    assert_eq!(unchanged.scalars["train/loss"].len(), 3, "the seed is a file of metrics");
    let dir = tempdir().unwrap();
    let picture = crate::os::output::Output::open(&dir.path().join("plot.svg")).unwrap();
    let mut random = Random::new(0x5eed_0004);
    let mut drawn = 0;
    for case in 0..cases(5000) {
        let Ok(curves) = Curves::parse(&random.mutated(seed)) else { continue };
        let runs = [Run { name: "7".into(), curves }];
        let options = Options { metrics: vec![], smooth: (case % 2 == 0).then_some(0.6), log: case % 3 == 0 };
        let Ok(figure) = Figure::new(&runs, &options) else { continue };
        // Drawing takes most of the time.
        if case % 10 == 0 {
            crate::inspect::plots::write(&figure, &picture, crate::inspect::plots::Format::Svg).unwrap();
            drawn += 1;
        }
    }
    assert!(drawn > 0, "some files are still files of metrics");
}

#[test]
fn fuzzed_run_files_are_listed_or_skipped() {
    let run =
        br#"{"run":"run-1-7","pid":7,"started":1700000000,"nproc":2,"gpus":["0","1"],"command":["train","--lr","0.1"],
        "folder":"/tmp","run_dir":"/tmp/1","first_rank":0,"workers":[8,9],"attempt":0,"origin":null}"#;
    let report = br#"{"outcome":"failed","exit_code":1,"run":"run-1-7","run_dir":"/tmp/1","nproc":2,"world_size":2,
        "command":["train"],"started":1.7e9,"ended":1.7e9,"last_step":7,"snapshot":{"snapshot":"s","step":7,"metric":null},
        "restarts":[{"cause":null,"snapshot":null,"steps_lost":1,"delay_seconds":0.5}],
        "cause":{"rank":1,"pid":9,"attempt":0,"exit_code":1,"signal":null,"message":"no","stderr":["a"],"consequences":[]}}"#;
    let marker = br#"{"version":1,"host":"a","boot_id":"b","pid_namespace":3,"pid":7,"start_time":1}"#;
    let marker_0 = br#"{"host":"a","boot_id":"b","pid_namespace":3,"pid":7,"start_time":1}"#;
    let job = include_bytes!("../../ddp-runtime/contract/src/job-1.json");
    let present: [(&str, &[u8]); 2] = [("job.json", job), (".cargo-ddp-run", marker)];
    let previous: [(&str, &[u8]); 3] = [("run.json", run), ("report.json", report), (".cargo-ddp-run", marker_0)];
    for files in [&present[..], &previous[..]] {
        let dir = tempdir().unwrap();
        let folder = dir.path().join("1");
        fs::create_dir(&folder).unwrap();
        let store = Store::only(dir.path().to_owned());
        let mut random = Random::new(0x5eed_0005);
        for _ in 0..cases(3000) {
            let odd = random.below(files.len());
            for (number, (name, seed)) in files.iter().enumerate() {
                let text = if number == odd { random.mutated(seed) } else { seed.to_vec() };
                fs::write(folder.join(name), text).unwrap();
            }
            assert!(store.history().len() <= 1);
        }
    }
}

#[test]
fn fuzzed_error_files_and_name_tables_are_read_or_refused() {
    let error = br#"{"message":{"message":"it failed","extraInfo":{"py_callstack":"Traceback","timestamp":"17","rank":1,"step":7,"location":"a.rs:1:1"}}}"#;
    let names = br#"{"model.*":"*","head.weight":"out.weight"}"#;
    let dir = tempdir().unwrap();
    let (error_file, table) = (dir.path().join("error.json"), dir.path().join("names.json"));
    let mut random = Random::new(0x5eed_0006);
    for _ in 0..cases(5000) {
        fs::write(&error_file, random.mutated(error)).unwrap();
        let _ = ErrorFile::read(&error_file).map(|read| (read.message().len(), read.step(), read.backtrace().len()));
        fs::write(&table, random.mutated(names)).unwrap();
        let _ = Names::read(&table).map(|names| names.apply(["model.a.weight", "head.weight"]));
    }
}
