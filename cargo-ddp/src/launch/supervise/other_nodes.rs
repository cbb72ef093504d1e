//! What the launchers of other nodes send and are sent.

use std::io::Write;
use std::time::Instant;

use super::decider::Decider;
use super::dispatch::{Input, comparable};
use super::watch::Watch;
use crate::Result;
use crate::launch::event::LaunchEvent;
use crate::launch::nodes::{FromCoordinator, Lost, ToCoordinator};
use crate::launch::outcome::Verdict;
use crate::launch::run::logs;

impl Watch<'_> {
    /// Reads what another launcher has sent.
    pub(crate) fn listen(&mut self, index: usize) -> Result<Option<Verdict>> {
        let Some(link) = self.decider.link(index) else { return Ok(None) };
        if let Err(lost) = link.flush() {
            return self.lost(index, &lost.0);
        }
        let nodes = &self.plan.nodes;
        let invalid = |problem| Lost(format!("received an invalid message: {problem}"));
        if nodes.own == 0 {
            let ranks = nodes.members[index + 1].ranks();
            let messages = link.read::<ToCoordinator>().and_then(|messages| {
                messages.iter().try_for_each(|message| message.check(&ranks)).map_err(invalid)?;
                Ok(messages)
            });
            match messages {
                Ok(messages) => self.handle_reports(index, messages),
                Err(lost) => self.lost(index, &lost.0),
            }
        } else {
            let world_size = nodes.world_size();
            let orders = link.read::<FromCoordinator>().and_then(|orders| {
                orders.iter().try_for_each(|order| order.check(world_size)).map_err(invalid)?;
                Ok(orders)
            });
            match orders {
                Ok(orders) => self.obey(orders),
                Err(lost) => self.lost(index, &lost.0),
            }
        }
    }

    /// Handles what another node's launcher reports.
    fn handle_reports(&mut self, index: usize, messages: Vec<ToCoordinator>) -> Result<Option<Verdict>> {
        for message in messages {
            let input = match message {
                ToCoordinator::Alive => None,
                ToCoordinator::Exited { rank, pid, exit, message, last_lines, error_file } => {
                    let stderr = comparable(&last_lines.join("\n"));
                    self.reports.remote_lines.insert(rank, last_lines);
                    self.write_error_file(rank, error_file);
                    Some(Input::Exited { rank, pid, exit, message, stderr })
                }
                ToCoordinator::Event { rank, event } => {
                    self.reports.reporter.report(LaunchEvent::Worker { rank, event: event.clone() });
                    Some(Input::Event { rank, event })
                }
                ToCoordinator::Output { rank } => Some(Input::Output { rank }),
                ToCoordinator::Signal(signal) => Some(Input::Signal(signal)),
                ToCoordinator::Traced(suspect) => self.decider.suspect(suspect),
                ToCoordinator::GivesUp(why) => return self.lost(index, &why),
            };
            if let Some(input) = input
                && let Some(verdict) = self.dispatch(input)?
            {
                return Ok(Some(verdict));
            }
        }
        Ok(None)
    }

    /// A remote worker's error file is written here, too, so that it is reported like a local one.
    fn write_error_file(&self, rank: usize, error_file: Option<String>) {
        let path = self.plan.error_file(rank, self.crew.attempt);
        if let Some(error_file) = error_file {
            // Without it the report is shorter.
            let _ = logs::create(&path).and_then(|mut file| file.write_all(error_file.as_bytes()));
        }
    }

    /// Does what node 0 orders.
    fn obey(&mut self, orders: Vec<FromCoordinator>) -> Result<Option<Verdict>> {
        for order in orders {
            tracing::trace!(?order, "node 0");
            match order {
                FromCoordinator::Welcome { .. } | FromCoordinator::Alive => {}
                FromCoordinator::Start { attempt, port } => self.start(attempt, Some(port))?,
                FromCoordinator::Signal(signal) => self.crew.signal(signal),
                FromCoordinator::Announce { after, attempt, delay, newest } => {
                    self.announce(&after, attempt, delay, newest);
                }
                FromCoordinator::Trace { idle, steps } => self.trace(idle, steps),
                FromCoordinator::Finish(verdict) => {
                    self.finish(&verdict);
                    return Ok(Some(verdict));
                }
                FromCoordinator::GivesUp(why) => return self.lost(0, &why),
            }
        }
        Ok(None)
    }

    /// Another launcher is gone.
    pub(crate) fn lost(&mut self, index: usize, why: &str) -> Result<Option<Verdict>> {
        let nodes = &self.plan.nodes;
        let node = if nodes.own == 0 { index + 1 } else { 0 };
        let why = format!("{} was lost: {why}", nodes.name(node));
        tracing::debug!(node, why, "node lost");
        self.reports.reporter.report(LaunchEvent::NodeLost { why: why.clone() });
        if nodes.own == 0 {
            self.decider.forget(index);
            return self.dispatch(Input::NodeLost { ranks: nodes.members[node].ranks(), why });
        }
        let alive: Vec<_> = self.crew.alive().map(|worker| worker.rank).collect();
        let (decider, actions) = Decider::cut_off(self.plan, &alive, why, Instant::now());
        self.decider = decider;
        self.act(actions)
    }
}
