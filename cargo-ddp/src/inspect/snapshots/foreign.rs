//! What a file is that should be a safetensors file and is none: the usual mix-ups.

use serde_json::Value;

/// What a file is instead, and what to do.
pub(super) struct Foreign {
    pub(super) problem: String,
    pub(super) help: Option<String>,
}

/// A few first bytes, what files begin with them, and what to do.
const BEGINNINGS: [(&[u8], &str, Option<&str>); 10] = [
    (b"PK\x03\x04", TORCH, Some(CONVERT)),
    // Pickles, by their protocol. PyTorch's safe reader knows only protocol 2, its default.
    (b"\x80\x02", TORCH, Some(CONVERT)),
    (b"\x80\x03", PICKLE, Some(CONVERT_TRUSTED)),
    (b"\x80\x04", PICKLE, Some(CONVERT_TRUSTED)),
    (b"\x80\x05", PICKLE, Some(CONVERT_TRUSTED)),
    (b"GGUF", "it is a GGUF file, of llama.cpp", None),
    (b"\x89HDF", "it is an HDF5 file", None),
    (b"\x93NUMPY", "it is a NumPy file", None),
    (b"\x1f\x8b", "it is compressed", Some("unpack it with gunzip")),
    (b"\x28\xb5\x2f\xfd", "it is compressed", Some("unpack it with unzstd")),
];
/// The same of text, after a byte order mark and blank lines.
const TEXTS: [(&[u8], &str, Option<&str>); 5] = [
    (b"<!DOCTYPE", PAGE, Some(DOWNLOAD)),
    (b"<html", PAGE, Some(DOWNLOAD)),
    (b"<head", PAGE, Some(DOWNLOAD)),
    (b"<?xml", XML, Some(READ)),
    (b"<Error", XML, Some(READ)),
];
const TORCH: &str = "it is a `torch.save` file";
const CONVERT: &str = "convert it in Python: `safetensors.torch.save_file(torch.load(PATH, weights_only=True), \
                       \"model.safetensors\")`";
const PICKLE: &str = "it is a pickle of `torch.save` or another program";
const CONVERT_TRUSTED: &str = "if you trust it (a pickle may run code), convert it in Python: \
                               `safetensors.torch.save_file(torch.load(PATH, weights_only=False), \"model.safetensors\")`";
const PAGE: &str = "it is a web page";
const DOWNLOAD: &str = "download the file itself, not the page that shows it";
const XML: &str = "it is an XML file, such as servers send instead of a missing file";
const READ: &str = "its text may explain why the download failed; download the file again";
const EMPTY: &str = "it is empty";
const JSON: &str = "it is a JSON file";

/// How to get one file of a model in several.
pub(super) const JOIN: &str =
    "join the files into one in Python: `safetensors.torch.load_file` for each, and one `save_file` for all";
const JOIN_TORCH: &str = "join the files into one in Python: `torch.load(PATH, weights_only=True)` for each, and one \
                          `safetensors.torch.save_file` for all";

/// How a pointer of Git LFS begins, and how older ones did
/// (<https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md>, lfs/pointer.go).
const LFS: [&[u8]; 3] = [
    b"version https://git-lfs.github.com/spec/",
    b"version https://hawser.github.com/spec/",
    b"version http://git-media.io/v/",
];
/// Of a text in UTF-8, as some editors write it.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";
/// What a safetensors file has after the low bytes of its header's length, whatever is wrong with the file.
const HEADER: &[u8] = b"\0\0\0\0{";

pub(super) fn explain(bytes: &[u8]) -> Option<Foreign> {
    let is = |problem: &str, help: Option<&str>| Foreign { problem: problem.into(), help: help.map(Into::into) };
    if bytes.is_empty() {
        return Some(is(EMPTY, None));
    }
    if bytes.get(4..).is_some_and(|rest| rest.starts_with(HEADER)) {
        return None;
    }
    let text = bytes.strip_prefix(BYTE_ORDER_MARK).unwrap_or(bytes).trim_ascii_start();
    if LFS.iter().any(|beginning| text.starts_with(beginning)) {
        let pointer = String::from_utf8_lossy(&text[..text.len().min(1024)]);
        let size = pointer.lines().find_map(|line| line.strip_prefix("size ")?.parse::<u64>().ok());
        let size = size.map_or_else(String::new, |size| format!(" of {size} bytes"));
        let problem = format!("it is a Git LFS pointer, not the file{size} itself");
        return Some(is(&problem, Some("run `git lfs pull` in the repository of the file")));
    }
    let begins = |beginning: &[u8]| text.get(..beginning.len()).is_some_and(|b| b.eq_ignore_ascii_case(beginning));
    let found = BEGINNINGS.iter().find(|(beginning, ..)| bytes.starts_with(beginning));
    if let Some((_, problem, help)) = found.or_else(|| TEXTS.iter().find(|(beginning, ..)| begins(beginning))) {
        return Some(is(problem, *help));
    }
    let json: Value = text.starts_with(b"{").then(|| serde_json::from_slice(text).ok())??;
    // What Hugging Face's programs write next to a model that they split (`model.safetensors.index.json`).
    let Some(map) = json.get("weight_map").and_then(Value::as_object) else { return Some(is(JSON, None)) };
    let mut shards: Vec<&str> = map.values().filter_map(Value::as_str).collect();
    shards.sort_unstable();
    shards.dedup();
    let (first, more) = (shards.first().copied().unwrap_or("none"), if shards.len() > 1 { ", …" } else { "" });
    let problem = format!("it is the index of a model in {} files ({first}{more}), without a tensor", shards.len());
    let help = if shards.iter().any(|shard| shard.ends_with(".bin")) { JOIN_TORCH } else { JOIN };
    Some(is(&problem, Some(help)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_files_are_explained() {
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
            (b"\n\r\n  <html lang=\"en\">", "web page"),
            (b"<?xml version=\"1.0\"?>\n<Error><Code>AccessDenied</Code></Error>", "XML"),
            (
                b"version https://hawser.github.com/spec/v1\noid sha256:4d7a\nsize 12\n",
                "Git LFS pointer, not the file of 12",
            ),
            (b"\xef\xbb\xbfversion https://git-lfs.github.com/spec/v1\noid sha256:4d7a\n", "Git LFS"),
            (b"\xef\xbb\xbf{\"weight_map\": {\"a\": \"m-1-of-2\"}}", "the index of a model"),
            (b"\x80\x03}q\0", "a pickle"),
            (b"\x80\x04\x95\x12\0\0\0\0\0\0\0}\x94.", "a pickle"),
            (b"\x28\xb5\x2f\xfd\x04", "compressed"),
        ] {
            let explained = explain(content).map(|foreign| foreign.problem).unwrap_or_default();
            assert!(explained.contains(words), "{words:?} is not in {explained:?}");
        }
        let help = |content: &[u8]| explain(content).and_then(|foreign| foreign.help).unwrap_or_default();
        assert!(help(b"{\"weight_map\": {\"a\": \"m-1-of-2.bin\"}}").contains("torch.load("));
        assert!(help(b"{\"weight_map\": {\"a\": \"m-1-of-2.safetensors\"}}").contains("load_file"));
        // A damaged safetensors file, whose header is as long as a pickle's first bytes say.
        assert!(explain(b"\x80\x04\0\0\0\0\0\0{\"a\": ").is_none());
        assert!(explain(b"short").is_none());
        assert!(explain(b"{ not JSON").is_none());
    }
}
