//! This process: its end, its debuggers, its host.

use std::ffi::{CStr, c_int, c_void};

use rustix::process::{PTracer, set_ptracer};

/// Ends the process without destructors, handlers and flushed buffers.
pub(crate) fn exit_now(code: u8) -> ! {
    // SAFETY: it ends the process, and returns nothing to anybody.
    unsafe { libc::_exit(code.into()) }
}

/// Has `function` called with the exit code when the process exits.
pub(crate) fn call_at_exit(function: extern "C" fn(c_int, *mut c_void)) {
    unsafe extern "C" {
        /// glibc's `atexit` that passes the exit code on.
        fn on_exit(function: extern "C" fn(c_int, *mut c_void), argument: *mut c_void) -> c_int;
    }
    // SAFETY: a function of this crate, which the C library calls with the exit code.
    unsafe { on_exit(function, std::ptr::null_mut()) };
}

/// Whether a debugger (or another tracer) is attached to this process.
pub(crate) fn is_traced() -> bool {
    let Ok(status) = std::fs::read_to_string("/proc/self/status") else { return false };
    let tracer = status.lines().find_map(|line| line.strip_prefix("TracerPid:"));
    tracer.is_some_and(|pid| pid.trim() != "0")
}

/// Lets every process of this user attach a debugger, where only a parent may (Yama). A kernel without Yama knows no such
/// call, and needs none.
pub(crate) fn allow_debuggers() {
    let _ = set_ptracer(PTracer::Any);
}

/// A breakpoint by signal, for processors without an instruction for it.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
pub(crate) fn raise_trap() {
    // SAFETY: it raises SIGTRAP, for which a debugger waits.
    unsafe { libc::raise(libc::SIGTRAP) };
}

/// The name of this host.
pub(crate) fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// The function of this name in the libraries of this process.
pub(crate) fn find_function(name: &CStr) -> Option<*mut c_void> {
    // SAFETY: a look-up by name.
    let symbol = unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) };
    (!symbol.is_null()).then_some(symbol)
}
