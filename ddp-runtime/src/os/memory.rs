//! Memory of this process.

/// Asks for large pages for the memory between two addresses, which are multiples of the size of a large page.
pub(crate) fn use_large_pages(from: usize, to: usize) {
    // SAFETY: the advice changes nothing in the memory, and may be refused.
    unsafe { libc::madvise(from as *mut libc::c_void, to - from, libc::MADV_HUGEPAGE) };
}

/// Memory of this process that is in RAM.
pub(crate) fn resident_bytes() -> Option<u64> {
    let pages = std::fs::read_to_string("/proc/self/statm").ok()?;
    Some(pages.split(' ').nth(1)?.parse::<u64>().ok()? * rustix::param::page_size() as u64)
}
