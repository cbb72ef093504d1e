//! What a file is that should be a safetensors file and is none: the usual mix-ups.

use serde_json::Value;

/// What a file is instead, and what to do.
pub(super) struct Foreign {
    pub(super) problem: String,
    pub(super) help: Option<String>,
}

/// A few first bytes, what files begin with them, and what to do.
const BEGINNINGS: [(&[u8], &str, Option<&str>); 8] = [
    (b"PK\x03\x04", TORCH, Some(CONVERT)),
    (b"\x80\x02", TORCH, Some(CONVERT)),
    (b"GGUF", "it is a GGUF file, of llama.cpp", None),
    (b"\x89HDF", "it is an HDF5 file", None),
    (b"\x93NUMPY", "it is a NumPy file", None),
    (b"\x1f\x8b", "it is compressed", Some("unpack it with gunzip")),
    (b"<!DOCTYPE", PAGE, Some(DOWNLOAD)),
    (b"<html", PAGE, Some(DOWNLOAD)),
];
const TORCH: &str = "it is a file of `torch.save`";
const CONVERT: &str = "convert it in Python: `safetensors.torch.save_file(torch.load(PATH, weights_only=True), \
                       \"model.safetensors\")`";
const PAGE: &str = "it is a web page";
const DOWNLOAD: &str = "download the file itself, not the page that shows it";
const EMPTY: &str = "it is empty";
const JSON: &str = "it is a JSON file";

/// How a pointer of Git LFS begins (<https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md>).
const LFS: &[u8] = b"version https://git-lfs.github.com/spec/";

pub(super) fn explain(bytes: &[u8]) -> Option<Foreign> {
    let is = |problem: &str, help: Option<&str>| Foreign { problem: problem.into(), help: help.map(Into::into) };
    if bytes.is_empty() {
        return Some(is(EMPTY, None));
    }
    if bytes.starts_with(LFS) {
        let pointer = String::from_utf8_lossy(&bytes[..bytes.len().min(1024)]);
        let size = pointer.lines().find_map(|line| line.strip_prefix("size ")?.parse::<u64>().ok());
        let size = size.map_or_else(String::new, |size| format!(" of {size} bytes"));
        let problem = format!("it is a Git LFS pointer, not the file{size} that it stands for");
        return Some(is(&problem, Some("run `git lfs pull` where the file comes from")));
    }
    let begins = |beginning: &[u8]| bytes.get(..beginning.len()).is_some_and(|b| b.eq_ignore_ascii_case(beginning));
    if let Some((_, problem, help)) = BEGINNINGS.iter().find(|(beginning, ..)| begins(beginning)) {
        return Some(is(problem, *help));
    }
    let json: Value = bytes.trim_ascii_start().starts_with(b"{").then(|| serde_json::from_slice(bytes).ok())??;
    // What Hugging Face's programs write beside a model that they split (`model.safetensors.index.json`).
    let Some(map) = json.get("weight_map").and_then(Value::as_object) else { return Some(is(JSON, None)) };
    let mut shards: Vec<&str> = map.values().filter_map(Value::as_str).collect();
    shards.sort_unstable();
    shards.dedup();
    let (first, more) = (shards.first().copied().unwrap_or("none"), if shards.len() > 1 { ", …" } else { "" });
    let problem = format!("it is the index of a model in {} files ({first}{more}), without a tensor", shards.len());
    let help = "join the files into one in Python: `safetensors.torch.load_file` for each, and one `save_file` for all";
    Some(is(&problem, Some(help)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usual_mix_ups_are_explained() {
        for (content, words) in [
            (&b""[..], "it is empty"),
            (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 548105171\n", "of 548105171 bytes"),
            (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\n", "Git LFS"),
            (b"{\"weight_map\": {\"a\": \"m-1-of-2\", \"b\": \"m-2-of-2\"}}", "in 2 files (m-1-of-2, …)"),
            (b" {\"architectures\": []}", "it is a JSON file"),
            (b"PK\x03\x04....", "torch.save"),
            (b"\x80\x02}q\0", "torch.save"),
            (b"GGUF\x03", "GGUF"),
            (b"<!doctype html>", "web page"),
        ] {
            let explained = explain(content).map(|foreign| foreign.problem).unwrap_or_default();
            assert!(explained.contains(words), "{words:?} is not in {explained:?}");
        }
        assert!(explain(b"short").is_none());
        assert!(explain(b"{ not JSON").is_none());
    }
}
