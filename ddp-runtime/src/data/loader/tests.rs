//! The loader as a training loop sees it.

use std::collections::HashSet;
use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use tch::{Device, Kind, Tensor};

use crate::data::loader::properties::Indices;
use crate::data::loader::workers::{Load, Workers};
use crate::data::{BatchDataset, DataLoader, Dataset, Position, TensorDataset, TokenDataset, TokenKind};
use crate::{DistributedSampler, Error, Result};

/// Longer than any test takes.
const BOUND: Duration = Duration::from_secs(60);

#[test]
fn position_counts_batches_that_the_loop_got_and_not_prefetched_ones() {
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
fn dataset_error_or_panic_reaches_the_loop_and_names_the_sample() {
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
fn batch_that_fails_names_its_samples() {
    let mut loader = DataLoader::with_sampler(FaultyBatches, ordered(100), 10).unwrap().workers(2);
    loader.resume_at(Position { epoch: 0, samples: 10 });
    let err = loader.epoch(0).unwrap().next().unwrap().unwrap_err();
    let samples = "10, 11, 12, 13, 14, 15, 16, 17, … (10 in all)";
    assert_eq!(err.to_string(), format!("batch of samples {samples}: the disk is gone"));
    loader.resume_at(Position { epoch: 0, samples: 20 });
    let err = loader.epoch(0).unwrap().next().unwrap().unwrap_err();
    let Error::Batch { indices, reason } = err else { panic!("{err}") };
    assert_eq!(indices, (20..30).collect::<Vec<_>>());
    assert!(matches!(*reason, Error::Panicked { message, .. } if message.contains("invalid for input of size 2")));
}

#[test]
fn gradients_are_enabled_again_after_a_panic() {
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
fn batches_dropped_early_leave_no_thread_and_load_no_more() {
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
fn prefetch_of_one_with_many_workers_does_not_deadlock() {
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
fn collate_errors_and_panics_name_the_batch() {
    type Collated = fn(Vec<(Tensor, i64)>) -> Result<i64>;
    let fails: Collated = |_| Err(Error::Invalid("too long".into()));
    let panics: Collated = |_| panic!("too long");
    for (collate, reason) in [(fails, "too long"), (panics, "panicked: too long")] {
        for workers in [0, 2] {
            let dataset = Faulty { bad: 99, panics: false }.collated(collate);
            let loader = DataLoader::with_sampler(dataset, ordered(40), 2).unwrap().workers(workers);
            let err = loader.epoch(0).unwrap().next().unwrap().unwrap_err();
            assert_eq!(err.to_string(), format!("batch of samples 0, 1: {reason}"));
        }
    }
}

#[test]
fn worker_that_died_is_an_error_instead_of_a_hang() {
    // Past everything that catches panics.
    let load: Arc<Load<usize>> =
        Arc::new(|batch| if batch == 3 { std::panic::resume_unwind(Box::new("gone")) } else { Ok(batch) });
    let workers = Workers::start(&load, 10, 2, 1, || Ok(())).unwrap();
    assert!((0..3).all(|batch| workers.take(batch).unwrap() == batch));
    assert_eq!(workers.take(3).unwrap_err().to_string(), "panicked: data worker 1 has stopped");
}

#[test]
fn loader_uses_its_samplers_settings_and_each_epoch_has_its_own_order() {
    let context = crate::Context::builder().backend(crate::Backend::Gloo).init().unwrap();
    let loader = DataLoader::new(&context, Indices(50), 7).unwrap().seed(3).workers(2);
    let orders: Vec<Vec<i64>> = (0..3)
        .map(|epoch| {
            let mut sampler = DistributedSampler::new(50, 1, 0).unwrap().seed(3);
            sampler.set_epoch(epoch);
            let order = loader.epoch(epoch).unwrap().collect::<Result<Vec<_>>>().unwrap().concat();
            assert_eq!(order, sampler.indices().unwrap());
            order
        })
        .collect();
    assert!(orders[0] != orders[1] && orders[1] != orders[2]);
    let position = serde_json::to_string(&loader.position()).unwrap();
    assert_eq!(serde_json::from_str::<Position>(&position).unwrap(), Position { epoch: 2, samples: 50 });
    let ordered = DataLoader::new(&context, Indices(50), 7).unwrap().shuffle(false);
    assert_eq!(ordered.epoch(1).unwrap().next().unwrap().unwrap(), [0, 1, 2, 3, 4, 5, 6]);
}

#[test]
fn workers_share_the_map_of_a_token_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tokens.bin");
    fs::write(&path, (0..101u16).flat_map(u16::to_le_bytes).collect::<Vec<_>>()).unwrap();
    let dataset = TokenDataset::open(&path, TokenKind::U16, 4).unwrap().stride(4).unwrap();
    let len = dataset.len();
    let loader = DataLoader::with_sampler(dataset, ordered(len), 3).unwrap().workers(8);
    let (x, y): (Vec<_>, Vec<_>) = loader.epoch(0).unwrap().collect::<Result<Vec<_>>>().unwrap().into_iter().unzip();
    let (x, y) = (Tensor::cat(&x, 0).flatten(0, -1), Tensor::cat(&y, 0).flatten(0, -1));
    assert_eq!(x, Tensor::arange(100, (Kind::Int64, Device::Cpu)));
    assert_eq!(y, x + 1);
}

#[test]
fn unknown_gpu_is_an_error_of_the_first_batch() {
    if tch::Cuda::is_available() {
        return;
    }
    for workers in [0, 3] {
        let dataset = TensorDataset::new(Tensor::from_slice(&[1f32, 2.0, 3.0])).unwrap();
        let loader = DataLoader::with_sampler(dataset, ordered(3), 1).unwrap().workers(workers);
        let loader = loader.device(Device::Cuda(0));
        let mut batches = loader.epoch(0).unwrap();
        let err = batches.next().unwrap().unwrap_err();
        assert!(matches!(err, Error::Torch { .. }), "{err}");
        assert!(batches.next().is_none());
    }
}

/// Each sample tells which epoch it was read for.
struct Epochs;

impl Dataset for Epochs {
    type Item = i64;

    fn len(&self) -> usize {
        6
    }

    fn get(&self, _index: usize) -> Result<i64> {
        panic!("the loader asks for the samples of an epoch")
    }

    fn get_in_epoch(&self, epoch: u64, index: usize) -> Result<i64> {
        Ok(epoch as i64 * 10 + index as i64)
    }
}

#[test]
fn samples_get_their_epoch_with_and_without_workers_and_after_a_resume() {
    for workers in [0, 2] {
        let loader = || DataLoader::with_sampler(Arc::new(Epochs.stacked()), ordered(6), 2).unwrap().workers(workers);
        let numbers = |loader: &DataLoader<_>, epoch| -> Vec<Vec<i64>> {
            loader.epoch(epoch).unwrap().map(|batch| Vec::try_from(batch.unwrap()).unwrap()).collect()
        };
        assert_eq!(numbers(&loader(), 4), [[40, 41], [42, 43], [44, 45]]);
        let mut resumed = loader();
        resumed.resume_at(Position { epoch: 4, samples: 2 });
        assert_eq!(numbers(&resumed, 4), [[42, 43], [44, 45]]);
        assert_eq!(numbers(&resumed, 5)[0], [50, 51]);
    }
    let collated = Epochs.collated(Ok);
    assert_eq!(collated.batch_in_epoch(2, &[3]).unwrap(), [23]);
}

#[test]
fn batch_size_of_zero_is_refused() {
    assert!(DataLoader::with_sampler(Indices(3), ordered(3), 0).is_err());
}

#[test]
#[ignore = "needs a GPU"]
fn batches_reach_the_gpu_through_pinned_memory() {
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
