//! Collectives between real processes.

use ddp_tests::{Ddp, Done};

fn run(nproc: &str, action: &str) -> Done {
    let flags = ["--max-restarts", "0", "--nproc", nproc];
    Ddp::worker("collectives", &flags, &[action]).run().leaves_no_process()
}

fn all_say(done: &Done, nproc: usize, words: &str) {
    assert_eq!(done.stdout.matches(words).count(), nproc, "{}\n{}", done.stdout, done.stderr);
}

#[test]
fn collectives_are_right_on_2_and_3_ranks() {
    for nproc in [2, 3] {
        all_say(&run(&nproc.to_string(), "all").succeeds(), nproc, "all collectives are right");
    }
}

#[test]
fn collective_mistakes_are_errors_on_every_rank_and_the_group_continues() {
    for nproc in [2, 3] {
        all_say(&run(&nproc.to_string(), "mistakes").succeeds(), nproc, "all mistakes are errors");
    }
}

#[test]
fn collectives_beyond_the_compared_ones_are_not_compared() {
    all_say(&run("2", "uncompared").succeeds(), 2, "two calls were compared");
}

#[test]
fn monitored_barrier_names_the_missing_rank() {
    run("3", "late")
        .ends_with(1)
        .says(&["message: monitored: monitored_barrier", "Ranks 2 failed to pass monitoredBarrier"]);
}

#[test]
fn group_that_lost_a_rank_gives_errors_in_bounded_time() {
    all_say(&run("3", "gone").succeeds(), 2, "the group is known to be dead");
}
