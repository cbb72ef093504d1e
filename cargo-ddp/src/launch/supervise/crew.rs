//! The workers of the attempt in progress, and what they share.

use std::os::fd::BorrowedFd;

use ddp_contract::file;
use rustix::process::{Pid, Rlimit};
use signal_hook::consts::SIGCHLD;

use super::decider::LastMessages;
use crate::editor::debug;
use crate::launch::nodes::LONGEST_ERROR_FILE;
use crate::launch::plan::LaunchPlan;
use crate::launch::process::port::Port;
use crate::launch::process::worker::{Worker, start_all};
use crate::os::adopted;
use crate::os::deaths::Deaths;
use crate::os::descriptors::raise_limit;
use crate::os::signals::Signals;
use crate::{Error, Result};

/// How many of a failed worker's last lines are reported.
pub(super) const LAST_LINES: usize = 10;

pub(super) struct Crew {
    pub(super) workers: Vec<Worker>,
    /// From 0.
    pub(super) attempt: u32,
    /// Workers that a debugger started, and their port, until the first attempt begins.
    joined: Option<(Port, Vec<Worker>)>,
    /// Ours as long as the attempt lasts.
    port: Option<Port>,
    deaths: Deaths,
    /// Ends of children that we did not start.
    orphans: Signals,
    /// The limit of descriptors that workers get.
    descriptors: Rlimit,
}

impl Crew {
    pub(super) fn new(joined: Option<(Port, Vec<Worker>)>) -> Result<Self> {
        let orphans = Signals::only(SIGCHLD).map_err(Error::system("can't catch signals"))?;
        let deaths = Deaths::new().map_err(Error::system("can't watch for the ends of workers"))?;
        let (workers, port, descriptors) = (vec![], None, raise_limit());
        Ok(Self { workers, attempt: 0, joined, port, deaths, orphans, descriptors })
    }

    /// Starts this node's workers. `port` is where all ranks meet, if that is on another node. Returns the port.
    pub(super) fn start(&mut self, plan: &LaunchPlan, attempt: u32, port: Option<u16>) -> Result<u16> {
        let start = |port: Port| Ok((start_all(plan, attempt, &port, self.descriptors)?, port));
        let (workers, mut port) = match (self.joined.take(), port) {
            (Some((port, workers)), _) => (workers, port),
            (None, Some(number)) => start(Port::remote(number))?,
            (None, None) => start(Port::open(plan.store, plan.nodes.address)?)?,
        };
        self.workers = workers;
        self.attempt = attempt;
        port.started();
        let number = port.number();
        self.port = Some(port);
        for (index, worker) in self.workers.iter().enumerate() {
            self.deaths.watch(index, &worker.pidfd).map_err(Error::system("can't watch a worker"))?;
        }
        Ok(number)
    }

    pub(super) fn alive(&self) -> impl Iterator<Item = &Worker> {
        self.workers.iter().filter(|worker| worker.alive)
    }

    pub(super) fn pids(&self) -> Vec<u32> {
        self.workers.iter().map(Worker::pid).collect()
    }

    pub(super) fn signal(&self, signal: i32) {
        for worker in self.alive() {
            worker.signal(signal);
            // One that is stopped (SIGSTOP) could not hear it.
            worker.signal(libc::SIGCONT);
        }
    }

    pub(super) fn is_debugged(&self) -> bool {
        self.alive().any(|worker| debug::is_debugged(worker.pid()))
    }

    pub(super) fn deaths_fd(&self) -> BorrowedFd<'_> {
        self.deaths.fd()
    }

    pub(super) fn orphan_fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.orphans.fds()
    }

    /// Reaps children that we did not start. `others` are children that are waited for elsewhere.
    pub(super) fn reap_orphans(&mut self, others: impl Iterator<Item = Pid>) {
        self.orphans.take();
        adopted::reap_adopted(&self.children(others));
    }

    /// The indices of workers that have ended, in the order in which they did.
    pub(super) fn ended(&self) -> Result<Vec<usize>> {
        self.deaths.ended().map_err(Error::system("can't wait for the workers"))
    }

    /// Nothing is to be reported of this worker's end any more.
    pub(super) fn forget_death(&self, index: usize) {
        self.deaths.forget(&self.workers[index].pidfd);
    }

    /// Ends everything that the workers started. `others` are children that are waited for elsewhere.
    pub(super) fn end_attempt(&mut self, others: impl Iterator<Item = Pid>) {
        adopted::end_adopted(&self.children(others));
        self.port = None;
    }

    /// Kills all workers.
    pub(super) fn reap_all(&mut self) {
        for worker in self.workers.iter_mut().filter(|worker| worker.alive) {
            let _ = worker.reap();
        }
    }

    fn children(&self, others: impl Iterator<Item = Pid>) -> Vec<Pid> {
        self.alive().map(Worker::as_pid).chain(others).collect()
    }

    pub(super) fn last_lines(&self, rank: usize) -> Vec<String> {
        let worker = self.workers.iter().find(|worker| worker.rank == rank);
        worker.map(|worker| worker.stderr.tail.last_lines(LAST_LINES)).unwrap_or_default()
    }

    /// What a worker has left for the report, if it failed.
    pub(super) fn last_messages(&self, plan: &LaunchPlan, rank: usize) -> LastMessages {
        // One that is too long for a message would be of no use in part.
        let error_file = file::read(&plan.error_file(rank, self.attempt), LONGEST_ERROR_FILE as u64).ok();
        let error_file = error_file.and_then(|text| String::from_utf8(text).ok());
        LastMessages { lines: self.last_lines(rank), error_file }
    }
}
