//! What the launcher asks its guard for.

use std::io::Read;
use std::os::unix::net::UnixStream;

use rustix::process::Pid;
use serde::Deserialize;

use crate::editor::debug::{self, Session};

/// What the guard receives: first the launcher's pid, then the debug sessions that the launcher asks for, one a line.
pub(super) struct Requests {
    partial: Vec<u8>,
    pub(super) launcher: Option<Pid>,
    pub(super) open: bool,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Request {
    Launcher(i32),
    Open(Session),
}

impl Requests {
    /// Of a pipe that does not block; another one is not `open`.
    pub(super) fn new(open: bool) -> Self {
        Self { partial: Vec::new(), launcher: None, open }
    }

    pub(super) fn serve(&mut self, pipe: &mut UnixStream) {
        let mut buffer = [0; 4096];
        while self.open {
            match pipe.read(&mut buffer) {
                Ok(0) => self.open = false,
                Ok(n) => self.partial.extend_from_slice(&buffer[..n]),
                Err(err) if err.kind() == std::io::ErrorKind::Interrupted => {}
                Err(err) if err.kind() == std::io::ErrorKind::WouldBlock => break,
                Err(_) => self.open = false,
            }
        }
        while let Some(end) = self.partial.iter().position(|&byte| byte == b'\n') {
            let line: Vec<u8> = self.partial.drain(..=end).collect();
            match serde_json::from_slice(&line) {
                Ok(Request::Launcher(pid)) => self.launcher = Pid::from_raw(pid),
                Ok(Request::Open(session)) => debug::start(&session),
                Err(_) => {}
            }
        }
    }
}
