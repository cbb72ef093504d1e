//! A relay between an editor and the lldb-dap of one rank, for what no script inside lldb can change.
//!
//! A rank that another rank has stopped was interrupted somewhere in libc, and lldb-dap presents that as an exception. The
//! relay presents it as a pause, and folds the frames above the user's own; `ddp_group.py` reports the reason and the number
//! of frames. The relay passes everything else on as it is.

use std::collections::HashMap;
use std::ffi::OsString;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{ChildStdin, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ddp_contract::env;
use rustix::io::{FdFlags, fcntl_setfd};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::os::child::dies_with_parent;
use crate::{Error, Result};

/// How long a request waits for the report of a pause.
const LIMIT: Duration = Duration::from_secs(1);
const PERIOD: Duration = Duration::from_millis(5);
/// The number of the frame that stands for folded ones: no adapter's numbers are as large.
const FOLDED: i32 = i32::MAX;

/// Starts lldb-dap, and relays until it exits.
///
/// # Errors
/// [`Error::NoProgram`] and the like, if it can't be started; [`Error::System`].
pub fn relay(program: &Path, args: &[OsString]) -> Result<ExitStatus> {
    let cant = Error::system("can't relay to the debug adapter");
    let mut command = Command::new(program);
    command.args(args);
    if args.iter().any(|arg| arg.to_string_lossy().starts_with("--connection")) {
        // It talks through a socket: there is nothing to relay.
        return Err(Error::start(program, command.exec()));
    }
    let (reports, of_adapter) = UnixDatagram::pair().map_err(Error::system("can't create a socket"))?;
    reports.set_nonblocking(true).map_err(Error::system("can't create a socket"))?;
    fcntl_setfd(&of_adapter, FdFlags::empty()).map_err(|err| Error::system("can't create a socket")(err.into()))?;
    command.env(env::ADAPTER_FD, of_adapter.as_raw_fd().to_string());
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    dies_with_parent(&mut command);
    let mut child = command.spawn().map_err(|err| Error::start(program, err))?;
    drop(of_adapter);
    let (Some(to), Some(from)) = (child.stdin.take(), child.stdout.take()) else {
        return Err(cant(io::ErrorKind::BrokenPipe.into()));
    };
    let view = Arc::new(Mutex::new(View { reports: Some(reports), ..View::default() }));
    let shared = view.clone();
    std::thread::spawn(move || relay_requests(&shared, to));
    // (If the editor has gone, lldb-dap sees the end of its input, and exits.)
    let _ = relay_answers(&view, BufReader::new(from));
    child.wait().map_err(cant)
}

fn relay_requests(view: &Mutex<View>, mut to: ChildStdin) {
    let mut from = io::stdin().lock();
    while let Ok(Some(message)) = read(&mut from) {
        let start = Instant::now();
        while lock(view).awaits_report(&message) && start.elapsed() < LIMIT {
            std::thread::sleep(PERIOD);
        }
        let changed = lock(view).request(&message);
        if write(&mut to, changed.as_ref().unwrap_or(&message)).is_err() {
            return;
        }
    }
}

fn relay_answers(view: &Mutex<View>, mut from: impl BufRead) -> io::Result<()> {
    let mut to = io::stdout().lock();
    while let Some(message) = read(&mut from)? {
        let changed = lock(view).answer(&message);
        write(&mut to, changed.as_ref().unwrap_or(&message))?;
    }
    Ok(())
}

fn lock(view: &Mutex<View>) -> MutexGuard<'_, View> {
    view.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The next message of the Debug Adapter Protocol, or none at the end.
fn read(from: &mut impl BufRead) -> io::Result<Option<Vec<u8>>> {
    let mut length = None;
    loop {
        let mut line = String::new();
        if from.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        match line.trim_end().split_once(':') {
            Some((name, value)) if name.eq_ignore_ascii_case("content-length") => length = value.trim().parse().ok(),
            None if line.trim_end().is_empty() && length.is_some() => break,
            _ => {}
        }
    }
    let mut message = Vec::new();
    from.take(length.unwrap_or_default()).read_to_end(&mut message)?;
    Ok((message.len() as u64 == length.unwrap_or_default()).then_some(message))
}

fn write(to: &mut impl Write, message: &[u8]) -> io::Result<()> {
    let mut text = format!("Content-Length: {}\r\n\r\n", message.len()).into_bytes();
    text.extend(message);
    to.write_all(&text)?;
    to.flush()
}

/// What `ddp_group.py` reports.
#[derive(Deserialize)]
#[serde(tag = "report", rename_all = "snake_case")]
enum Report {
    /// Why the next interrupt comes; none if the user asks for it.
    Why { why: Option<String> },
    /// Where a thread has stopped.
    Fold(Fold),
}

/// The frames of a thread above the user's own.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
struct Fold {
    thread: u64,
    /// How many there are.
    frames: u64,
    /// The outermost of them.
    called: String,
}

/// What an editor is shown.
#[derive(Default)]
struct View {
    reports: Option<UnixDatagram>,
    why: Option<String>,
    /// The thread that an interrupt has stopped.
    paused: Option<u64>,
    fold: Option<Fold>,
    /// Steps that were sent as a command: the request, by its number.
    steps: HashMap<u64, &'static str>,
    /// Requests for stacks of which frames are folded, by their number: the fold, and whether they begin with it.
    stacks: HashMap<u64, (Fold, bool, bool)>,
}

impl View {
    /// Receives the reports that are there. What is sent before an interrupt is here before the stop.
    fn receive(&mut self) {
        let mut text = [0; 4096];
        while let Some(Ok(length)) = self.reports.as_ref().map(|reports| reports.recv(&mut text)) {
            match serde_json::from_slice(&text[..length]) {
                Ok(Report::Why { why }) => (self.why, self.fold) = (why, None),
                Ok(Report::Fold(fold)) => self.fold = Some(fold),
                Err(_) => {}
            }
        }
    }

    /// Whether this request has to wait: it is not known yet where the thread has stopped.
    fn awaits_report(&mut self, message: &[u8]) -> bool {
        self.receive();
        let Ok(request) = serde_json::from_slice::<Value>(message) else { return false };
        let is_of_stack =
            ["stackTrace", "next", "stepIn", "stepOut"].iter().any(|command| request["command"] == *command);
        is_of_stack
            && self.fold.is_none()
            && self.paused.is_some()
            && self.paused == request["arguments"]["threadId"].as_u64()
    }

    fn resumed(&mut self) {
        (self.paused, self.fold) = (None, None);
    }

    /// The fold of this thread, if there is one.
    fn fold_of(&self, thread: &Value) -> Option<&Fold> {
        self.fold.as_ref().filter(|fold| fold.frames > 0 && *thread == fold.thread)
    }

    /// A request of the editor, as lldb-dap is to get it; none if it stays as it is.
    fn request(&mut self, message: &[u8]) -> Option<Vec<u8>> {
        let mut request: Value = serde_json::from_slice(message).ok()?;
        let arguments = &request["arguments"];
        match request["command"].as_str()? {
            // From where the user sees the thread, and not from where it was interrupted.
            command @ ("next" | "stepIn" | "stepOut") => {
                let kind = [("next", "over"), ("stepIn", "in"), ("stepOut", "out")]
                    .into_iter()
                    .find(|(name, _)| *name == command);
                let is_folded = self.paused.is_some() && self.fold_of(&arguments["threadId"]).is_some();
                self.resumed();
                if is_folded && let Some((name, kind)) = kind {
                    self.steps.insert(request["seq"].as_u64()?, name);
                    request["command"] = "evaluate".into();
                    request["arguments"] = json!({"expression": format!("`ddp-step {kind}"), "context": "repl"});
                    return Some(request.to_string().into_bytes());
                }
            }
            "continue" => self.resumed(),
            // `ddp` and `ranks` may also be variables of the program. An expression that starts like this is a command.
            "evaluate" if arguments["context"] == "repl" => {
                let text = arguments["expression"].as_str()?.trim_start();
                if text != "ddp" && !text.starts_with("ddp ") && !text.starts_with("ranks ") {
                    return None;
                }
                request["arguments"]["expression"] = format!("`{text}").into();
                return Some(request.to_string().into_bytes());
            }
            "stackTrace" => {
                let fold = self.fold_of(&arguments["threadId"])?.clone();
                let start = arguments["startFrame"].as_u64().unwrap_or(0);
                let count = arguments["levels"].as_u64().unwrap_or(0);
                // One frame stands for the folded ones. (No more frames than asked for: at the end of the stack, lldb-dap runs a
                // function of the program.)
                let begins = start == 0;
                request["arguments"]["startFrame"] = (fold.frames + start.saturating_sub(1)).into();
                request["arguments"]["levels"] = if begins && count > 1 { count - 1 } else { count }.into();
                self.stacks.insert(request["seq"].as_u64()?, (fold, begins, begins && count == 1));
                return Some(request.to_string().into_bytes());
            }
            _ => {}
        }
        None
    }

    /// A message of lldb-dap, as the editor is to get it; none if it stays as it is.
    fn answer(&mut self, message: &[u8]) -> Option<Vec<u8>> {
        self.receive();
        let mut answer: Value = serde_json::from_slice(message).ok()?;
        match (answer["type"].as_str()?, answer["event"].as_str().or(answer["command"].as_str())?) {
            ("event", "stopped") => self.stopped(&mut answer["body"])?,
            ("event", "continued") => {
                self.resumed();
                return None;
            }
            ("response", "evaluate") => {
                let command = self.steps.remove(&answer["request_seq"].as_u64()?)?;
                answer["command"] = command.into();
                let problem =
                    answer["body"]["result"].as_str().and_then(|result| Some(result.split_once("error: ")?.1));
                if let Some(problem) = problem.map(|text| text.trim().to_owned()) {
                    answer["success"] = false.into();
                    answer["message"] = problem.into();
                }
                answer["body"] = json!({});
            }
            ("response", "stackTrace") => {
                let (fold, begins, alone) = self.stacks.remove(&answer["request_seq"].as_u64()?)?;
                let body = &mut answer["body"];
                if let Some(total) = body["totalFrames"].as_u64() {
                    body["totalFrames"] = total.saturating_sub(fold.frames - 1).into();
                }
                let frames = body["stackFrames"].as_array_mut()?;
                if alone {
                    frames.clear();
                }
                if begins {
                    let count = if fold.frames == 1 { "1 frame".to_owned() } else { format!("{} frames", fold.frames) };
                    let name = format!("in {} ({count})", fold.called);
                    frames.insert(
                        0,
                        json!({"id": FOLDED, "name": name, "line": 0, "column": 0, "presentationHint": "label"}),
                    );
                }
            }
            _ => return None,
        }
        Some(answer.to_string().into_bytes())
    }

    /// A stop by an interrupt is a pause.
    fn stopped(&mut self, body: &mut Value) -> Option<()> {
        let thread = body["threadId"].as_u64()?;
        let says = |name: &str, words: &str| body[name].as_str().is_some_and(|text| text.contains(words));
        // (lldb-dap gives no reason if commands of two ranks cross.)
        let is_interrupt = body["reason"].is_null() || ["text", "description"].iter().any(|name| says(name, "SIGSTOP"));
        if !is_interrupt {
            return None;
        }
        self.paused = Some(thread);
        let text = self.why.as_ref().map_or_else(|| "Paused".to_owned(), |why| format!("Paused: {why}"));
        body["reason"] = "pause".into();
        body["description"] = text.clone().into();
        body["text"] = text.into();
        if self.why.is_some() {
            // The editor stays at the rank that has stopped the others.
            body["preserveFocusHint"] = true.into();
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(message: Option<Vec<u8>>) -> Value {
        serde_json::from_slice(&message.unwrap()).unwrap()
    }

    fn stop(description: &str) -> Vec<u8> {
        let body = json!({"reason": "exception", "description": description, "text": description, "threadId": 7});
        json!({"seq": 0, "type": "event", "event": "stopped", "body": body}).to_string().into_bytes()
    }

    #[test]
    fn interrupt_is_shown_as_a_pause_with_its_reason() {
        let (reports, adapter) = UnixDatagram::pair().unwrap();
        reports.set_nonblocking(true).unwrap();
        let mut view = View { reports: Some(reports), ..View::default() };
        adapter.send(br#"{"report": "why", "why": "rank 1 stopped"}"#).unwrap();
        let body = &json(view.answer(&stop("signal SIGSTOP")))["body"];
        assert_eq!((&body["reason"], &body["description"]), (&"pause".into(), &"Paused: rank 1 stopped".into()));
        assert_eq!(body["preserveFocusHint"], true);
        adapter.send(br#"{"report": "why", "why": null}"#).unwrap(); // the user's own
        let body = &json(view.answer(&stop("signal SIGSTOP")))["body"];
        assert_eq!((&body["description"], &body["preserveFocusHint"]), (&"Paused".into(), &Value::Null));
        view.resumed();
        assert!(view.answer(&stop("signal SIGSEGV")).is_none() && view.paused.is_none());
    }

    #[test]
    fn stack_of_a_paused_thread_starts_at_the_users_code() {
        let ask = |view: &mut View, start: u64, levels: u64| {
            let arguments = json!({"threadId": 7, "startFrame": start, "levels": levels});
            let request =
                json!({"seq": 5, "type": "request", "command": "stackTrace", "arguments": arguments}).to_string();
            assert!(!view.awaits_report(request.as_bytes()));
            let sent =
                view.request(request.as_bytes()).map_or_else(|| arguments, |sent| json(Some(sent))["arguments"].take());
            let all: Vec<_> = (0..6).map(|id| json!({"id": id, "name": format!("f{id}")})).collect();
            let number = |name: &str| sent[name].as_u64().unwrap() as usize;
            let count = if number("levels") == 0 { 6 } else { number("levels") };
            let frames: Vec<_> = all.into_iter().skip(number("startFrame")).take(count).collect();
            let body = json!({"stackFrames": frames, "totalFrames": 6});
            let answer =
                json!({"type": "response", "command": "stackTrace", "request_seq": 5, "body": body}).to_string();
            let shown = view.answer(answer.as_bytes()).map_or_else(|| body, |shown| json(Some(shown))["body"].take());
            let names =
                shown["stackFrames"].as_array().unwrap().iter().map(|frame| frame["name"].as_str().unwrap().to_owned());
            (names.collect::<Vec<_>>().join(" "), shown["totalFrames"].as_u64().unwrap())
        };
        let mut view = View::default();
        assert_eq!(ask(&mut view, 0, 2), ("f0 f1".into(), 6));
        view.answer(&stop("signal SIGSTOP"));
        let request = br#"{"seq": 4, "type": "request", "command": "stackTrace", "arguments": {"threadId": 7}}"#;
        assert!(view.awaits_report(request));
        view.fold = Some(Fold { thread: 7, frames: 3, called: "backward".into() });
        assert_eq!(ask(&mut view, 0, 1), ("in backward (3 frames)".into(), 4));
        assert_eq!(ask(&mut view, 0, 2), ("in backward (3 frames) f3".into(), 4));
        assert_eq!(ask(&mut view, 1, 19), ("f3 f4 f5".into(), 4));
        assert_eq!(ask(&mut view, 0, 0), ("in backward (3 frames) f3 f4 f5".into(), 4));
        let step = br#"{"seq": 6, "type": "request", "command": "next", "arguments": {"threadId": 7}}"#;
        assert_eq!(json(view.request(step))["arguments"]["expression"], "`ddp-step over");
        let done =
            br#"{"seq": 9, "type": "response", "command": "evaluate", "request_seq": 6, "success": true, "body": {}}"#;
        assert_eq!(json(view.answer(done))["command"], "next");
        view.steps.insert(6, "next");
        let refused = json!({"seq": 9, "type": "response", "command": "evaluate", "request_seq": 6, "success": true,
                             "body": {"result": "(lldb) ddp-step over\nerror: the rank is running\n"}});
        let refused = json(view.answer(refused.to_string().as_bytes()));
        assert_eq!((&refused["success"], &refused["message"]), (&false.into(), &"the rank is running".into()));
        assert_eq!(ask(&mut view, 0, 0).1, 6);
    }

    #[test]
    fn console_commands_are_not_taken_for_variables() {
        let evaluate = |context: &str, text: &str| {
            let arguments = json!({"context": context, "expression": text});
            let request = json!({"seq": 1, "type": "request", "command": "evaluate", "arguments": arguments});
            View::default()
                .request(request.to_string().as_bytes())
                .map(|sent| json(Some(sent))["arguments"]["expression"].take())
        };
        assert_eq!(evaluate("repl", "ddp only 1"), Some("`ddp only 1".into()));
        assert_eq!(evaluate("repl", "ranks loss"), Some("`ranks loss".into()));
        assert_eq!(evaluate("repl", "ddp.bucket_bytes"), None);
        assert_eq!(evaluate("repl", "ranks[0]"), None);
        assert_eq!(evaluate("watch", "ddp go"), None);
    }

    #[test]
    fn messages_are_read_to_the_last_complete_one() {
        let mut stream = Vec::new();
        write(&mut stream, b"{}").unwrap();
        write(&mut stream, b"{\"a\": 1}").unwrap();
        stream.extend(b"Content-Length: 9\r\n\r\n{\"b\"");
        let mut from = stream.as_slice();
        assert_eq!(read(&mut from).unwrap().unwrap(), b"{}");
        assert_eq!(read(&mut from).unwrap().unwrap(), b"{\"a\": 1}");
        assert_eq!(read(&mut from).unwrap(), None);
    }
}
