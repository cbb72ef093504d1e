//! The loader's threads under thousands of schedules: `workers.rs` and `batches.rs` once more, on shuttle's threads and
//! channels, which run one at a time in an order of shuttle's choice. It also finds threads that wait for each other.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use shuttle::rand::{Rng, thread_rng};
use shuttle::scheduler::{PctScheduler, RandomScheduler};

use crate::data::Position;
use crate::data::loader::transfer::{Ahead, Arrive, StartCopy};
use crate::{Error, Result};

#[expect(clippy::duplicate_mod, reason = "the same code on other threads")]
#[path = "batches.rs"]
mod batches;
#[expect(clippy::duplicate_mod, reason = "the same code on other threads")]
#[path = "workers.rs"]
mod workers;

/// What takes the place of `data::sync`.
mod sync {
    use std::cell::Cell;
    use std::io;

    pub use shuttle::sync::mpsc::{Receiver, SyncSender, sync_channel};
    pub use shuttle::thread::JoinHandle;

    thread_local! {
        /// How many more threads can be started.
        pub static THREADS_LEFT: Cell<usize> = const { Cell::new(usize::MAX) };
    }

    pub fn join(threads: Vec<JoinHandle<()>>) {
        for thread in threads {
            let _ = thread.join();
        }
    }

    /// Shuttle's, but for the limit.
    pub struct Builder(shuttle::thread::Builder);

    impl Builder {
        pub fn new() -> Self {
            Self(shuttle::thread::Builder::new())
        }

        pub fn name(self, name: String) -> Self {
            Self(self.0.name(name))
        }

        pub fn spawn(self, run: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
            let left = THREADS_LEFT.get().checked_sub(1).ok_or(io::ErrorKind::WouldBlock)?;
            THREADS_LEFT.set(left);
            self.0.spawn(run)
        }
    }
}

use batches::{Batches, Cursor};
use workers::{Load, Workers};

const SCHEDULES: usize = 1000;
const BATCHES: usize = 20;

/// Runs `scenario` under random schedules, and under such as find what needs a few rare switches.
/// (<https://www.microsoft.com/en-us/research/publication/a-randomized-scheduler-with-probabilistic-guarantees-of-finding-bugs>)
fn check(scenario: fn()) {
    shuttle::Runner::new(RandomScheduler::new_from_seed(1, SCHEDULES), Default::default()).run(scenario);
    shuttle::Runner::new(PctScheduler::new_from_seed(2, 3, SCHEDULES), Default::default()).run(scenario);
}

/// 8 workers, or 1 to 8 of them, and the number that each makes ahead.
fn workers_and_prefetch() -> (usize, usize) {
    let workers = if thread_rng().gen_bool(0.5) { 8 } else { thread_rng().gen_range(1..8) };
    (workers, thread_rng().gen_range(1..4))
}

/// A dataset of `BATCHES` batches, each its number.
struct Made {
    load: Arc<Load<usize>>,
    count: Arc<AtomicUsize>,
    /// Copies to the device that the loop has not waited for; `None` if batches are not copied ahead.
    under_way: Option<Arc<AtomicUsize>>,
}

struct TestCopy(Arc<AtomicUsize>);

impl Arrive for TestCopy {
    fn arrive(&self) -> Result<()> {
        assert_eq!(self.0.fetch_sub(1, Ordering::SeqCst), 1, "a copy is waited for once");
        Ok(())
    }
}

impl Made {
    fn new(fails: impl Fn(usize) -> bool + Send + Sync + 'static) -> Self {
        let count = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&count);
        let load = Arc::new(move |batch| {
            shuttle::thread::yield_now();
            counter.fetch_add(1, Ordering::SeqCst);
            if fails(batch) { Err(Error::Invalid(batch.to_string())) } else { Ok(batch) }
        });
        let under_way = thread_rng().gen_bool(0.5).then(Default::default);
        Self { load, count, under_way }
    }

    fn batches<'a>(&self, workers: usize, prefetch: usize, position: &'a Cell<Position>) -> Batches<'a, usize> {
        let workers = Some(Workers::start(&self.load, BATCHES, workers, prefetch, || Ok(())).unwrap());
        let start = Position::default();
        let cursor =
            Cursor { next: 0, batches: BATCHES, batch_size: 1, samples: BATCHES, num_replicas: 1, start, position };
        let start_copy = self.under_way.clone().map(|under_way| -> Box<StartCopy<usize>> {
            Box::new(move |batch| {
                assert_eq!(under_way.fetch_add(1, Ordering::SeqCst), 0, "one batch ahead");
                Ok(Ahead::new(batch, TestCopy(Arc::clone(&under_way))))
            })
        });
        Batches { load: Arc::clone(&self.load), workers, transfer: None, start_copy, ahead: None, cursor }
    }

    /// Batches that may be in the loop's hands already.
    fn ahead(&self) -> usize {
        usize::from(self.under_way.is_some())
    }

    fn copies_under_way(&self) -> usize {
        self.under_way.as_ref().map_or(0, |under_way| under_way.load(Ordering::SeqCst))
    }

    fn count(&self) -> usize {
        self.count.load(Ordering::SeqCst)
    }

    /// Threads that can still make batches, and `Batches`.
    fn users(&self) -> usize {
        Arc::strong_count(&self.load) - 1
    }
}

#[test]
fn batches_arrive_in_order_and_the_last_one_ends_the_threads() {
    check(|| {
        let (workers, prefetch) = workers_and_prefetch();
        let made = Made::new(|_| false);
        let position = Cell::default();
        let mut batches = made.batches(workers, prefetch, &position);
        for number in 0..BATCHES {
            assert_eq!(batches.next().unwrap().unwrap(), number);
            assert!(made.count() <= number + 1 + made.ahead() + workers * prefetch, "made too far ahead");
        }
        assert_eq!(made.copies_under_way(), 0);
        assert_eq!((made.users(), made.count()), (1, BATCHES));
        assert!(batches.next().is_none());
    });
}

#[test]
fn batches_dropped_at_any_point_end_all_threads() {
    check(|| {
        let (workers, prefetch) = workers_and_prefetch();
        let taken = thread_rng().gen_range(0..BATCHES);
        let made = Made::new(|_| false);
        let position = Cell::default();
        let mut batches = made.batches(workers, prefetch, &position);
        assert!(batches.by_ref().take(taken).map(Result::unwrap).eq(0..taken));
        drop(batches);
        assert_eq!(made.users(), 0, "threads are left");
        assert_eq!(made.copies_under_way(), 0, "memory is freed while it is written to");
        assert!(made.count() <= taken + made.ahead() + workers * prefetch, "{} made, {taken} taken", made.count());
    });
}

#[test]
fn first_batch_that_fails_is_the_last_one_whatever_the_schedule() {
    check(|| {
        let (workers, prefetch) = workers_and_prefetch();
        let first = thread_rng().gen_range(0..BATCHES);
        let often = thread_rng().gen_range(1..4);
        let made = Made::new(move |batch| batch >= first && (batch - first).is_multiple_of(often));
        let position = Cell::default();
        let mut batches = made.batches(workers, prefetch, &position);
        assert!(batches.by_ref().take(first).map(Result::unwrap).eq(0..first));
        assert_eq!(batches.next().unwrap().unwrap_err().to_string(), first.to_string());
        assert_eq!(made.users(), 1, "threads are left");
        assert!(batches.next().is_none());
        assert_eq!(position.get().samples, first as u64);
    });
}

#[test]
fn worker_whose_setup_fails_reports_it_in_its_first_batch() {
    check(|| {
        let (workers, prefetch) = workers_and_prefetch();
        let made = Made::new(|_| false);
        // One of the threads; which, is the schedule's choice.
        let bad = Arc::new(AtomicUsize::new(thread_rng().gen_range(1..=workers)));
        let set_up = move || match bad.fetch_sub(1, Ordering::SeqCst) {
            1 => Err(Error::Invalid("no such GPU".into())),
            _ => Ok(()),
        };
        let pool = Workers::start(&made.load, BATCHES, workers, prefetch, set_up).unwrap();
        let first: Vec<_> = (0..workers).map(|batch| pool.take(batch)).collect();
        for (number, batch) in first.iter().enumerate() {
            match batch {
                Ok(batch) => assert_eq!(*batch, number),
                Err(err) => assert_eq!(err.to_string(), "no such GPU"),
            }
        }
        assert_eq!(first.iter().filter(|batch| batch.is_err()).count(), 1);
        drop(pool);
        assert_eq!(made.users(), 0, "threads are left");
    });
}

#[test]
fn thread_that_cannot_be_started_ends_the_earlier_ones() {
    check(|| {
        let (_, prefetch) = workers_and_prefetch();
        let made = Made::new(|_| false);
        let last = thread_rng().gen_range(2..8);
        sync::THREADS_LEFT.set(last);
        let started = Workers::start(&made.load, BATCHES, 8, prefetch, || Ok(()));
        sync::THREADS_LEFT.set(usize::MAX);
        let err = started.err().unwrap().to_string();
        assert!(err.starts_with(&format!("can't start data worker {last}: ")), "{err}");
        assert_eq!(made.users(), 0, "threads are left");
    });
}
