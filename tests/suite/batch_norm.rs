//! `SyncBatchNorm` against tch's batch norm of all ranks' batches in one process.

use ddp_tests::Ddp;

#[test]
fn sync_batch_norm_is_batch_norm_of_all_batches_on_2_and_3_ranks() {
    for nproc in ["2", "3"] {
        let done = Ddp::worker("batch_norm", &["--max-restarts", "0", "--nproc", nproc], &[])
            .run()
            .succeeds()
            .leaves_no_process();
        let count = done.stdout.matches("SyncBatchNorm is right").count();
        assert_eq!(count.to_string(), nproc, "{}\n{}", done.stdout, done.stderr);
    }
}
