//! `cargo ddp debug-adapter -- LLDB_DAP`: what the debug sessions of ranks run in place of lldb-dap.

use std::os::unix::process::ExitStatusExt;

use crate::Result;
use crate::cli::DebugAdapter;
use crate::editor::debug;

/// `cargo ddp debug-adapter`
pub(super) fn debug_adapter(args: DebugAdapter) -> Result<u8> {
    let mut words = args.command.into_iter();
    let program = words.next().unwrap_or_default();
    let status = debug::relay(program.as_ref(), &words.collect::<Vec<_>>())?;
    let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(libc::SIGKILL));
    Ok(u8::try_from(code).unwrap_or(u8::MAX))
}
