//! A worker's debug session.

use std::ffi::{CString, c_char};
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::prepare::LAUNCHER;

/// Between editor and debugger: what opens sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Adapter {
    /// LLVM's.
    LldbDap,
    /// The one of the extension `vadimcn.vscode-lldb`.
    CodeLldb,
}

impl FromStr for Adapter {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "lldb-dap" => Ok(Self::LldbDap),
            "codelldb" => Ok(Self::CodeLldb),
            other => Err(other.to_owned()),
        }
    }
}

impl fmt::Display for Adapter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::LldbDap => "lldb-dap",
            Self::CodeLldb => "codelldb",
        })
    }
}

/// How sessions for workers are opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sessions {
    adapter: Adapter,
    /// The project's folder.
    root: PathBuf,
    script: PathBuf,
    group: Option<PathBuf>,
}

/// A session to be opened: it attaches to a process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    /// The worker's rank.
    pub rank: usize,
    /// Its process.
    pub pid: u32,
    /// The launch configuration.
    pub configuration: Value,
}

/// lldb-dap's `customFrameFormat`: functions in the call stack as Rust writes them.
pub(crate) const FRAME_NAMES: &str = "${script.frame:ddp_debug.frame_name}";

impl Sessions {
    /// Through this adapter, for the project in `root`; `script` is loaded in each. They meet in the folder `group`, if they
    /// are to stop and continue together.
    pub fn new(adapter: Adapter, root: &Path, script: PathBuf, group: Option<PathBuf>) -> Self {
        Self { adapter, root: root.to_owned(), script, group }
    }

    /// The session of a rank, which runs `program` in the job's attempt number `attempt`, from 0.
    pub fn session(&self, program: &str, rank: usize, pid: u32, attempt: u32) -> Session {
        let name = Path::new(program).file_name().unwrap_or_default().to_string_lossy();
        let again = if attempt == 0 { String::new() } else { format!(", attempt {}", attempt + 1) };
        let mut commands = vec![
            "settings set symbols.enable-lldb-index-cache true".to_owned(),
            format!("command script import \"{}\"", self.script.display()),
        ];
        // Each attempt is a group of its own: sessions of the last one may still be open.
        commands.extend(self.group.iter().map(|group| format!("ddp-join {rank} {}/{attempt}", group.display())));
        let mut configuration = json!({
            "name": format!("{name} rank {rank}{again}"),
            "request": "attach",
            "program": program,
            "pid": pid,
            "initCommands": commands,
        });
        match self.adapter {
            Adapter::LldbDap => {
                configuration["type"] = "lldb-dap".into();
                configuration["customFrameFormat"] = FRAME_NAMES.into();
                // `on_spawn` adds the program of the adapter that it runs in.
                configuration["debugAdapterExecutable"] = self.root.join(LAUNCHER).to_string_lossy().into();
                configuration["debugAdapterArgs"] = json!(["ddp", "debug-adapter", "--"]);
            }
            Adapter::CodeLldb => {
                configuration["type"] = "lldb".into();
                configuration["sourceLanguages"] = json!(["rust"]);
            }
        }
        Session { rank, pid, configuration }
    }
}

/// Asks the debugger that watches this process to open a session. Without one, nothing happens.
pub fn start(session: &Session) {
    let Ok(configuration) = CString::new(session.configuration.to_string()) else { return };
    let rank = u32::try_from(session.rank).unwrap_or(u32::MAX);
    ddp_start_debugging(c"attach".as_ptr(), configuration.as_ptr(), rank, session.pid);
}

/// Called for each worker that is started in a debug session. A debugger has a breakpoint here, which asks its client to
/// open another session: `request` is `attach`, `configuration` is JSON.
///
/// It does nothing by itself.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn ddp_start_debugging(request: *const c_char, configuration: *const c_char, rank: u32, pid: u32) {
    std::hint::black_box((request, configuration, rank, pid));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn session_names_its_rank_and_adapter() {
        let sessions = |adapter| {
            let (script, group) = ("/p/.ddp/debug/ddp_debug.py".into(), Some("/p/.ddp/debug/group-x".into()));
            Sessions::new(adapter, Path::new("/p"), script, group)
        };
        let first = sessions(Adapter::LldbDap).session("/p/target/debug/train", 1, 77, 0);
        assert_eq!(first.configuration["name"], "train rank 1");
        assert_eq!((&first.configuration["type"], &first.configuration["pid"]), (&"lldb-dap".into(), &77.into()));
        assert_eq!(first.configuration["initCommands"][2], "ddp-join 1 /p/.ddp/debug/group-x/0");
        assert_eq!(first.configuration["debugAdapterExecutable"], "/p/.ddp/cargo-ddp");
        let again = sessions(Adapter::CodeLldb).session("/p/target/debug/train", 1, 78, 2);
        assert_eq!(again.configuration["name"], "train rank 1, attempt 3");
        assert_eq!(again.configuration["type"], "lldb");
        assert_eq!(again.configuration["initCommands"][2], "ddp-join 1 /p/.ddp/debug/group-x/2");
        assert_eq!(again.configuration["debugAdapterExecutable"], Value::Null);
        start(&again);
    }

    #[test]
    fn adapter_names_are_parsed_back() {
        for adapter in [Adapter::LldbDap, Adapter::CodeLldb] {
            assert_eq!(adapter.to_string().parse(), Ok(adapter));
        }
        assert_eq!("gdb".parse::<Adapter>(), Err("gdb".to_owned()));
    }
}
