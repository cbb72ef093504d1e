//! `DistributedSampler` gives PyTorch's exact indices.

use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};

use ddp_tests::{CudaTorch, repo, worker};
use serde_json::Value;

/// Feeds the settings to a program, and returns its lines.
fn indices(mut program: Command, settings: &str) -> Vec<String> {
    let mut child = program.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let (mut stdin, settings) = (child.stdin.take().unwrap(), settings.to_owned());
    let writer = std::thread::spawn(move || stdin.write_all(settings.as_bytes()).unwrap());
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

fn settings() -> String {
    fs::read_to_string(repo().join("tests/golden/sampler.jsonl")).unwrap()
}

#[test]
fn sampler_indices_of_240_settings_match_the_golden_ones() {
    let settings = settings();
    let ours = indices(Command::new(worker("sampler")), &settings);
    assert_eq!(ours.len(), 240);
    for (line, ours) in settings.lines().zip(&ours) {
        let expected: Value = serde_json::from_str(line).unwrap();
        assert_eq!(u64::from(crc32(ours.as_bytes())), expected["crc32"].as_u64().unwrap(), "{line}");
    }
}

#[test]
fn sampler_indices_match_live_python() {
    let Some(torch) = CudaTorch::find() else { return };
    let settings = settings();
    let mut python = torch.python();
    python.arg(repo().join("tests/golden/sampler.py"));
    let theirs = indices(python, &settings);
    let ours = indices(Command::new(worker("sampler")), &settings);
    for ((line, ours), theirs) in settings.lines().zip(&ours).zip(&theirs) {
        assert_eq!(ours, theirs, "{line}");
    }
}

/// zlib's CRC-32, as Python's `zlib.crc32`.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0xEDB8_8320 } else { crc >> 1 })
    })
}
