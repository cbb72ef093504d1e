//! The machine as checks see it: folders, variables and programs, which tests can replace.

use std::collections::HashMap;
use std::ffi::OsString;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::Error;
use crate::os::child;
use crate::project::cargo::Project;

/// Longer than any program takes to print its version; one that hangs is a finding.
const PATIENCE: Duration = Duration::from_secs(20);

/// The machine, as checks see it: tests make one from their own folders and variables.
#[derive(Debug)]
pub struct Machine {
    pub(super) variables: HashMap<OsString, OsString>,
    /// What `/` is.
    pub(super) root: PathBuf,
    pub(super) here: PathBuf,
    pub(super) project: Option<Project>,
    /// Why cargo can't read the project that is here.
    pub(super) broken: Option<String>,
}

impl Machine {
    /// This machine, this process' environment, and the project in this folder.
    pub fn here() -> Self {
        let (project, broken) = match Project::find(None) {
            Ok(project) => (Some(project), None),
            Err(Error::BadProject(problem)) => (None, Some(problem)),
            Err(_) => (None, None),
        };
        Self {
            variables: std::env::vars_os().collect(),
            root: "/".into(),
            here: std::env::current_dir().unwrap_or_default(),
            project,
            broken,
        }
    }

    /// A variable that is set and not empty.
    pub(super) fn variable(&self, name: &str) -> Option<OsString> {
        self.variables.get(std::ffi::OsStr::new(name)).filter(|value| !value.is_empty()).cloned()
    }

    /// A file of the system, such as `/proc/version`.
    pub(super) fn system_path(&self, absolute: &str) -> PathBuf {
        self.root.join(absolute.trim_start_matches('/'))
    }

    /// The text of a file of the system, trimmed.
    pub(super) fn system_file(&self, absolute: &str) -> Option<String> {
        std::fs::read_to_string(self.system_path(absolute)).ok().map(|text| text.trim().to_owned())
    }

    pub(super) fn home(&self) -> Option<PathBuf> {
        self.variable("HOME").map(PathBuf::from)
    }

    /// The program that a shell would run.
    pub(super) fn program(&self, name: &str) -> Option<PathBuf> {
        which::which_in(name, self.variable("PATH"), &self.here).ok()
    }

    /// What a program prints on stdout when it is given `input`, or how it failed.
    pub(super) fn output(&self, program: &Path, args: &[&str], input: &str) -> Result<String, String> {
        let mut command = Command::new(program);
        command.args(args).current_dir(&self.here).env_clear().envs(&self.variables);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        child::dies_with_parent(&mut command);
        let mut child = command.spawn().map_err(|err| err.to_string())?;
        if let Some(mut stdin) = child.stdin.take() {
            // A program that does not read its input ends all the same.
            let _ = stdin.write_all(input.as_bytes());
        }
        let (stdout, stderr) = (collect(child.stdout.take()), collect(child.stderr.take()));
        let start = Instant::now();
        let status = loop {
            match child.try_wait().map_err(|err| err.to_string())? {
                Some(status) => break status,
                None if start.elapsed() > PATIENCE => {
                    let _ = child.kill();
                    let _ = child.wait();
                    return Err(format!("no answer within {} s", PATIENCE.as_secs()));
                }
                None => std::thread::sleep(Duration::from_millis(2)),
            }
        };
        // Its children may hold the pipes open; do not wait for them.
        if status.success() {
            return Ok(stdout.recv_timeout(PATIENCE).unwrap_or_default());
        }
        let text = stderr.recv_timeout(PATIENCE).unwrap_or_default();
        let line = text.lines().map(str::trim).find(|line| line.contains("error")).or(text.lines().next());
        Err(line.filter(|line| !line.is_empty()).map_or_else(|| status.to_string(), str::to_owned))
    }
}

/// Everything from a stream, once it has ended.
fn collect(stream: Option<impl Read + Send + 'static>) -> std::sync::mpsc::Receiver<String> {
    let (sender, receiver) = std::sync::mpsc::channel();
    if let Some(mut stream) = stream {
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            let _ = stream.read_to_end(&mut bytes);
            let _ = sender.send(String::from_utf8_lossy(&bytes).into_owned());
        });
    }
    receiver
}

#[cfg(test)]
pub(super) mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// A machine with nothing but what a test puts there: `bin/` is its PATH, `home/` its HOME.
    pub(crate) struct Bare {
        pub(crate) dir: tempfile::TempDir,
        pub(crate) machine: Machine,
    }

    impl Bare {
        pub(crate) fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            for folder in ["bin", "home", "here"] {
                std::fs::create_dir(dir.path().join(folder)).unwrap();
            }
            let variables = [("PATH", "bin"), ("HOME", "home")].map(|(k, v)| (k.into(), dir.path().join(v).into()));
            let machine = Machine {
                variables: variables.into(),
                root: dir.path().to_owned(),
                here: dir.path().join("here"),
                project: None,
                broken: None,
            };
            Self { dir, machine }
        }

        pub(crate) fn script(&self, name: &str, text: &str) -> PathBuf {
            let path = self.write(&format!("bin/{name}"), &format!("#!/bin/sh\n{text}\n"));
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
            path
        }

        pub(crate) fn write(&self, below: &str, text: &str) -> PathBuf {
            let path = self.dir.path().join(below);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, text).unwrap();
            path
        }
    }

    #[test]
    fn failed_program_is_reported_by_its_error_line() {
        let bare = Bare::new();
        let program = bare.script(
            "p",
            "read line; [ \"$line\" = hello ] && echo heard; echo 'note: x' >&2; echo 'error: y' >&2; exit $1",
        );
        assert_eq!(bare.machine.program("p").as_deref(), Some(program.as_path()));
        assert_eq!(bare.machine.output(&program, &["0"], "hello\n"), Ok("heard\n".into()));
        assert_eq!(bare.machine.output(&program, &["3"], ""), Err("error: y".into()));
        assert!(bare.machine.program("q").is_none());
    }
}
