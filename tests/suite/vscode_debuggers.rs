//! Debuggers accept the files of `cargo ddp vscode`: the tests talk to gdb and lldb-dap like VS Code does.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use ddp_tests::repo;
use serde_json::{Value, json};

use crate::vscode::{path, project, vscode};

/// Longer than any answer takes.
const PATIENCE: Duration = Duration::from_secs(300);

/// A configuration, for a workspace in `folder`.
fn configuration(dir: &Path, name: &str, folder: &Path) -> Value {
    let text = fs::read_to_string(path(dir, "launch.json")).unwrap();
    let lines = text.lines().filter(|line| !line.trim_start().starts_with("//"));
    let text = lines.collect::<Vec<_>>().join("\n").replace("${workspaceFolder}", folder.to_str().unwrap());
    let launch: Value = serde_json::from_str(&text).unwrap();
    launch["configurations"].as_array().unwrap().iter().find(|one| one["name"] == name).unwrap().clone()
}

/// A program that panics with values in scope, as `target/debug/train` of a workspace whose name has a space, with our
/// scripts for lldb, which print that they are loaded.
fn panicking(dir: &Path) -> PathBuf {
    let folder = dir.join("a workspace");
    fs::create_dir_all(folder.join(".ddp/debug")).unwrap();
    fs::create_dir_all(folder.join("target/debug")).unwrap();
    for script in fs::read_dir(repo().join("cargo-ddp/src/editor/debug/lldb")).unwrap() {
        let path = script.unwrap().path();
        let (name, text) = (path.file_name().unwrap().to_str().unwrap(), fs::read_to_string(&path).unwrap_or_default());
        fs::write(folder.join(".ddp/debug").join(name), format!("{text}print('imported {name}')\n")).unwrap();
    }
    let source = dir.join("panics.rs");
    let text = "fn main() {\n    let name = std::env::var(\"DDP_JOIN_RANK\").unwrap_or_default() + \" is the rank\";\n    \
                let losses = vec![Some(0.5_f32), None];\n    panic!(\"{name} {losses:?}\");\n}\n";
    fs::write(&source, text).unwrap();
    let mut rustc = Command::new("rustc");
    rustc.args(["--edition", "2024", "-g", "-o"]).arg(folder.join("target/debug/train")).arg(&source);
    assert!(rustc.status().unwrap().success());
    folder
}

fn debugger(names: &[&str]) -> Option<PathBuf> {
    let paths = std::env::var_os("PATH").unwrap();
    let mut candidates = names.iter().flat_map(|name| std::env::split_paths(&paths).map(move |dir| dir.join(name)));
    let found = candidates.find(|path| path.exists());
    assert!(found.is_some() || std::env::var_os("CI").is_none(), "CI runs this: {names:?} must be installed");
    if found.is_none() {
        ddp_tests::skipped(&format!("there is no {names:?}"));
    }
    found
}

#[test]
fn gdb_accepts_the_commands_stops_at_panics_and_shows_rust_values() {
    let Some(gdb) = debugger(&["gdb"]) else { return };
    let dir = project();
    vscode(dir.path(), &["--debugger", "cppdbg", "--nproc", "2"]).succeeds();
    let folder = panicking(dir.path());
    let rank = configuration(dir.path(), "ddp: train, rank 1 of 2", &folder);
    // Like the extension: over gdb's machine interface, and before a program is loaded.
    let mut script: Vec<String> =
        rank["setupCommands"].as_array().unwrap().iter().map(|one| one["text"].as_str().unwrap().to_owned()).collect();
    for variable in rank["environment"].as_array().unwrap() {
        let text = |key: &str| variable[key].as_str().unwrap();
        script.push(format!("-gdb-set env {}={}", text("name"), text("value")));
    }
    script.push(format!("-file-exec-and-symbols \"{}\"", rank["program"].as_str().unwrap()));
    script.push("-exec-run".into());
    let mi = Mi::start(&gdb, dir.path());
    for command in &script {
        let answer = mi.command(command);
        assert!(answer.starts_with("^done") || answer.starts_with("^running"), "{command}: {answer}");
    }
    let stopped = mi.wait_for("*stopped");
    assert!(stopped.contains("reason=\"breakpoint-hit\"") && stopped.contains("rust_panic"), "{stopped}");
    let frames = mi.command("-stack-list-frames");
    let level =
        frames.split("frame={").find(|frame| frame.contains("panics::main")).unwrap_or_else(|| panic!("{frames}"));
    let level = level.strip_prefix("level=\"").unwrap().split('"').next().unwrap();
    mi.command(&format!("-stack-select-frame {level}"));
    let name = mi.command("-data-evaluate-expression name");
    assert!(name.contains("1 is the rank"), "{name}");
    let losses = mi.command("-data-evaluate-expression losses");
    assert!(losses.contains("0.5") && losses.contains("None"), "{losses}");
}

#[test]
fn lldb_dap_accepts_the_configurations_stops_at_panics_and_passes_the_environment() {
    let Some(adapter) = debugger(&["lldb-dap-19", "lldb-dap"]) else { return };
    let dir = project();
    vscode(dir.path(), &["--debugger", "lldb-dap", "--nproc", "2"]).succeeds();
    let folder = panicking(dir.path());
    for (name, says) in
        [("ddp: train, one process", " is the rank [Some"), ("ddp: train, rank 1 of 2", "1 is the rank [Some")]
    {
        let mut dap = Dap::start(&adapter);
        let mut rank = configuration(dir.path(), name, &folder);
        // There is no terminal here, so the debug console gets the output.
        rank["runInTerminal"] = json!(false);
        let stopped = dap.launch(&rank);
        assert_eq!(stopped["body"]["reason"], "breakpoint", "{stopped:#} {:#?}", dap.console);
        let thread = stopped["body"]["threadId"].clone();
        let frames = dap.ask("stackTrace", &json!({ "threadId": thread, "levels": 40 }));
        let frames = frames["body"]["stackFrames"].as_array().unwrap().clone();
        let named = |words: &str| frames.iter().find(|frame| frame["name"].as_str().unwrap().contains(words));
        assert!(named("rust_panic").is_some(), "{frames:#?}");
        assert!(named("panics::main").is_some(), "{frames:#?}");
        assert!(dap.console.contains("imported ddp_debug.py"), "{}", dap.console);
        assert!(!dap.console.contains("error:"), "{}", dap.console);
        assert!(dap.console.contains(says), "{}", dap.console);
        dap.ask("disconnect", &json!({ "terminateDebuggee": true }));
    }
}

#[test]
fn shim_configuration_stops_in_csrc() {
    let Some(adapter) = debugger(&["lldb-dap-19", "lldb-dap"]) else { return };
    // Written for CodeLLDB; lldb-dap knows all of its attributes except the languages.
    let mut shim = configuration(repo(), "cargo-ddp: the C++ shim", repo());
    let snapshots = tempfile::tempdir().unwrap();
    shim["args"] = json!([snapshots.path()]);
    shim.as_object_mut().unwrap().remove("sourceLanguages");
    shim["program"] = json!(ddp_tests::build(repo(), &["-p", "ddp-runtime", "--example", "by_hand"], None));
    let mut dap = Dap::start(&adapter);
    let stopped = dap.launch(&shim);
    let thread = stopped["body"]["threadId"].clone();
    let frames = dap.ask("stackTrace", &json!({ "threadId": thread, "levels": 3 }));
    let source = frames["body"]["stackFrames"][0]["source"]["path"].as_str().unwrap_or_default().to_owned();
    assert!(source.ends_with("ddp-runtime/csrc/group.cpp"), "{frames:#}\n{}", dap.console);
    dap.ask("disconnect", &json!({ "terminateDebuggee": true }));
}

/// lldb-dap over the Debug Adapter Protocol.
struct Dap {
    child: Child,
    messages: Receiver<Value>,
    sequence: u64,
    /// The adapter's messages, and the output of the program.
    console: String,
}

impl Dap {
    fn start(adapter: &Path) -> Self {
        let mut child = Command::new(adapter).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let (sender, messages) = channel();
        std::thread::spawn(move || {
            while let Some(message) = message(&mut stdout) {
                if sender.send(message).is_err() {
                    break;
                }
            }
        });
        let mut dap = Self { child, messages, sequence: 0, console: String::new() };
        dap.ask("initialize", &json!({ "adapterID": "lldb-dap", "linesStartAt1": true, "pathFormat": "path" }));
        dap
    }

    /// Starts a configuration, and returns the event of its first stop.
    fn launch(&mut self, configuration: &Value) -> Value {
        let launched = self.send("launch", configuration);
        self.wait(|message| message["event"] == "initialized" || message["request_seq"] == launched);
        self.send("configurationDone", &json!({}));
        self.wait(|message| ["stopped", "exited", "terminated"].iter().any(|event| message["event"] == *event))
    }

    fn send(&mut self, command: &str, arguments: &Value) -> u64 {
        self.sequence += 1;
        let request = json!({ "seq": self.sequence, "type": "request", "command": command, "arguments": arguments });
        let text = request.to_string();
        write!(self.child.stdin.as_ref().unwrap(), "Content-Length: {}\r\n\r\n{text}", text.len()).unwrap();
        self.sequence
    }

    /// Sends a request, and returns its answer.
    fn ask(&mut self, command: &str, arguments: &Value) -> Value {
        let sequence = self.send(command, arguments);
        let answer = self.wait(|message| message["request_seq"] == sequence);
        assert_eq!(answer["success"], true, "{answer:#}\n{}", self.console);
        answer
    }

    fn wait(&mut self, is: impl Fn(&Value) -> bool) -> Value {
        loop {
            let message = self.messages.recv_timeout(PATIENCE).unwrap_or_else(|err| panic!("{err}: {}", self.console));
            if message["event"] == "output" {
                self.console += message["body"]["output"].as_str().unwrap_or_default();
            }
            if is(&message) {
                return message;
            }
        }
    }
}

fn message(stdout: &mut impl BufRead) -> Option<Value> {
    let mut length = 0;
    loop {
        let mut line = String::new();
        if stdout.read_line(&mut line).ok()? == 0 {
            return None;
        }
        match line.trim_end().strip_prefix("Content-Length: ") {
            Some(bytes) => length = bytes.parse().ok()?,
            None if line.trim_end().is_empty() => break,
            None => {}
        }
    }
    let mut text = vec![0; length];
    stdout.read_exact(&mut text).ok()?;
    serde_json::from_slice(&text).ok()
}

impl Drop for Dap {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// gdb over its machine interface.
struct Mi {
    child: Child,
    lines: Receiver<String>,
}

impl Mi {
    fn start(gdb: &Path, dir: &Path) -> Self {
        let mut command = Command::new(gdb);
        command.args(["--nx", "--quiet", "--interpreter=mi"]).current_dir(dir);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = channel();
        std::thread::spawn(move || stdout.lines().map_while(Result::ok).all(|line| sender.send(line).is_ok()));
        Self { child, lines }
    }

    /// Sends a command, and returns its result.
    fn command(&self, command: &str) -> String {
        writeln!(self.child.stdin.as_ref().unwrap(), "{command}").unwrap();
        self.wait_for("^")
    }

    fn wait_for(&self, beginning: &str) -> String {
        let mut seen = vec![];
        loop {
            let line = self.lines.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("no {beginning}: {seen:#?}"));
            if line.starts_with(beginning) {
                return line;
            }
            seen.push(line);
        }
    }
}

impl Drop for Mi {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
