//! A worker that a debugger started itself: it gets from a waiting launcher what it would have inherited from it.

use std::ffi::{CString, OsStr, c_char, c_int, c_void};
use std::io::{ErrorKind, IsTerminal};
use std::path::Path;
use std::process::exit;
use std::time::{Duration, Instant};

use ddp_contract::env;
use ddp_contract::join::{Goodbye, Hello, LARGEST, VERSION, Welcome};
use ddp_contract::text::printable_line;

use crate::os::fd::{IntoRawFd, OwnedFd};
use crate::os::{launcher, process::call_at_exit};
use crate::worker::process::process;
use crate::worker::say::say;

/// How long to wait for a launcher: it may still be building.
const LIMIT: Duration = Duration::from_secs(600);
const PERIOD: Duration = Duration::from_millis(50);
const QUIET: Duration = Duration::from_secs(3);
/// Wrong use, in `cargo ddp`'s terms.
pub(super) const REFUSED: i32 = 2;
const NO_LAUNCHER: i32 = 4;

/// Meets the launcher, and takes over the environment and the descriptors that it sends. Without a launcher the process
/// ends with a message.
pub(super) fn join(path: &Path) {
    let rank = std::env::var(env::JOIN_RANK).unwrap_or_default();
    let Ok(rank) = rank.trim().parse::<usize>() else {
        let (name, value) = (env::JOIN_RANK, rank.escape_debug());
        give_up(REFUSED, &format!("invalid {name} `{value}`: expected a rank; set it in the launch configuration"));
    };
    let socket = meet(path, rank);
    let hello = serde_json::to_vec(&Hello { version: VERSION, rank }).unwrap_or_default();
    let (welcome, descriptors) = match exchange(&socket, &hello) {
        Ok(answer) => answer,
        Err(err) => give_up(NO_LAUNCHER, &format!("lost the launcher at {}: {err}", path.display())),
    };
    let environment = match welcome {
        Welcome::Environment(environment) => environment,
        Welcome::Refused(why) => give_up(REFUSED, &why),
    };
    let mut descriptors = descriptors.into_iter();
    for (name, value) in &environment {
        let passed = [env::EVENT_FD, env::STORE_FD].contains(&name.as_str());
        let value = match passed.then(|| descriptors.next()).flatten() {
            Some(descriptor) => descriptor.into_raw_fd().to_string(),
            None => value.clone(),
        };
        // SAFETY: before `main` there is one thread.
        unsafe { std::env::set_var(name, value) };
    }
    if let Err(err) = launcher::die_with(&socket) {
        say(format_args!("warning: this worker will not notice if its launcher exits: {err}"));
    }
    if let Some(folder) = std::env::var_os(env::DEBUG_FOLDER)
        && let (Ok(folder), Ok(rank)) = (CString::new(folder.into_encoded_bytes()), u32::try_from(rank))
    {
        ddp_joined(folder.as_ptr(), rank);
    }
    process().set_launcher(socket.into_raw_fd());
    call_at_exit(ended);
    if std::io::stdout().is_terminal() {
        let program = std::env::args_os().next().unwrap_or_default();
        let name = Path::new(&program).file_name().unwrap_or(OsStr::new("worker")).to_string_lossy().into_owned();
        // The terminal's title.
        print!("\x1b]0;{} rank {rank}\x07", printable_line(&name));
    }
}

/// Called when the worker has joined, if the debug sessions of all ranks meet in `folder`. A debugger has a breakpoint here,
/// which has its session meet the others.
///
/// It does nothing by itself.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn ddp_joined(folder: *const c_char, rank: u32) {
    std::hint::black_box((folder, rank));
}

/// Connects as soon as there is a launcher.
fn meet(path: &Path, rank: usize) -> OwnedFd {
    let start = Instant::now();
    let mut reported = false;
    loop {
        match launcher::connect(path) {
            Ok(socket) => match launcher::is_trusted(&socket) {
                // What answers there decides about this process's environment.
                Ok(true) => return socket,
                Ok(false) => give_up(REFUSED, &format!("another user's process listens at {}", path.display())),
                Err(err) => give_up(NO_LAUNCHER, &format!("can't tell who listens at {}: {err}", path.display())),
            },
            Err(err)
                if matches!(err.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused | ErrorKind::WouldBlock) => {
            }
            Err(err) => give_up(NO_LAUNCHER, &format!("can't reach a launcher at {}: {err}", path.display())),
        }
        if start.elapsed() >= LIMIT {
            give_up(NO_LAUNCHER, &format!("no launcher appeared at {} within {} s", path.display(), LIMIT.as_secs()));
        }
        if !reported && start.elapsed() >= QUIET {
            reported = true;
            let left = LIMIT.saturating_sub(QUIET).as_secs();
            say(format_args!("rank {rank} is waiting for its launcher at {} (at most {left} s)", path.display()));
        }
        std::thread::sleep(PERIOD);
    }
}

fn exchange(socket: &OwnedFd, hello: &[u8]) -> std::io::Result<(Welcome, Vec<OwnedFd>)> {
    let (answer, descriptors) = launcher::exchange(socket, hello, LARGEST)?;
    Ok((serde_json::from_slice(&answer)?, descriptors))
}

extern "C" fn ended(code: c_int, _: *mut c_void) {
    say_goodbye(code);
}

/// Tells the launcher, which can't wait for a process that is not its child, how this one ends.
pub(super) fn say_goodbye(code: i32) {
    if let Some(socket) = process().take_launcher()
        && let Ok(goodbye) = serde_json::to_vec(&Goodbye { code })
    {
        launcher::send_last(socket, &goodbye);
    }
}

/// OMP_NUM_THREADS came after OpenMP had looked for it.
pub(super) fn apply_threads() {
    if process().has_launcher()
        && let Some(threads) = std::env::var(env::OMP_NUM_THREADS).ok().and_then(|threads| threads.parse().ok())
    {
        tch::set_num_threads(threads);
    }
}

pub(super) fn give_up(code: i32, why: &str) -> ! {
    say(format_args!("error: {why}"));
    exit(code)
}
