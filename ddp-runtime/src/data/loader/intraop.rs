//! One core for each worker thread of a loader.

use std::ffi::c_int;

use crate::os::process::find_function;

/// Makes libtorch compute on one core in the calling thread, as PyTorch does in its data workers: otherwise each worker
/// would start as many OpenMP threads as there are cores.
///
/// `at::set_num_threads` would do so for later threads, too; OpenMP's own function is for the calling thread only.
pub(super) fn use_one_core() {
    // libtorch sets a thread's number when it first asks for it; a later setting stays.
    let _ = tch::get_num_threads();
    let Some(function) = find_function(c"omp_set_num_threads") else { return }; // a libtorch without OpenMP
    // SAFETY: it is OpenMP's `void omp_set_num_threads(int)`.
    let set_num_threads: extern "C" fn(c_int) = unsafe { std::mem::transmute(function) };
    set_num_threads(1);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn use_one_core_affects_only_its_thread() {
        let threads = || std::thread::spawn(tch::get_num_threads).join().unwrap();
        let before = (tch::get_num_threads(), threads());
        let inside = std::thread::spawn(|| {
            use_one_core();
            tch::get_num_threads()
        });
        assert_eq!(inside.join().unwrap(), 1);
        assert_eq!((tch::get_num_threads(), threads()), before);
    }
}
