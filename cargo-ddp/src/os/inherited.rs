//! Settings of signals that a process inherits from its parent, and that would break it and the programs that it starts.

/// Makes SIGCHLD do what it does by default: when the parent ignores it, the kernel gives no exit codes of children. And
/// unblocks all signals: a launcher could not be stopped otherwise.
///
/// Signals other than SIGCHLD that the parent ignores (`nohup`) stay ignored.
pub fn reset_signals() {
    // SAFETY: no handler is set.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_DFL) };
    let mut none = std::mem::MaybeUninit::uninit();
    // SAFETY: plain memory for the C library to fill.
    unsafe { libc::sigemptyset(none.as_mut_ptr()) };
    // SAFETY: the call above filled it.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, none.as_ptr(), std::ptr::null_mut()) };
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::CommandExt;
    use std::process::Command;

    use super::*;

    #[test]
    fn reset_signals_undoes_what_a_parent_ignores_and_blocks() {
        let setup = || {
            // SAFETY: no handler is set.
            unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
            let mut all = std::mem::MaybeUninit::uninit();
            // SAFETY: plain memory for the C library to fill.
            unsafe { libc::sigfillset(all.as_mut_ptr()) };
            // SAFETY: the call above filled it.
            unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), std::ptr::null_mut()) };
            Ok(())
        };
        let status = |reset: bool| {
            let mut command = Command::new("cat");
            command.arg("/proc/self/status");
            // SAFETY: the closure runs between fork and exec, and makes system calls only.
            unsafe { command.pre_exec(setup) };
            if reset {
                let reset = || {
                    reset_signals();
                    Ok(())
                };
                // SAFETY: as above.
                unsafe { command.pre_exec(reset) };
            }
            let text = String::from_utf8(command.output().unwrap().stdout).unwrap();
            ["SigBlk:", "SigIgn:"].map(|name| {
                let mask = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
                u64::from_str_radix(mask.trim(), 16).unwrap() & (1 << (libc::SIGCHLD - 1) | 1 << (libc::SIGTERM - 1))
            })
        };
        assert!(status(false).iter().all(|mask| *mask != 0));
        assert_eq!(status(true), [0, 0]);
    }
}
