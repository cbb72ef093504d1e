//! One round of each fault of the chaos run (`tests/chaos`), with other random numbers each time.

use std::process::Command;

use ddp_tests::program;

#[test]
fn chaos_one_round_of_each_fault_loses_nothing() {
    let status = Command::new(program("chaos")).args(["--rounds", "14", "--minutes", "30"]).status().unwrap();
    assert!(status.success(), "see above for the seed and the round");
}
