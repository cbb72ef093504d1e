//! Who decides: the dispatcher here, or that of node 0's launcher.

use std::time::{Duration, Instant};

use super::dispatch::{Action, Dispatcher, Input, SIGKILL};
use crate::launch::nodes::{FromCoordinator, LONGEST_LINE, LONGEST_TEXT, Link, Lost, ToCoordinator, shortened};
use crate::launch::outcome::{Suspect, Verdict};
use crate::launch::plan::LaunchPlan;
use crate::os::signals::is_user_signal;

/// Of programs that send no events, output is a sign of life, which is reported to node 0 this often.
const OUTPUT_BEAT: Duration = Duration::from_secs(1);

pub(crate) enum Decider {
    /// This launcher, for all nodes.
    Local {
        dispatcher: Box<Dispatcher>,
        /// The other launchers, by node rank from 1; `None` for one that is gone.
        others: Vec<Option<Link>>,
        /// While the stacks of a stalled job are written: how many nodes have not answered, and the suspects of the others.
        traces: (usize, Vec<Suspect>),
    },
    /// Node 0.
    Remote { link: Link, signaled: bool, output_reported: Instant },
}

/// What a worker that failed has left for the report.
pub(crate) struct LastMessages {
    pub(crate) lines: Vec<String>,
    pub(crate) error_file: Option<String>,
}

impl Decider {
    pub(crate) fn new(plan: &LaunchPlan, links: Vec<Link>, now: Instant) -> Self {
        let mut links = links.into_iter();
        if plan.nodes.own == 0 {
            let dispatcher = Dispatcher::new(plan.nodes.world_size(), plan.rules.clone(), now);
            return Self::Local {
                dispatcher: Box::new(dispatcher),
                others: links.map(Some).collect(),
                traces: (0, vec![]),
            };
        }
        match links.next() {
            Some(link) => Self::Remote { link, signaled: false, output_reported: now },
            None => Self::cut_off(plan, &[], "no connection to node 0".into(), now).0,
        }
    }

    /// Node 0 is lost: this launcher decides for what is left here.
    pub(crate) fn cut_off(plan: &LaunchPlan, alive: &[usize], why: String, now: Instant) -> (Self, Vec<Action>) {
        let (dispatcher, actions) = Dispatcher::cut_off(plan.nodes.world_size(), plan.rules.clone(), alive, why, now);
        (Self::Local { dispatcher: Box::new(dispatcher), others: vec![], traces: (0, vec![]) }, actions)
    }

    /// What to do about what happened here. If node 0 decides, the event is sent to node 0, whose orders follow on the link.
    pub(crate) fn decide(
        &mut self,
        input: Input,
        last_messages: impl FnOnce(usize) -> LastMessages,
        now: Instant,
    ) -> Vec<Action> {
        let (link, signaled, output_reported) = match self {
            Self::Local { dispatcher, .. } => return dispatcher.handle(input, now),
            Self::Remote { link, signaled, output_reported } => (link, signaled, output_reported),
        };
        match input {
            Input::Exited { rank, pid, exit, message, .. } => {
                let LastMessages { lines, error_file } = last_messages(rank);
                let message = message.map(|message| shortened(message, LONGEST_TEXT));
                let last_lines = lines.into_iter().map(|line| shortened(line, LONGEST_LINE)).collect();
                link.send(&ToCoordinator::Exited { rank, pid, exit, message, last_lines, error_file });
            }
            Input::Event { rank, event } => link.send_if_it_reads(&ToCoordinator::Event { rank, event }),
            Input::Output { rank } if now >= *output_reported + OUTPUT_BEAT => {
                *output_reported = now;
                link.send_if_it_reads(&ToCoordinator::Output { rank });
            }
            Input::Signal(signal) if is_user_signal(signal) || !*signaled => {
                *signaled |= !is_user_signal(signal);
                link.send(&ToCoordinator::Signal(signal));
            }
            // The second one ends this node's part, whatever node 0 does.
            Input::Signal(signal) => return vec![Action::Signal(SIGKILL), Action::Finish(Verdict::Stopped(signal))],
            Input::Orphaned => return vec![Action::Signal(SIGKILL), Action::Finish(Verdict::Stopped(SIGKILL))],
            // These answer decisions that are made elsewhere.
            Input::Output { .. }
            | Input::NodeLost { .. }
            | Input::Traced { .. }
            | Input::Debugged
            | Input::Paused
            | Input::Resumed
            | Input::Tick => {}
        }
        vec![]
    }

    pub(crate) fn dispatcher(&self) -> Option<&Dispatcher> {
        match self {
            Self::Local { dispatcher, .. } => Some(&**dispatcher),
            Self::Remote { .. } => None,
        }
    }

    /// The connections to other launchers, by index.
    pub(crate) fn links(&self) -> impl Iterator<Item = (usize, &Link)> {
        let (others, link) = match self {
            Self::Local { others, .. } => (others.as_slice(), None),
            Self::Remote { link, .. } => (&[][..], Some((0, link))),
        };
        others.iter().enumerate().filter_map(|(i, link)| Some((i, link.as_ref()?))).chain(link)
    }

    fn links_mut(&mut self) -> impl Iterator<Item = (usize, &mut Link)> {
        let (others, link) = match self {
            Self::Local { others, .. } => (others.as_mut_slice(), None),
            Self::Remote { link, .. } => (&mut [][..], Some((0, link))),
        };
        others.iter_mut().enumerate().filter_map(|(i, link)| Some((i, link.as_mut()?))).chain(link)
    }

    pub(crate) fn link(&mut self, index: usize) -> Option<&mut Link> {
        self.links_mut().find_map(|(i, link)| (i == index).then_some(link))
    }

    /// When to look again at the latest.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let decision = self.dispatcher().and_then(Dispatcher::deadline);
        self.links().map(|(_, link)| link.deadline()).chain(decision).min()
    }

    /// Sends signs of life, and returns the connections that are lost.
    pub(crate) fn beat(&mut self, now: Instant) -> Vec<(usize, Lost)> {
        let here = matches!(self, Self::Local { .. });
        let beat = |link: &mut Link| match here {
            true => link.tick(now, &FromCoordinator::Alive),
            false => link.tick(now, &ToCoordinator::Alive),
        };
        self.links_mut().filter_map(|(i, link)| Some((i, beat(link).err()?))).collect()
    }

    /// Drops the connection to another node.
    pub(crate) fn forget(&mut self, index: usize) {
        if let Self::Local { others, .. } = self
            && let Some(other) = others.get_mut(index)
        {
            *other = None;
        }
    }

    /// Tells all other nodes, if this one decides for them.
    pub(crate) fn tell(&mut self, message: &FromCoordinator) {
        if let Self::Local { .. } = self {
            let last = matches!(message, FromCoordinator::Finish(_) | FromCoordinator::GivesUp(_));
            for (_, link) in self.links_mut() {
                if last { link.send_last(message) } else { link.send(message) }
            }
        }
    }

    /// This launcher can't continue, and sends nothing more.
    pub(crate) fn give_up(&mut self, why: String) {
        self.tell(&FromCoordinator::GivesUp(shortened(why.clone(), LONGEST_TEXT)));
        match self {
            Self::Local { others, .. } => others.clear(),
            Self::Remote { link, .. } => link.send_last(&ToCoordinator::GivesUp(shortened(why, LONGEST_TEXT))),
        }
    }

    /// The stacks of a stalled job are asked for, here and on the other nodes.
    pub(crate) fn await_traces(&mut self) {
        if let Self::Local { others, traces, .. } = self {
            *traces = (1 + others.iter().flatten().count(), vec![]);
        }
    }

    /// A node has looked at its ranks. Once all have: the rank that holds the others up.
    pub(crate) fn suspect(&mut self, suspect: Option<Suspect>) -> Option<Input> {
        match self {
            Self::Local { traces: (awaited, suspects), .. } => {
                suspects.extend(suspect);
                *awaited = awaited.checked_sub(1)?;
                if *awaited > 0 {
                    return None;
                }
                let Suspect { rank, pid, .. } = suspects.drain(..).min()?;
                Some(Input::Traced { rank, pid })
            }
            Self::Remote { link, .. } => {
                link.send(&ToCoordinator::Traced(suspect));
                None
            }
        }
    }
}
