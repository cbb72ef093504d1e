//! What happens before `main`: a worker that was started for a debugger waits for it, so that breakpoints are hit from
//! the first line on, whatever the program does there.

use std::time::{Duration, Instant};

use ddp_contract::env;

use super::attach::is_attached;
use super::join;
use crate::os::process::allow_debuggers;
use crate::worker::say::say;
use crate::worker::variables;

/// How often to look for a debugger: the kernel gives no notice of one.
const PERIOD: Duration = Duration::from_millis(10);
/// How long to wait without a word.
const QUIET: Duration = Duration::from_secs(3);

// (Not a field of `Process`: the linker collects it.)
// SAFETY: the C library calls what is listed there once, before `main`, when all libraries are ready.
#[used]
#[unsafe(link_section = ".init_array")]
static BEFORE_MAIN: extern "C" fn() = before_main;

/// What [`BEFORE_MAIN`] is, and what a debugger's formatters read, is part of every program that has a worker's context.
pub(super) fn ensure_linked() {
    std::hint::black_box(&BEFORE_MAIN);
    std::hint::black_box(&raw const crate::sys::ddp_debug_tensor_layout);
}

extern "C" fn before_main() {
    let limit = match variables::seconds(env::WAIT_DEBUGGER) {
        Ok(limit) => limit,
        Err(err) => join::give_up(join::REFUSED, &err.to_string()),
    };
    let joins = std::env::var_os(env::JOIN).filter(|socket| !socket.is_empty());
    if limit.is_none() && joins.is_none() {
        if cfg!(debug_assertions) {
            // A worker that was built for debugging lets its user's debuggers in.
            allow_debuggers();
        }
        return;
    }
    allow_debuggers();
    if let Some(socket) = joins {
        join::join(socket.as_ref());
    } else if let Some(limit) = limit {
        wait(limit);
    }
    // Programs that this one starts neither wait nor join.
    for name in [env::WAIT_DEBUGGER, env::JOIN, env::JOIN_RANK, env::DEBUG_FOLDER] {
        // SAFETY: before `main` there is one thread.
        unsafe { std::env::remove_var(name) };
    }
}

fn wait(limit: Duration) {
    let start = Instant::now();
    let who = || {
        let rank = std::env::var(env::RANK).unwrap_or_default();
        format!("rank {rank} (pid {})", std::process::id())
    };
    let mut reported = false;
    while !is_attached() {
        if start.elapsed() >= limit {
            say(format_args!(
                "warning: no debugger attached within {} s; {} continues without one",
                limit.as_secs(),
                who()
            ));
            return;
        }
        if !reported && start.elapsed() >= QUIET {
            reported = true;
            let left = limit.saturating_sub(QUIET).as_secs();
            say(format_args!("{} is waiting for its debug session (at most {left} s)", who()));
        }
        std::thread::sleep(PERIOD);
    }
}
