//! The cargo that is used, and what it can do.

use std::ffi::OsString;
use std::process::{Command, Stdio};

use cargo_metadata::semver::Version;

/// The cargo that runs this program, or the one on PATH.
pub fn program() -> OsString {
    std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}

/// Whether this cargo reads other files that its configuration includes, which came with 1.94. Older ones refuse such a
/// configuration.
pub fn reads_included_files() -> bool {
    let output = Command::new(program()).arg("-V").stdin(Stdio::null()).stderr(Stdio::null()).output();
    output.is_ok_and(|output| includes(&String::from_utf8_lossy(&output.stdout)))
}

/// The same, by the version that `cargo -V` prints.
fn includes(version: &str) -> bool {
    let number = version.split_whitespace().nth(1).unwrap_or_default();
    let number = number.split('-').next().unwrap_or_default();
    Version::parse(number).is_ok_and(|version| version >= Version::new(1, 94, 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cargo_includes_files_from_1_94_on() {
        for (version, reads) in [
            ("cargo 1.91.1 (ea2d97820 2025-10-10)", false),
            ("cargo 1.93.1 (083ac5135 2025-12-15)", false),
            ("cargo 1.94.0 (85eff7c80 2026-01-15)", true),
            ("cargo 1.97.0-nightly (4d1f98451 2026-05-15)", true),
            ("", false),
        ] {
            assert_eq!(includes(version), reads, "{version}");
        }
    }
}
