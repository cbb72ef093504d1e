//! A debugger at this process, and a breakpoint for it.

use ddp_contract::env;

use crate::os;

/// Stops in the debugger, if there is one and this worker's rank (from `RANK`; without a launcher, 0) is `rank`. Else it
/// does nothing. Each call reads a small file in /proc, so a place that is reached a million times wants a condition
/// before it.
///
/// ```
/// use ddp_runtime::debug;
///
/// # let loss: f64 = 0.25;
/// if !loss.is_finite() {
///     debug::break_here(1); // rank 1 stops here, the others continue until they need it
/// }
/// ```
///
/// A breakpoint that is set in the editor can have a condition by rank, too. One on a variable of the program's own
/// (`rank == 1`, where it has `let rank = context.rank();`) works in every debugger, as does lldb's and gdb's
/// `context.world.rank == 1` where a [`Context`](crate::Context) is in scope.
#[inline(always)]
pub fn break_here(rank: usize) {
    if is_rank(rank) && is_attached() {
        trap!();
    }
}

/// Whether a debugger (or another tracer) watches this process.
pub fn is_attached() -> bool {
    os::process::is_traced()
}

fn is_rank(rank: usize) -> bool {
    std::env::var(env::RANK).ok().and_then(|own| own.trim().parse().ok()).unwrap_or(0) == rank
}

/// A breakpoint of the program's own, in the function that has it. Debuggers continue behind it.
macro_rules! trap {
    () => {{
        // SAFETY: it raises SIGTRAP, for which a debugger waits.
        #[cfg(target_arch = "x86_64")]
        unsafe {
            std::arch::asm!("int3", options(nomem, nostack))
        };
        // SAFETY: as above. (The number is the one that lldb knows as __builtin_debugtrap's, and steps over.)
        #[cfg(target_arch = "aarch64")]
        unsafe {
            std::arch::asm!("brk #0xf000", options(nomem, nostack))
        };
        #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
        $crate::os::process::raise_trap();
    }};
}
pub(crate) use trap;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn break_here_without_a_debugger_does_not_stop() {
        // Under one, the tests' user asked for it.
        break_here(0);
        break_here(1);
    }
}
