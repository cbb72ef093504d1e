//! `cargo ddp doctor`: prints the results of `inspect::doctor` as lines or JSON, and picks the exit code.

use super::table::print_json;
use crate::cli::Doctor;
use crate::inspect::doctor::{Level, Machine, examine};
use crate::{Result, exit};

/// `cargo ddp doctor`
pub(super) fn doctor(args: &Doctor) -> Result<u8> {
    let lines = examine(&Machine::here());
    let count = |level| lines.iter().filter(|line| line.level == level).count();
    let (errors, warnings) = (count(Level::Error), count(Level::Warning));
    if args.json {
        print_json(&serde_json::json!({ "version": 1, "errors": errors, "warnings": warnings, "lines": &lines }))?;
    } else {
        for line in &lines {
            println!("{line}");
        }
        let some = |n: usize, what: &str| if n == 1 { format!("1 {what}") } else { format!("{n} {what}s") };
        println!("{}, {}", some(errors, "error"), some(warnings, "warning"));
    }
    Ok(if errors == 0 { exit::SUCCESS } else { exit::FOUND })
}
