use std::collections::BTreeMap;

use super::exec::environment;
use super::table::print_json;
use crate::cli::Env;
use crate::{Result, Ui, exit};

/// `cargo ddp env`: what `exec` sets.
pub(super) fn env(args: &Env, ui: &Ui) -> Result<u8> {
    let variables = environment(ui)?.map(|(name, value)| (name, value.to_string_lossy().into_owned()));
    if args.json {
        print_json(&BTreeMap::from(variables))?;
    } else {
        for (name, value) in variables {
            println!("export {name}={}", quoted(&value));
        }
    }
    Ok(exit::SUCCESS)
}

/// As one word of a POSIX shell.
fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:@%".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_reads_what_was_meant() {
        for text in ["/plain/path-2.0", "/with space", "it's $HOME `x` \"y\"", ""] {
            let script = format!("printf %s {}", quoted(text));
            let output = std::process::Command::new("sh").args(["-c", &script]).output().unwrap();
            assert_eq!(String::from_utf8(output.stdout).unwrap(), text);
        }
    }
}
