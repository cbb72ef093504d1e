//! The loader as a training loop sees it.

use std::collections::HashSet;
use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use tch::{Device, Kind, Tensor};

use crate::data::{BatchDataset, DataLoader, Dataset, EvalSampler, Position, TensorDataset};
use crate::{DistributedSampler, Error, Result};

/// Longer than any test takes.
const BOUND: Duration = Duration::from_secs(60);

/// A dataset whose batch is its indices.
struct Indices(usize);

impl BatchDataset for Indices {
    type Batch = Vec<i64>;

    fn len(&self) -> usize {
        self.0
    }

    fn batch(&self, indices: &[i64]) -> Result<Vec<i64>> {
        Ok(indices.to_vec())
    }
}

/// A generator of test cases: SplitMix64.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % end as u64) as usize
    }

    fn sometimes(&mut self) -> bool {
        self.below(2) == 0
    }

    fn setting(&mut self) -> Setting {
        Setting {
            len: self.below(80),
            shuffle: self.below(4) > 0,
            seed: self.below(1000) as u64,
            drop_last: self.sometimes(),
            epoch: self.below(5) as u64,
        }
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

impl Setting {
    fn sampler(&self, world_size: usize, rank: usize) -> DistributedSampler {
        let mut sampler = DistributedSampler::new(self.len, world_size, rank).unwrap();
        sampler = sampler.shuffle(self.shuffle).seed(self.seed).drop_last(self.drop_last);
        sampler.set_epoch(self.epoch);
        sampler
    }

    /// A loader whose sampler still stands at epoch 0.
    fn loader(&self, world_size: usize, rank: usize, batch_size: usize) -> DataLoader<Indices> {
        let mut sampler = self.sampler(world_size, rank);
        sampler.set_epoch(0);
        DataLoader::with_sampler(Indices(self.len), sampler, batch_size).unwrap()
    }
}

#[test]
fn batches_are_what_the_sampler_says() {
    let mut random = Random(1);
    for case in 0..400 {
        let setting = random.setting();
        let (world_size, batch_size) = (1 + random.below(6), 1 + random.below(12));
        let (workers, drop_last_batch) = (if case % 8 == 0 { random.below(4) } else { 0 }, random.sometimes());
        for rank in 0..world_size {
            let loader = setting.loader(world_size, rank, batch_size).workers(workers).drop_last_batch(drop_last_batch);
            let batches: Vec<_> = loader.epoch(setting.epoch).unwrap().collect::<Result<_>>().unwrap();
            assert_eq!(batches.len(), loader.batches_per_epoch(), "{setting:?}");
            let sampled = setting.sampler(world_size, rank).indices().unwrap();
            let mut expected: Vec<_> = sampled.chunks(batch_size).collect();
            expected.retain(|batch| !drop_last_batch || batch.len() == batch_size);
            assert_eq!(batches, expected, "{setting:?}");
        }
    }
}

#[test]
fn a_resumed_epoch_sees_each_remaining_sample_exactly_once() {
    let mut random = Random(2);
    for _ in 0..400 {
        let setting = random.setting();
        let mut seen = HashSet::new();
        let mut position = Position { epoch: setting.epoch, samples: 0 };
        // An epoch that is interrupted several times, and goes on with another number of ranks each time.
        for attempt in 0.. {
            let (world_size, batch_size) = (1 + random.below(6), 1 + random.below(9));
            let taken = if attempt < 4 { random.below(4) } else { usize::MAX };
            let mut shares = Vec::new();
            let mut ends = HashSet::new();
            let mut finished = true;
            for rank in 0..world_size {
                let mut loader = setting.loader(world_size, rank, batch_size);
                loader.resume_at(position.epoch, position.samples);
                let mut batches = loader.epoch(setting.epoch).unwrap();
                let share: Vec<Vec<i64>> = batches.by_ref().take(taken).collect::<Result<_>>().unwrap();
                finished &= batches.next().is_none();
                drop(batches);
                let mut again = setting.loader(world_size, rank, batch_size);
                again.resume_at(position.epoch, position.samples);
                let _ = again.epoch(setting.epoch).unwrap().take(taken).count();
                ends.insert(again.position().samples);
                shares.push(share.concat());
            }
            assert_eq!(ends.len(), 1, "ranks stand at different positions: {setting:?}");
            let left = setting.len - seen.len();
            // In the order of the permutation.
            let rounds = shares[0].len();
            assert!(shares.iter().all(|share| share.len() == rounds), "{setting:?}");
            let given: Vec<i64> = (0..rounds).flat_map(|i| shares.iter().map(move |share| share[i])).collect();
            let repeated = given.len().saturating_sub(left);
            assert!(repeated < world_size && (repeated == 0 || !setting.drop_last), "{setting:?}");
            for &index in &given[..given.len() - repeated] {
                assert!(seen.insert(index), "{index} is seen twice: {setting:?}");
            }
            position.samples = ends.into_iter().next().unwrap();
            if finished {
                let missing = setting.len - seen.len();
                assert!(missing == 0 || (setting.drop_last && missing < world_size), "{missing} missing: {setting:?}");
                break;
            }
        }
    }
}

#[test]
fn with_the_same_world_size_an_epoch_goes_on_as_if_it_had_not_stopped() {
    let mut random = Random(3);
    for _ in 0..200 {
        let setting = random.setting();
        let (world_size, batch_size, taken) = (1 + random.below(5), 1 + random.below(7), random.below(6));
        let rank = random.below(world_size);
        let loader = setting.loader(world_size, rank, batch_size);
        let mut batches = loader.epoch(setting.epoch).unwrap();
        let _ = batches.by_ref().take(taken).count();
        let Position { epoch, samples } = loader.position();
        let rest: Vec<_> = batches.collect::<Result<_>>().unwrap();

        let mut resumed = setting.loader(world_size, rank, batch_size);
        resumed.resume_at(epoch, samples);
        assert_eq!(resumed.position(), Position { epoch, samples });
        assert_eq!(resumed.epoch(epoch).unwrap().collect::<Result<Vec<_>>>().unwrap(), rest, "{setting:?}");
        // Only once.
        let whole = setting.sampler(world_size, rank).indices().unwrap();
        assert_eq!(resumed.epoch(epoch).unwrap().collect::<Result<Vec<_>>>().unwrap().concat(), whole);
    }
}

#[test]
fn eval_loaders_cover_each_index_exactly_once() {
    let mut random = Random(4);
    for _ in 0..200 {
        let (len, world_size, batch_size) = (random.below(60), 1 + random.below(7), 1 + random.below(9));
        let mut all = Vec::new();
        for rank in 0..world_size {
            let sampler = EvalSampler::new(len, world_size, rank).unwrap();
            let loader = DataLoader::with_sampler(Indices(len), sampler, batch_size).unwrap();
            all.extend(loader.epoch(0).unwrap().collect::<Result<Vec<_>>>().unwrap().concat());
        }
        all.sort_unstable();
        assert_eq!(all, (0..len as i64).collect::<Vec<_>>());
    }
}

#[test]
fn the_position_counts_what_the_loop_was_given_and_not_what_is_made_ahead() {
    let sampler = DistributedSampler::new(100, 2, 0).unwrap();
    let loader = DataLoader::with_sampler(Indices(100), sampler, 8).unwrap().workers(3).prefetch(4);
    let mut batches = loader.epoch(7).unwrap();
    assert_eq!(loader.position(), Position { epoch: 7, samples: 0 });
    batches.next().unwrap().unwrap();
    batches.next().unwrap().unwrap();
    assert_eq!(loader.position(), Position { epoch: 7, samples: 32 });
    assert_eq!(batches.count(), 5);
    assert_eq!(loader.position(), Position { epoch: 7, samples: 100 });
}

/// A dataset of samples that fails at one of them.
struct Faulty {
    bad: usize,
    panics: bool,
}

impl Dataset for Faulty {
    type Item = (Tensor, i64);

    fn len(&self) -> usize {
        40
    }

    fn get(&self, index: usize) -> Result<Self::Item> {
        match index == self.bad {
            true if self.panics => panic!("no such picture"),
            true => Err(Error::other("the picture is torn")),
            false => Ok((Tensor::from_slice(&[index as f32]), index as i64)),
        }
    }
}

#[test]
fn a_datasets_error_or_panic_reaches_the_loop_and_names_the_sample() {
    for workers in [0, 1, 3] {
        for (panics, reason) in [(false, "the picture is torn"), (true, "panicked: no such picture")] {
            let sampler = DistributedSampler::new(40, 1, 0).unwrap().shuffle(false);
            let dataset = Faulty { bad: 17, panics }.stacked();
            let loader = DataLoader::with_sampler(dataset, sampler, 4).unwrap().workers(workers).device(Device::Cpu);
            let mut batches = loader.epoch(0).unwrap();
            for expected in 0..4 {
                let (x, y) = batches.next().unwrap().unwrap(); // the batches before it come, in order
                assert_eq!((x.size(), y.int64_value(&[0])), (vec![4, 1], expected * 4));
            }
            let err = batches.next().unwrap().unwrap_err();
            assert!(matches!(err, Error::Sample { index: 17, .. }));
            assert_eq!(err.to_string(), format!("sample 17: {reason}"));
            assert!(batches.next().is_none());
            assert_eq!(loader.position().samples, 16);
        }
    }
}

/// A dataset that fails as a whole batch.
struct FaultyBatches;

impl BatchDataset for FaultyBatches {
    type Batch = ();

    fn len(&self) -> usize {
        100
    }

    fn batch(&self, indices: &[i64]) -> Result<()> {
        if indices[0] == 20 {
            let _ = Tensor::from_slice(&[1, 2]).view([3i64]); // tch panics
        }
        Err(Error::Invalid("the disk is gone".into()))
    }
}

#[test]
fn a_batch_that_fails_names_its_samples() {
    let mut loader = DataLoader::with_sampler(FaultyBatches, ordered(100), 10).unwrap().workers(2);
    loader.resume_at(0, 10);
    let err = loader.epoch(0).unwrap().next().unwrap().unwrap_err();
    let samples = "10, 11, 12, 13, 14, 15, 16, 17, … (10 in all)";
    assert_eq!(err.to_string(), format!("batch of samples {samples}: the disk is gone"));
    loader.resume_at(0, 20);
    let err = loader.epoch(0).unwrap().next().unwrap().unwrap_err();
    let Error::Batch { indices, reason } = err else { panic!("{err}") };
    assert_eq!(indices, (20..30).collect::<Vec<_>>());
    assert!(matches!(*reason, Error::Panicked(message) if message.contains("invalid for input of size 2")));
}

#[test]
fn gradients_are_on_again_after_a_panic() {
    let loader = DataLoader::with_sampler(Faulty { bad: 0, panics: true }.stacked(), ordered(40), 4).unwrap();
    assert!(loader.epoch(0).unwrap().next().unwrap().is_err());
    let x = Tensor::from_slice(&[1f32]).set_requires_grad(true);
    assert!((x * 2).requires_grad());
}

fn ordered(len: usize) -> DistributedSampler {
    DistributedSampler::new(len, 1, 0).unwrap().shuffle(false)
}

/// A dataset that notes which threads read it, and how often.
#[derive(Default)]
struct Watched {
    threads: Mutex<HashSet<String>>,
    batches: AtomicUsize,
}

impl BatchDataset for Watched {
    type Batch = Tensor;

    fn len(&self) -> usize {
        10_000
    }

    fn batch(&self, indices: &[i64]) -> Result<Tensor> {
        let this_thread = fs::read_link("/proc/thread-self").unwrap(); // <pid>/task/<tid>
        self.threads.lock().unwrap().insert(this_thread.to_str().unwrap().to_owned());
        self.batches.fetch_add(1, Ordering::SeqCst);
        Ok(Tensor::from_slice(indices))
    }
}

#[test]
#[cfg(target_os = "linux")]
fn dropping_the_batches_early_leaves_no_thread_and_makes_no_more() {
    for (workers, prefetch, taken) in [(1, 1, 0), (2, 2, 3), (8, 1, 20), (3, 5, 1)] {
        let dataset = Arc::new(Watched::default());
        let loader = DataLoader::with_sampler(Arc::clone(&dataset), ordered(10_000), 1).unwrap();
        let loader = loader.workers(workers).prefetch(prefetch);
        let mut batches = loader.epoch(0).unwrap();
        for _ in 0..taken {
            let _ = batches.next().unwrap().unwrap();
        }
        drop(batches);
        let made = dataset.batches.load(Ordering::SeqCst);
        // Ahead of the loop by no more than the prefetch, and what was in the making.
        assert!(made <= taken + workers * (prefetch + 1), "{made} batches made, {taken} taken");
        let threads = dataset.threads.lock().unwrap();
        assert!(threads.len() <= workers);
        // A thread that was joined may still be on its way out of /proc.
        let start = Instant::now();
        while threads.iter().any(|thread| fs::exists(format!("/proc/{thread}")).unwrap()) {
            assert!(start.elapsed() < BOUND, "threads are left");
            std::thread::yield_now();
        }
        assert_eq!(dataset.batches.load(Ordering::SeqCst), made);
    }
}

#[test]
fn a_prefetch_of_one_and_many_workers_do_not_lock_up() {
    let (done, is_done) = mpsc::channel();
    std::thread::spawn(move || {
        for (len, workers) in [(0, 4), (1, 16), (5, 16), (300, 16), (300, 1), (301, 7)] {
            let loader = DataLoader::with_sampler(Indices(len), ordered(len), 2).unwrap().workers(workers).prefetch(1);
            for epoch in 0..5 {
                let all = loader.epoch(epoch).unwrap().collect::<Result<Vec<_>>>().unwrap().concat();
                assert_eq!(all, (0..len as i64).collect::<Vec<_>>());
            }
        }
        done.send(()).unwrap();
    });
    is_done.recv_timeout(BOUND).unwrap();
}

#[test]
fn workers_give_the_batches_that_the_loops_thread_would() {
    let x = Tensor::arange(1000, (Kind::Float, Device::Cpu)).view([250, 4]);
    let y = Tensor::arange(250, (Kind::Int64, Device::Cpu));
    let batches = |workers| {
        let dataset = TensorDataset::new((x.shallow_clone(), y.shallow_clone())).unwrap();
        let sampler = DistributedSampler::new(250, 3, 1).unwrap().seed(5);
        let loader = DataLoader::with_sampler(dataset, sampler, 16).unwrap().workers(workers).device(Device::Cpu);
        loader.epoch(2).unwrap().collect::<Result<Vec<_>>>().unwrap()
    };
    let alone = batches(0);
    assert_eq!(alone.len(), 6);
    for (x, y) in &alone {
        assert_eq!(x.select(1, 0), (y * 4).to_kind(Kind::Float)); // rows stay together
    }
    assert_eq!(batches(1), alone);
    assert_eq!(batches(4), alone);
}

#[test]
fn a_batch_size_of_zero_is_refused() {
    assert!(DataLoader::with_sampler(Indices(3), ordered(3), 0).is_err());
}

#[test]
#[ignore = "needs a GPU"]
fn batches_come_to_the_gpu_by_pinned_memory() {
    let device = Device::Cuda(0);
    let x = Tensor::arange(1000, (Kind::Float, Device::Cpu));
    for data in [x.shallow_clone(), x.to_device(device)] {
        let loader = DataLoader::with_sampler(TensorDataset::new(data).unwrap(), ordered(1000), 64).unwrap();
        let loader = loader.workers(2).device(device);
        let batches: Vec<_> = loader.epoch(0).unwrap().collect::<Result<_>>().unwrap();
        assert!(batches.iter().all(|batch| batch.device() == device));
        assert_eq!(Tensor::cat(&batches, 0).to_device(Device::Cpu), x);
    }
}
