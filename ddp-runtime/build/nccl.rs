//! The version of NCCL's header.

/// Major and minor version of the NCCL that libtorch 2.13.0 was built with; `csrc/versions.hpp` has them, too.
const BUILT_WITH: (u32, u32) = (2, 29);

/// Whether `header`, the text of an nccl.h, is of that version. `ProcessGroupNCCL::Options` contains NCCL's `ncclConfig_t`,
/// which may have another size in another version: the program would overwrite memory. (At run time a newer libnccl will do.)
///
/// # Errors
/// What is wrong with it.
pub fn check_header(header: &str) -> Result<(), String> {
    let (major, minor) = BUILT_WITH;
    match (number(header, "NCCL_MAJOR"), number(header, "NCCL_MINOR")) {
        (Some(found_major), Some(found_minor)) if (found_major, found_minor) == BUILT_WITH => Ok(()),
        (Some(found_major), Some(found_minor)) => Err(format!(
            "is from NCCL {found_major}.{found_minor}, but libtorch 2.13.0 was built with NCCL {major}.{minor}"
        )),
        _ => Err(format!("does not define its version, expected NCCL {major}.{minor}")),
    }
}

fn number(header: &str, name: &str) -> Option<u32> {
    let is_definition = |words: &[&str]| matches!(words, ["#define", defined, _] if *defined == name);
    let lines = header.lines().map(|line| line.split_whitespace().take(3).collect::<Vec<_>>());
    lines.into_iter().find(|words| is_definition(words))?.get(2)?.parse().ok()
}
