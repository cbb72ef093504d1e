//! When snapshots are saved, how, and which are kept.

use std::time::Duration;

use super::{Goal, Snapshots};

impl Snapshots {
    /// Saves every `steps` steps. 0 is never, the default.
    pub fn every_steps(mut self, steps: u64) -> Self {
        self.due.every_steps = Some(steps);
        self.saves |= steps > 0;
        self
    }

    /// Saves after every `epochs` epochs. 0 is never, the default.
    pub fn every_epochs(mut self, epochs: u64) -> Self {
        self.due.every_epochs = Some(epochs);
        self.saves |= epochs > 0;
        self
    }

    /// Saves when this time has passed since the last snapshot or the start, by rank 0's clock.
    pub fn every(mut self, period: Duration) -> Self {
        self.due.every = Some(period);
        self.saves = true;
        self
    }

    /// Removes all but the newest `count` valid snapshots (at least 1) after each that is saved. Without this, all stay.
    ///
    /// These always stay, too: the one just saved; the one that the run was resumed from, until a newer one is valid; when
    /// the loss or the weights are no longer finite numbers, the newest from before; what a link points to; and damaged
    /// ones that are newer than those, which do not count. What can't be removed stays, with a warning.
    ///
    /// A snapshot that this process has not written is read and verified once, in the background. Later looks compare
    /// sizes and times of its files.
    pub fn keep_last(mut self, count: usize) -> Self {
        self.saves = true;
        self.policy.last = Some(count.max(1));
        self
    }

    /// Of those that [`keep_last`](Self::keep_last) would remove, the `count` with the best
    /// [metric](crate::Run::metric) of all stay.
    pub fn keep_best(mut self, count: usize, goal: Goal) -> Self {
        self.saves = true;
        self.policy.best = Some((count, goal));
        self.policy.last = self.policy.last.or(Some(1));
        self
    }

    /// Of those that [`keep_last`](Self::keep_last) would remove, one for every `steps` steps stays: the first at or after each
    /// multiple of `steps`. So does the one from which the run resumed with another number of ranks. From these, `cargo ddp
    /// run --at-step N` goes to any step. 0 is none, the default.
    pub fn keep_every(mut self, steps: u64) -> Self {
        self.policy.every = Some(steps).filter(|steps| *steps > 0);
        if steps > 0 {
            self.saves = true;
            self.policy.last = self.policy.last.or(Some(1));
        }
        self
    }

    /// Makes [`Run::save`](crate::Run::save) return when the snapshot is on disk, instead of writing it while training continues: off
    /// by default. It also spares the memory of a second snapshot in the making.
    pub fn blocking(mut self, blocking: bool) -> Self {
        self.blocking = blocking;
        self
    }

    /// Whether a snapshot is on the disk itself before it counts: on by default. Off, the kernel writes it when it likes,
    /// as after `torch.save`: it is complete when a process dies, but a power cut may take or damage the newest ones.
    pub fn durable(mut self, durable: bool) -> Self {
        self.durable = durable;
        self
    }

    /// Whether [`Run::step_done`](crate::Run::step_done) takes SIGTERM, SIGINT (Ctrl-C) and SIGUSR1 for a request to save and
    /// end: on by default. Before its first call, the signals do what they always do.
    pub fn preemption(mut self, preemption: bool) -> Self {
        self.preemption = preemption;
        self
    }
}
