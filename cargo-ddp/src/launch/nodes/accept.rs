//! Node 0 waits for the launchers of the other nodes. Strangers may connect as well: none of them makes the others wait.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, TcpListener};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::handshake::{Answer, Guest, LONGEST_GREETING, Step};
use super::link::Link;
use super::message::{FromCoordinator, ToCoordinator};
use super::rendezvous::{HANDSHAKE, Rendezvous, seconds};
use super::secret::{self, Secret};
use super::{Member, Nodes, bounds};
use crate::Result;
use crate::launch::event::{LaunchEvent, Reporter};

/// Connections that have not joined; beyond that, the oldest ends. Each costs a few kilobytes.
const MOST_CALLERS: usize = 256;
/// Refused launchers that are reported one by one.
const MOST_REPORTS: u32 = 10;
/// How long to let others end when there are no more descriptors.
const PAUSE: Duration = Duration::from_millis(50);

/// A process that has connected.
struct Caller {
    guest: Guest,
    link: Link,
    from: IpAddr,
    until: Instant,
    refused: bool,
}

/// Which connections have something to read.
struct Ready {
    callers: Vec<bool>,
    joined: Vec<bool>,
}

/// Who has connected and who has joined.
struct Lobby<'a> {
    at: &'a Rendezvous,
    secret: Option<&'a Secret>,
    reporter: &'a mut dyn Reporter,
    callers: Vec<Caller>,
    joined: Vec<Option<(Member, Link)>>,
    refused: u32,
}

/// Waits until a launcher of each node has joined.
pub(crate) fn accept_nodes(
    at: &Rendezvous,
    own: Member,
    run: String,
    secret: Option<&Secret>,
    reporter: &mut dyn Reporter,
) -> Result<(Nodes, String, Vec<Link>)> {
    let listen = || {
        let listener = TcpListener::bind(at.addresses()?.as_slice())?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    };
    let listener = listen().map_err(|err: io::Error| {
        at.failed(match err.kind() {
            io::ErrorKind::AddrNotAvailable => "node 0 has no such address".into(),
            io::ErrorKind::AddrInUse => "the port is already in use".into(),
            _ => format!("node 0 can't listen: {err}"),
        })
    })?;
    let address = listener.local_addr().map_err(|err| at.failed(err.to_string()))?;
    if secret.is_none() && !address.ip().is_loopback() {
        reporter.report(LaunchEvent::NoSecret { place: at.place() });
    }
    let joined = (1..at.nnodes).map(|_| None).collect();
    let mut lobby = Lobby { at, secret, reporter, callers: vec![], joined, refused: 0 };
    lobby.wait_for_all(&listener)?;
    let (others, mut links): (Vec<_>, Vec<_>) = lobby.joined.into_iter().flatten().unzip();
    let mut members = vec![own];
    members.extend(others);
    let welcome = bounds::number_ranks(&mut members);
    if let Err(problem) = welcome {
        links.iter_mut().for_each(|link: &mut Link| link.send_last(&Answer::Refused(problem.clone())));
        return Err(at.failed(problem));
    }
    let welcome = FromCoordinator::Welcome { members, run };
    for link in &mut links {
        link.begin();
        link.send(&welcome);
    }
    let FromCoordinator::Welcome { members, run } = welcome else { unreachable!("it was made above") };
    Ok((Nodes { members, own: 0, master_addr: at.master_addr.clone(), address }, run, links))
}

/// `node 1`, `nodes 1, 2`.
pub(crate) fn names(nodes: &[usize]) -> String {
    /// More are counted.
    const MOST: usize = 8;
    let list: Vec<_> = nodes.iter().take(MOST).map(ToString::to_string).collect();
    match nodes.len() {
        1 => format!("node {}", list.join(", ")),
        ..=MOST => format!("nodes {}", list.join(", ")),
        count => format!("nodes {}, … ({count} nodes)", list.join(", ")),
    }
}

impl Lobby<'_> {
    fn wait_for_all(&mut self, listener: &TcpListener) -> Result<()> {
        let end = Instant::now() + self.at.timeout;
        let mut reported = vec![];
        loop {
            let missing = self.missing();
            if missing.is_empty() {
                return Ok(());
            }
            if missing != reported {
                let (nnodes, place) = (self.at.nnodes, self.at.place());
                self.reporter.report(LaunchEvent::NodesAwaited { missing: missing.clone(), nnodes, place });
                reported.clone_from(&missing);
            }
            let now = Instant::now();
            if now >= end {
                let (nnodes, time) = (self.at.nnodes, seconds(self.at.timeout));
                let missing = names(&missing);
                return Err(self.at.failed(format!("{missing} of {nnodes} did not join within {time}")));
            }
            let next = self.callers.iter().map(|caller| caller.until).min().unwrap_or(end).min(end);
            let ready = self.wait(listener, next.saturating_duration_since(now));
            let ready = ready.map_err(|err| self.at.failed(err.to_string()))?;
            self.hear_callers(&ready.callers);
            self.look_after_joined(&ready.joined);
            self.accept(listener);
        }
    }

    /// The nodes that have not joined.
    fn missing(&self) -> Vec<usize> {
        let nodes = self.joined.iter().enumerate().filter(|(_, node)| node.is_none());
        nodes.map(|(index, _)| index + 1).collect()
    }

    fn wait(&self, listener: &TcpListener, time: Duration) -> io::Result<Ready> {
        let mut fds = vec![PollFd::from_borrowed_fd(listener.as_fd(), PollFlags::IN)];
        let callers = self.callers.iter().map(|caller| caller.link.fd());
        let joined = self.joined.iter().flatten().map(|(_, link)| link.fd());
        fds.extend(callers.chain(joined).map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)));
        // A little late rather than a little early.
        let time = time + Duration::from_millis(1);
        let time =
            Timespec { tv_sec: time.as_secs().try_into().unwrap_or(i64::MAX), tv_nsec: time.subsec_nanos().into() };
        match poll(&mut fds, Some(&time)) {
            Ok(_) => {}
            Err(Errno::INTR) => fds.iter_mut().for_each(PollFd::clear_revents),
            Err(err) => return Err(err.into()),
        }
        let mut ready = fds[1..].iter().map(|fd| !fd.revents().is_empty());
        let callers = ready.by_ref().take(self.callers.len()).collect();
        let joined = self.joined.iter().map(|node| node.is_some() && ready.next().unwrap_or(false)).collect();
        Ok(Ready { callers, joined })
    }

    /// Takes the connections that wait, a limited number at a time.
    fn accept(&mut self, listener: &TcpListener) {
        for _ in 0..MOST_CALLERS {
            match listener.accept() {
                Ok((stream, from)) => {
                    tracing::debug!(%from, "connection accepted");
                    let (Ok(link), Ok(nonce)) = (Link::new(stream, LONGEST_GREETING), secret::nonce()) else {
                        continue;
                    };
                    if self.callers.len() >= MOST_CALLERS.max(2 * self.at.nnodes) {
                        self.end_one();
                    }
                    let until = Instant::now() + HANDSHAKE;
                    self.callers.push(Caller {
                        guest: Guest::new(nonce),
                        link,
                        from: from.ip(),
                        until,
                        refused: false,
                    });
                }
                // A caller that is gone again, or a signal.
                Err(err) if [io::ErrorKind::Interrupted, io::ErrorKind::ConnectionAborted].contains(&err.kind()) => {}
                Err(err) if err.kind() == io::ErrorKind::WouldBlock => return,
                // No descriptors are left, or the network reports an error here (`man accept`): that passes.
                Err(err) => {
                    tracing::debug!(%err, "can't accept a connection");
                    self.end_one();
                    std::thread::sleep(PAUSE);
                    return;
                }
            }
        }
    }

    /// Ends the oldest connection of the address that has most of them, so that one stranger does not displace the nodes.
    fn end_one(&mut self) {
        let mut counts: HashMap<IpAddr, usize> = HashMap::new();
        for caller in &self.callers {
            *counts.entry(caller.from).or_default() += 1;
        }
        let most = counts.into_iter().max_by_key(|(_, count)| *count).map(|(from, _)| from);
        if let Some(index) = self.callers.iter().position(|caller| Some(caller.from) == most) {
            self.callers.remove(index);
        }
    }

    /// Nodes that have joined and left are waited for again.
    fn look_after_joined(&mut self, ready: &[bool]) {
        for (index, slot) in self.joined.iter_mut().enumerate().filter(|(index, _)| ready[*index]) {
            if let Some((member, link)) = slot
                && link.read::<ToCoordinator>().is_err()
            {
                let host = member.host.clone();
                self.reporter.report(LaunchEvent::NodeLeft { node: index + 1, host });
                *slot = None;
            }
        }
    }

    fn hear_callers(&mut self, ready: &[bool]) {
        let now = Instant::now();
        for (index, caller) in std::mem::take(&mut self.callers).into_iter().enumerate() {
            let caller = if ready[index] { self.hear(caller) } else { Some(caller) };
            self.callers.extend(caller.filter(|caller| caller.until > now));
        }
    }

    /// Handles what a caller sends. Returns it if more may follow.
    fn hear(&mut self, mut caller: Caller) -> Option<Caller> {
        loop {
            if caller.refused {
                // Until it has read the reason and is gone.
                return caller.link.discard().is_ok().then_some(caller);
            }
            let line = match caller.link.line() {
                Ok(Some(line)) => line,
                Ok(None) => return Some(caller),
                Err(lost) => {
                    tracing::debug!(from = %caller.from, why = lost.0, "connection lost before it joined");
                    return None;
                }
            };
            match caller.guest.hear(&line, self.secret, self.at.nnodes) {
                Step::Answer(answer) => {
                    caller.link.allow(caller.guest.longest_line());
                    caller.link.send(&answer);
                }
                Step::Join(node, member) if self.joined[node - 1].is_none() => {
                    tracing::debug!(node, host = member.host, from = %caller.from, "node joined");
                    self.reporter.report(LaunchEvent::NodeJoined { node, host: member.host.clone() });
                    caller.link.joined();
                    self.joined[node - 1] = Some((member, caller.link));
                    return None;
                }
                Step::Join(node, _) => {
                    let problem = format!("node {node} has already joined: each node needs its own --node-rank");
                    self.refuse(&mut caller, problem);
                }
                Step::Refuse(problem) => self.refuse(&mut caller, problem),
                Step::Leave => {
                    tracing::debug!(from = %caller.from, "not a launcher");
                    return None;
                }
            }
        }
    }

    fn refuse(&mut self, caller: &mut Caller, problem: String) {
        self.refused += 1;
        match self.refused {
            ..=MOST_REPORTS => {
                let (from, problem) = (caller.from, problem.clone());
                self.reporter.report(LaunchEvent::LauncherRefused { from, problem });
            }
            n if n == MOST_REPORTS + 1 => self.reporter.report(LaunchEvent::RefusalsHidden),
            _ => {}
        }
        caller.link.send(&Answer::Refused(problem));
        caller.refused = true;
    }
}
