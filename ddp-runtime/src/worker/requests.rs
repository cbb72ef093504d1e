//! Requests to compare the ranks' tensors: `cargo ddp diff` asks the first worker of a node.

use std::os::unix::net::{UnixListener, UnixStream};

use ddp_contract::env;
use ddp_contract::rank_diff::{RankDiff, socket_name};

use crate::os::requests;

/// Listens for requests, and answers them.
#[derive(Debug)]
pub(crate) struct DiffRequests {
    /// The socket's name; `None` on workers that are not asked.
    name: Option<String>,
    /// `None` until it is opened: another run of this process may still have it.
    listener: Option<UnixListener>,
    /// Those that have no answer yet.
    pending: Vec<UnixStream>,
}

impl DiffRequests {
    /// For the worker with this rank, if it `is_asked`: the first one of a node.
    pub(crate) fn new(rank: usize, is_asked: bool) -> Self {
        let run = std::env::var(env::RUN_ID).ok().filter(|_| is_asked);
        let name = run.map(|run| socket_name(requests::pid_namespace(), &run, rank));
        let mut requests = Self { name, listener: None, pending: Vec::new() };
        requests.open();
        requests
    }

    /// Whether a request waits for its answer.
    pub(crate) fn arrived(&mut self) -> bool {
        self.open();
        if let Some(listener) = &self.listener {
            self.pending.extend(requests::take(listener));
        }
        !self.pending.is_empty()
    }

    /// Answers all requests.
    pub(crate) fn answer(&mut self, diff: &RankDiff) {
        let pending = std::mem::take(&mut self.pending);
        let Ok(answer) = serde_json::to_vec(diff) else { return };
        pending.into_iter().for_each(|request| requests::answer(request, &answer));
    }

    fn open(&mut self) {
        if let (None, Some(name)) = (&self.listener, &self.name) {
            self.listener = requests::listen(name).ok();
        }
    }
}
