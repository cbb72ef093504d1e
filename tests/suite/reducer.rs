//! `Ddp` beyond plain steps: accumulation, batched copies, unused parameters, static graphs, compression, buffers, frozen parameters.

use ddp_tests::Ddp;

#[test]
fn reducer_options_work_like_pytorchs() {
    let done =
        Ddp::worker("reducer", &["--max-restarts", "0", "--nproc", "2"], &[]).run().succeeds().leaves_no_process();
    assert_eq!(done.stdout.matches("the reducer is right").count(), 2, "{}", done.stdout);
}

#[test]
fn reducer_with_batched_copies_gives_the_same_averages_on_three_ranks() {
    let done = Ddp::worker("reducer", &["--max-restarts", "0", "--nproc", "3"], &["batched"])
        .run()
        .succeeds()
        .leaves_no_process();
    assert_eq!(done.stdout.matches("batched copies are right").count(), 3, "{}", done.stdout);
}

#[test]
fn join_allows_different_numbers_of_batches() {
    let done = Ddp::worker("join", &["--max-restarts", "0", "--nproc", "2"], &[]).run().succeeds().leaves_no_process();
    assert_eq!(done.stdout.matches("joining is right").count(), 2, "{}", done.stdout);
}
