//! `target.<triple>.runner` and `target.'cfg(…)'.runner`: the program that cargo starts programs with.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::str::FromStr;

use cargo_platform::{Cfg, Platform};
use toml::{Table, Value};

use super::host::host;
use crate::{Error, Result};

/// A runner in one of cargo's files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Runner {
    /// A triple, or `cfg(…)`.
    key: String,
    /// The program and its first arguments.
    words: Vec<OsString>,
    source: PathBuf,
}

impl Runner {
    /// Those of a file; `base` is what relative paths in it begin at.
    pub(super) fn all(file: &Table, source: &Path, base: &Path) -> Vec<Self> {
        let targets = file.get("target").and_then(Value::as_table).into_iter().flatten();
        let runner = |(key, value): (&String, &Value)| {
            let words: Vec<&str> = match value.get("runner")? {
                Value::String(line) => line.split_whitespace().collect(),
                Value::Array(words) => words.iter().filter_map(Value::as_str).collect(),
                _ => return None,
            };
            Some(Self { key: key.clone(), words: resolved(words, base)?, source: source.to_owned() })
        };
        targets.filter_map(runner).collect()
    }

    /// Whether this is for the same platforms.
    pub(super) fn is_as(&self, other: &Self) -> bool {
        self.key == other.key
    }
}

/// The words; the first is a path if it has a slash, else a name on PATH. Without words, the program has no runner.
fn resolved(words: Vec<&str>, base: &Path) -> Option<Vec<OsString>> {
    let (program, args) = words.split_first()?;
    let program = if program.contains('/') { base.join(program).into_os_string() } else { OsString::from(program) };
    Some(std::iter::once(program).chain(args.iter().map(OsString::from)).collect())
}

/// What cargo, started in `folder`, runs programs for `platform` with (by default, this machine): a program and its first
/// arguments, or nothing.
///
/// # Errors
/// [`Error::BadManifest`] when several apply.
pub(super) fn choose(
    runners: &[Runner],
    platform: Option<&str>,
    folder: &Path,
    variable: impl Fn(&str) -> Option<OsString>,
) -> Result<Vec<OsString>> {
    let Some(triple) = platform.map(str::to_owned).or_else(host) else { return Ok(vec![]) };
    let name = format!("CARGO_TARGET_{}_RUNNER", triple.to_uppercase().replace(['-', '.'], "_"));
    if let Some(value) = variable(&name).filter(|value| !value.is_empty()) {
        let line = value.to_string_lossy();
        return Ok(resolved(line.split_whitespace().collect(), folder).unwrap_or_default());
    }
    if let Some(runner) = runners.iter().find(|runner| runner.key == triple) {
        return Ok(runner.words.clone());
    }
    let conditional: Vec<_> = runners.iter().filter(|runner| runner.key.starts_with("cfg(")).collect();
    if conditional.is_empty() {
        return Ok(vec![]);
    }
    let settings = settings(platform);
    let applies = |runner: &&&Runner| Platform::from_str(&runner.key).is_ok_and(|key| key.matches(&triple, &settings));
    match conditional.iter().filter(applies).collect::<Vec<_>>()[..] {
        [] => Ok(vec![]),
        [one] => Ok(one.words.clone()),
        [one, other, ..] => Err(Error::BadManifest {
            path: other.source.clone(),
            problem: format!("target.'{}'.runner and target.'{}'.runner both apply", one.key, other.key),
        }),
    }
}

/// What `cfg(…)` is true for.
fn settings(platform: Option<&str>) -> Vec<Cfg> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let target = platform.map(|platform| format!("--target={platform}"));
    let output = Command::new(rustc).args(["--print", "cfg"]).args(target).output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    text.lines().filter_map(|line| Cfg::from_str(line).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runner(text: &str, platform: Option<&str>, set: Option<(&str, &str)>) -> Result<Vec<OsString>> {
        let runners = Runner::all(&text.parse().unwrap(), Path::new("/ws/.cargo/config.toml"), Path::new("/ws"));
        let variable = |name: &str| set.filter(|(known, _)| *known == name).map(|(_, value)| value.into());
        choose(&runners, platform, Path::new("/ws/member"), variable)
    }

    #[test]
    fn runner_of_the_platform_is_found() {
        let host = host().unwrap();
        let text = format!("[target.{host}]\nrunner = \"tools/run -v\"\n[target.'cfg(unix)']\nrunner = ['nice']\n");
        assert_eq!(runner(&text, None, None).unwrap(), ["/ws/tools/run", "-v"]);
        assert_eq!(runner(&text, Some(&host), None).unwrap(), ["/ws/tools/run", "-v"]);
        assert_eq!(runner(&text, Some("aarch64-unknown-linux-gnu"), None).unwrap(), ["nice"]);
        assert!(runner(&text, Some("wasm32-unknown-unknown"), None).unwrap().is_empty());
        let name = format!("CARGO_TARGET_{}_RUNNER", host.to_uppercase().replace('-', "_"));
        assert_eq!(runner(&text, None, Some((&name, "./own x"))).unwrap(), ["/ws/member/./own", "x"]);
        assert!(runner("[target.'cfg(windows)']\nrunner = 'wine'\n", None, None).unwrap().is_empty());
        assert!(runner("[target.'cfg(unix)']\nrunner = ''\nlinker = 'x'\n", None, None).unwrap().is_empty());
        let text = "[target.'cfg(unix)']\nrunner = 'a'\n[target.'cfg(target_os = \"linux\")']\nrunner = 'b'\n";
        let err = runner(text, None, None).unwrap_err().to_string();
        assert!(err.contains("target.'cfg(target_os = \"linux\")'.runner and target.'cfg(unix)'.runner both"), "{err}");
    }
}
