//! What holds for samplers and loaders of any length, world size, batch size, seed and epoch, resumed anywhere.

use std::collections::HashSet;

use proptest::prelude::*;
use proptest::test_runner::RngSeed;

use crate::data::{BatchDataset, DataLoader, EvalSampler, Position, Sampler};
use crate::{DistributedSampler, Result};

/// The same cases in each run, and no file of those that failed.
fn cases(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, rng_seed: RngSeed::Fixed(0), ..ProptestConfig::default() }
}

/// A dataset whose batch is its indices.
pub(super) struct Indices(pub usize);

impl BatchDataset for Indices {
    type Batch = Vec<i64>;

    fn len(&self) -> usize {
        self.0
    }

    fn batch(&self, indices: &[i64]) -> Result<Vec<i64>> {
        Ok(indices.to_vec())
    }
}

/// What stays the same over a resume.
#[derive(Clone, Copy, Debug)]
struct Setting {
    len: usize,
    shuffle: bool,
    seed: u64,
    drop_last: bool,
    epoch: u64,
}

prop_compose! {
    fn settings()(
        len in 0..120usize,
        shuffle in prop::bool::weighted(0.75),
        seed in any::<u64>(),
        drop_last: bool,
        epoch in prop_oneof![0..5u64, any::<u64>()],
    ) -> Setting {
        Setting { len, shuffle, seed, drop_last, epoch }
    }
}

impl Setting {
    fn sampler(&self, world_size: usize, rank: usize) -> DistributedSampler {
        let mut sampler = DistributedSampler::new(self.len, world_size, rank).unwrap();
        sampler = sampler.shuffle(self.shuffle).seed(self.seed).drop_last(self.drop_last);
        sampler.set_epoch(self.epoch);
        sampler
    }

    /// The epoch's permutation: all of a single rank's indices.
    fn order(&self) -> Vec<i64> {
        self.sampler(1, 0).indices().unwrap()
    }

    /// A loader whose sampler still stands at epoch 0.
    fn loader(&self, world_size: usize, rank: usize, batch_size: usize) -> DataLoader<Indices> {
        let mut sampler = self.sampler(world_size, rank);
        sampler.set_epoch(0);
        DataLoader::with_sampler(Indices(self.len), sampler, batch_size).unwrap()
    }
}

/// What PyTorch gives all ranks together for `order`: padded with its own front, as often as it takes, or cut off.
fn shared_out(order: &[i64], world_size: usize, drop_last: bool) -> Vec<i64> {
    let total = match drop_last {
        true => order.len() / world_size * world_size,
        false => order.len().div_ceil(world_size) * world_size,
    };
    order.iter().copied().cycle().take(total).collect()
}

/// The ranks' shares in the order in which ranks in step go through them. They must be of one length.
fn in_step(shares: &[Vec<i64>]) -> Vec<i64> {
    assert!(shares.iter().all(|share| share.len() == shares[0].len()), "ranks have different numbers: {shares:?}");
    (0..shares[0].len()).flat_map(|i| shares.iter().map(move |share| share[i])).collect()
}

/// A world size, how many batches or samples are taken in it, and a batch size.
fn stretches() -> impl Strategy<Value = Vec<(usize, usize, usize)>> {
    prop::collection::vec((1..9usize, 0..6usize, 1..9usize), 1..6)
}

proptest! {
    #![proptest_config(cases(256))]

    #[test]
    fn samplers_of_all_ranks_share_one_permutation(setting in settings(), world_size in 1..10usize) {
        let order = setting.order();
        let mut sorted = order.clone();
        sorted.sort_unstable();
        prop_assert!(sorted.iter().copied().eq(0..setting.len as i64));
        prop_assert!(setting.shuffle || order == sorted);

        let samplers: Vec<_> = (0..world_size).map(|rank| setting.sampler(world_size, rank)).collect();
        let shares: Vec<_> = samplers.iter().map(|sampler| sampler.indices().unwrap()).collect();
        prop_assert!(samplers.iter().zip(&shares).all(|(sampler, share)| sampler.num_samples() == share.len()));
        prop_assert_eq!(in_step(&shares), shared_out(&order, world_size, setting.drop_last));
    }

    #[test]
    fn sampler_order_depends_on_the_epoch_number(setting in settings(), other in any::<u64>(), len in 30..120usize) {
        let setting = Setting { len, ..setting }; // so long that no two permutations are the same by chance
        let mut sampler = setting.sampler(1, 0);
        let order = sampler.indices().unwrap();
        sampler.set_epoch(other);
        let changed = setting.shuffle && other != setting.epoch;
        prop_assert_eq!(sampler.indices().unwrap() != order, changed);
        sampler.set_epoch(setting.epoch);
        prop_assert_eq!(sampler.indices().unwrap(), order);
    }

    #[test]
    fn sampler_resumed_on_other_ranks_gives_the_rest_of_the_permutation(
        setting in settings(),
        stretches in stretches(),
        last in 1..9usize,
    ) {
        let order = setting.order();
        let mut seen = 0;
        for (world_size, taken, _) in stretches.into_iter().chain([(last, usize::MAX, 1)]) {
            let rest = |rank| setting.sampler(world_size, rank).indices_from(seen).unwrap();
            let shares: Vec<_> = (0..world_size).map(rest).collect();
            // What is left is shared out as a whole epoch is, but that repeated samples are those from the epoch's front.
            let left = setting.len.saturating_sub(seen);
            let total = shared_out(&vec![0; left], world_size, setting.drop_last).len();
            let expected: Vec<_> = order.iter().copied().cycle().skip(seen).take(total).collect();
            let given = in_step(&shares);
            prop_assert_eq!(&given, &expected);
            seen += given.len().min(taken.saturating_mul(world_size));
        }
        // Nothing is left but what `drop_last` leaves out.
        prop_assert!(seen >= setting.len || (setting.drop_last && setting.len - seen < last));
    }

    #[test]
    fn eval_sampler_gives_each_remaining_sample_to_exactly_one_rank(
        len in 0..120usize,
        world_size in 1..10usize,
        batch_size in 1..10usize,
        seen in 0..150usize,
        epoch: u64,
    ) {
        let mut lengths = HashSet::new();
        let mut all = Vec::new();
        let mut rest = Vec::new();
        for rank in 0..world_size {
            let sampler = EvalSampler::new(len, world_size, rank).unwrap();
            let share = sampler.indices();
            prop_assert!(share.is_sorted());
            prop_assert_eq!(share.len(), sampler.num_samples());
            lengths.insert(share.len());
            rest.extend(Sampler::indices(&sampler, epoch, seen).unwrap());
            let loader = DataLoader::with_sampler(Indices(len), sampler, batch_size).unwrap();
            let batches: Vec<_> = loader.epoch(epoch).unwrap().collect::<Result<_>>().unwrap();
            prop_assert_eq!(batches.len(), loader.batches_per_epoch());
            prop_assert_eq!(batches.concat(), share);
            all.extend(batches.concat());
        }
        prop_assert!(lengths.iter().max().unwrap() - lengths.iter().min().unwrap() <= 1);
        all.sort_unstable();
        prop_assert!(all.into_iter().eq(0..len as i64));
        rest.sort_unstable();
        prop_assert!(rest.into_iter().eq(seen as i64..len.max(seen) as i64));
    }

    #[test]
    fn batches_have_the_samplers_indices(
        setting in settings(),
        (world_size, rank) in (1..10usize).prop_flat_map(|world_size| (Just(world_size), 0..world_size)),
        batch_size in 1..13usize,
        workers in 0..9usize,
        prefetch in 0..4usize,
        drop_last_batch: bool,
    ) {
        let loader = setting.loader(world_size, rank, batch_size).drop_last_batch(drop_last_batch);
        let loader = loader.workers(workers).prefetch(prefetch);
        let batches: Vec<_> = loader.epoch(setting.epoch).unwrap().collect::<Result<_>>().unwrap();
        prop_assert_eq!(batches.len(), loader.batches_per_epoch());
        let sampled = setting.sampler(world_size, rank).indices().unwrap();
        let mut expected: Vec<_> = sampled.chunks(batch_size).collect();
        expected.retain(|batch| !drop_last_batch || batch.len() == batch_size);
        prop_assert_eq!(batches, expected);
    }

    #[test]
    fn loader_resumed_on_other_ranks_gives_each_remaining_sample_exactly_once(
        setting in settings(),
        stretches in stretches(),
        last in (1..9usize, 1..9usize),
    ) {
        let mut all = Vec::new();
        let mut position = Position { epoch: setting.epoch, samples: 0 };
        let mut world_size = last.0;
        for (ranks, taken, batch_size) in stretches.into_iter().chain([(last.0, usize::MAX, last.1)]) {
            let mut shares = Vec::new();
            let mut positions = HashSet::new();
            for rank in 0..ranks {
                let mut loader = setting.loader(ranks, rank, batch_size);
                loader.resume_at(position);
                let batches = loader.epoch(setting.epoch).unwrap();
                shares.push(batches.take(taken).collect::<Result<Vec<_>>>().unwrap().concat());
                positions.insert((loader.position().epoch, loader.position().samples));
            }
            prop_assert_eq!(positions.len(), 1, "ranks stand at different positions");
            if all.len() < setting.len {
                world_size = ranks; // whose padding comes at the end
            } else {
                prop_assert!(shares[0].is_empty());
            }
            all.extend(in_step(&shares));
            let (epoch, samples) = positions.into_iter().next().unwrap();
            position = Position { epoch, samples };
            prop_assert_eq!(position, Position { epoch: setting.epoch, samples: all.len() as u64 });
        }
        let order = setting.order();
        prop_assert!(all.iter().eq(order.iter().cycle().take(all.len())));
        match setting.drop_last {
            true => prop_assert!(all.len() <= setting.len && setting.len - all.len() < last.0),
            false => prop_assert!(all.len() >= setting.len && all.len() - setting.len < world_size),
        }
    }

    #[test]
    fn loader_resumed_with_the_same_world_size_gives_the_same_batches(
        setting in settings(),
        (world_size, rank) in (1..10usize).prop_flat_map(|world_size| (Just(world_size), 0..world_size)),
        batch_size in 1..8usize,
        taken in 0..6usize,
    ) {
        let loader = setting.loader(world_size, rank, batch_size);
        let mut batches = loader.epoch(setting.epoch).unwrap();
        let _ = batches.by_ref().take(taken).count();
        let Position { epoch, samples } = loader.position();
        let rest: Vec<_> = batches.collect::<Result<_>>().unwrap();

        let mut resumed = setting.loader(world_size, rank, batch_size);
        resumed.resume_at(Position { epoch, samples });
        prop_assert_eq!(resumed.position(), Position { epoch, samples });
        prop_assert_eq!(resumed.epoch(epoch).unwrap().collect::<Result<Vec<_>>>().unwrap(), rest);
        // Only once.
        let whole = setting.sampler(world_size, rank).indices().unwrap();
        prop_assert_eq!(resumed.epoch(epoch).unwrap().collect::<Result<Vec<_>>>().unwrap().concat(), whole);
    }
}
