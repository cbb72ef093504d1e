//! The same losses as PyTorch's DDP, bit for bit.

use std::fs;

use ddp_tests::{CudaTorch, Ddp, repo, stdout_of};
use serde_json::Value;

const RANKS: usize = 2;
const OPTIMIZERS: [&str; 3] = ["sgd", "momentum", "adamw"];

/// The bits of each rank's losses, from lines such as `[rank 1] loss 1 41b3c2d1`.
fn losses(stdout: &str) -> Vec<Vec<u32>> {
    let mut ranks = vec![Vec::new(); RANKS];
    for line in stdout.lines().filter_map(|line| line.split_once("loss ")) {
        let (rank, bits) = line.1.split_once(' ').unwrap();
        ranks[rank.parse::<usize>().unwrap()].push(u32::from_str_radix(bits, 16).unwrap());
    }
    assert!(ranks.iter().all(|losses| losses.len() == 100), "{stdout}");
    ranks
}

fn ours(optimizer: &str) -> Vec<Vec<u32>> {
    let input = repo().join("tests/golden/seed_job.safetensors");
    let args = [input.to_str().unwrap(), optimizer];
    losses(&Ddp::worker("parity", &["--nproc", "2", "--max-restarts", "0"], &args).run().succeeds().stdout)
}

#[test]
fn parity_of_one_hundred_steps_with_python_to_the_last_bit() {
    let Some(torch) = CudaTorch::find() else { return };
    for optimizer in OPTIMIZERS {
        let mut python = torch.torchrun();
        python.arg(repo().join("tests/golden/seed_job.py"));
        python.arg(repo().join("tests/golden/seed_job.safetensors")).arg(optimizer);
        assert_eq!(ours(optimizer), losses(&stdout_of(&mut python)), "{optimizer}");
    }
}

/// Across processors, kernels may round differently in the last bits: 1e-5 relative, and 1e-7 absolute where the loss
/// is close to 0.
#[test]
fn parity_of_one_hundred_steps_with_the_golden_losses() {
    let golden = fs::read_to_string(repo().join("tests/golden/seed_job.json")).unwrap();
    let golden: Value = serde_json::from_str(&golden).unwrap();
    for optimizer in OPTIMIZERS {
        for (rank, ours) in ours(optimizer).iter().enumerate() {
            for (step, bits) in ours.iter().enumerate() {
                let theirs = golden["losses"][optimizer][rank][step].as_str().unwrap();
                let theirs = f32::from_bits(u32::from_str_radix(theirs, 16).unwrap());
                let ours = f32::from_bits(*bits);
                let bound = 1e-5 * theirs.abs() + 1e-7;
                assert!((ours - theirs).abs() <= bound, "{optimizer}, rank {rank}, step {step}: {ours} for {theirs}");
            }
        }
    }
}
