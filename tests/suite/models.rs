//! An MLP, a convolutional network with BatchNorm and one with a branch, trained as PyTorch's DDP trains them.

use std::collections::BTreeMap;
use std::fs;

use ddp_tests::{CudaTorch, Ddp, repo, stdout_of};
use serde_json::Value;

/// The output of each case, rank and step.
type Printed = BTreeMap<(String, usize, String), String>;

fn printed(stdout: &str, cases: usize) -> Printed {
    let mut printed = Printed::new();
    for line in stdout.lines() {
        // Ours have `[rank 1] ` in front.
        let line = line.strip_prefix('[').and_then(|line| line.split_once("] ")).map_or(line, |(_, line)| line);
        let Some((name, rest)) = line.split_once(": ") else { continue };
        let mut words = rest.splitn(3, ' ');
        let Some(rank) = words.next().and_then(|rank| rank.parse().ok()) else { continue };
        let step = words.next().unwrap().to_owned();
        printed.insert((name.to_owned(), rank, step), words.next().unwrap().to_owned());
    }
    assert_eq!(printed.len(), cases * 2 * 101, "{stdout}");
    printed
}

fn golden() -> Value {
    serde_json::from_str(&fs::read_to_string(repo().join("tests/golden/models.json")).unwrap()).unwrap()
}

fn ours(golden: &Value) -> Printed {
    let folder = repo().join("tests/golden");
    let flags = ["--nproc", "2", "--max-restarts", "0"];
    let done = Ddp::worker("models", &flags, &[folder.to_str().unwrap()]).env("OMP_NUM_THREADS", "1").run().succeeds();
    printed(&done.stdout, golden["cases"].as_object().unwrap().len())
}

#[test]
fn models_losses_and_norms_match_python_to_the_last_bit() {
    let Some(torch) = CudaTorch::find() else { return };
    let golden = golden();
    let mut python = torch.torchrun();
    python.arg(repo().join("tests/golden/models.py")).arg(repo().join("tests/golden"));
    let theirs = printed(&stdout_of(&mut python), golden["cases"].as_object().unwrap().len());
    let ours = ours(&golden);
    let mut different: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (key @ (name, rank, step), theirs) in &theirs {
        if ours[key] != *theirs {
            let what = format!("rank {rank}, step {step}: {} for {theirs}", ours[key]);
            different.entry(name).or_default().push(what);
        }
    }
    let first: Vec<_> =
        different.iter().map(|(name, all)| format!("{name}: {} differ, {}", all.len(), all[0])).collect();
    assert!(first.is_empty(), "{first:#?}");
}

/// The losses of a case, by step: the mean over the ranks.
fn mean_losses(case: &str, nproc: &str, batch: &str) -> Vec<f64> {
    let folder = repo().join("tests/golden");
    let flags = ["--max-restarts", "0", "--nproc", nproc];
    let done = Ddp::worker("models", &flags, &[folder.to_str().unwrap(), case, batch])
        .env("OMP_NUM_THREADS", "1")
        .run()
        .succeeds();
    let mut sums = BTreeMap::<usize, f64>::new();
    let losses = done.stdout.lines().filter_map(|line| line.split_once(&format!("{case}: ")));
    for words in losses.map(|(_, rest)| rest.split(' ').collect::<Vec<_>>()).filter(|words| words[1] != "end") {
        let loss = f32::from_bits(u32::from_str_radix(words[2], 16).unwrap());
        *sums.entry(words[1].parse().unwrap()).or_default() += f64::from(loss);
    }
    assert_eq!(sums.len(), 100);
    sums.values().map(|sum| sum / nproc.parse::<f64>().unwrap()).collect()
}

/// A batch of 2b on one rank is the two ranks' batches of b together, so only the order of additions differs. Rounding
/// errors of 6e-8 grow over 100 steps of a network that learns; 1e-4 is 1,000 times that.
#[test]
fn models_on_two_ranks_match_one_rank_with_twice_the_batch() {
    for case in ["mlp momentum", "mlp adamw"] {
        let (two, one) = (mean_losses(case, "2", "8"), mean_losses(case, "1", "16"));
        for (step, (two, one)) in two.iter().zip(&one).enumerate() {
            assert!((two - one).abs() <= 1e-4 * one, "{case}, step {step}: {two} with two ranks, {one} with one");
        }
        assert!(one[99] < 0.5 * one[0], "{case} learns: {one:?}");
    }
}

/// For machines without Python's torch, and other processors, whose kernels round differently. The difference
/// grows with each step, so the first twenty are compared: to 1e-3, and to 5e-2 where products or gradients are
/// rounded to 16 bits, where the last bit decides the direction (seen on two processors: 5e-3).
#[test]
fn models_losses_are_near_the_golden_ones() {
    let golden = golden();
    let ours = ours(&golden);
    for (name, ranks) in golden["losses"].as_object().unwrap() {
        let case = &golden["cases"][name];
        let rounds = ["autocast", "hook"].iter().any(|key| case.get(key).is_some());
        let bound = if rounds { 5e-2 } else { 1e-3 };
        for (rank, losses) in ranks.as_array().unwrap().iter().enumerate() {
            for (i, bits) in losses.as_array().unwrap().iter().enumerate().take(3) {
                let step = i as u64 * golden["kept"].as_u64().unwrap();
                let line = &ours[&(name.clone(), rank, step.to_string())];
                let [ours, theirs] = [line.split(' ').next().unwrap(), bits.as_str().unwrap()]
                    .map(|bits| f32::from_bits(u32::from_str_radix(bits, 16).unwrap()));
                let near = ours == theirs || (ours - theirs).abs() <= bound * theirs.abs().max(1e-2);
                assert!(near, "{name}, rank {rank}, step {step}: {ours} for {theirs}");
            }
        }
    }
}
