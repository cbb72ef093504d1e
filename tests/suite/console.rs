//! The guide shows commands and their output in blocks marked `console`. They are run here, so that none goes stale.

use std::fs;

use ddp_tests::{Ddp, repo};

/// A command in a guide, and the lines below it.
#[derive(Debug)]
pub struct Shown {
    pub command: Vec<String>,
    pub output: String,
}

/// The commands in the guide, in order.
pub fn shown(guide: &str) -> Vec<Shown> {
    let text = fs::read_to_string(repo().join("docs").join(guide)).unwrap();
    let mut found: Vec<Shown> = Vec::new();
    let mut inside = false;
    for line in text.lines() {
        match (line, line.strip_prefix("$ cargo ddp ")) {
            ("```console", _) => inside = true,
            ("```", _) => inside = false,
            (_, Some(words)) if inside => {
                found.push(Shown { command: words.split(' ').map(str::to_owned).collect(), output: String::new() });
            }
            (line, None) if inside => {
                let last = found.last_mut().expect("a command comes first");
                last.output += &format!("{line}\n");
            }
            _ => {}
        }
    }
    assert!(!found.is_empty(), "{guide} shows no command");
    found
}

/// The output of a command: stdout, then stderr.
pub fn printed(ddp: Ddp) -> String {
    let done = ddp.run();
    done.stdout + &done.stderr
}

/// Numbers of more than four decimals become `N`: they differ between processors.
pub fn without_long_numbers(text: &str) -> String {
    let is_number = |word: &str| {
        word.split_once('.').is_some_and(|(_, decimals)| decimals.len() > 4) && word.parse::<f64>().is_ok()
    };
    let mut result = String::new();
    let mut word = String::new();
    for c in text.chars().chain(['\0']) {
        if c.is_ascii_alphanumeric() || ".-".contains(c) {
            word.push(c);
            continue;
        }
        result += if is_number(&word) { "N" } else { &word };
        word.clear();
        result.push(c);
    }
    result.trim_end_matches('\0').to_owned()
}
