use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::de::DeserializeOwned;

use super::link::Link;
use super::message::{FromCoordinator, ToCoordinator};
use super::{Member, Nodes, host_name, name};
use crate::launch::words::seconds;
use crate::{Error, Result, Ui};

/// How long a caller may take to say who it is; a stranger must not keep the others waiting.
const HELLO_TIMEOUT: Duration = Duration::from_secs(2);
/// Time between two attempts to reach node 0.
const RETRY: Duration = Duration::from_millis(300);
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Where the launchers of all nodes meet: torchrun's `--nnodes`, `--node-rank`, `--master-addr` and `--master-port`.
#[derive(Clone, Debug)]
pub struct Rendezvous {
    /// Number of nodes.
    pub nnodes: usize,
    /// This one's number, from 0.
    pub node_rank: usize,
    /// An address of node 0.
    pub master_addr: String,
    /// A port that is free there.
    pub master_port: u16,
    /// How long to wait for all to come.
    pub timeout: Duration,
}

/// Meets the launchers of the other nodes. Gives who has which ranks, the name of the job, and the connections: node 0's
/// to all others (by node rank, from 1), the others' to node 0.
///
/// # Errors
/// [`Error::Rendezvous`], which says who is missing, or what does not fit.
pub fn join(
    at: &Rendezvous,
    nproc: usize,
    gpus: Option<Vec<String>>,
    run: String,
    ui: &Ui,
) -> Result<(Nodes, String, Vec<Link>)> {
    let own = Member { host: host_name(), first_rank: 0, nproc, gpus };
    if at.node_rank == 0 { gather(at, own, run, ui) } else { report(at, own, ui) }
}

impl Rendezvous {
    fn place(&self) -> String {
        match self.master_addr.contains(':') {
            true => format!("[{}]:{}", self.master_addr, self.master_port),
            false => format!("{}:{}", self.master_addr, self.master_port),
        }
    }

    fn addresses(&self) -> io::Result<Vec<SocketAddr>> {
        Ok((self.master_addr.as_str(), self.master_port).to_socket_addrs()?.collect())
    }

    fn failed(&self, problem: impl Into<String>) -> Error {
        Error::Rendezvous { place: self.place(), problem: problem.into() }
    }
}

/// Node 0's part.
fn gather(at: &Rendezvous, own: Member, run: String, ui: &Ui) -> Result<(Nodes, String, Vec<Link>)> {
    let listen = || TcpListener::bind(at.addresses()?.as_slice());
    let listener = listen().map_err(|err| {
        at.failed(match err.kind() {
            io::ErrorKind::AddrNotAvailable => "this is node 0, and has no such address".into(),
            io::ErrorKind::AddrInUse => "something listens there already".into(),
            _ => format!("node 0 can't listen there: {err}"),
        })
    })?;
    let address = listener.local_addr().map_err(|err| at.failed(err.to_string()))?.ip();
    let end = Instant::now() + at.timeout;
    let mut members = vec![own];
    members.resize_with(at.nnodes, || Member { host: String::new(), first_rank: 0, nproc: 0, gpus: None });
    let mut links: Vec<Option<Link>> = (1..at.nnodes).map(|_| None).collect();
    loop {
        let missing: Vec<_> =
            (1..at.nnodes).filter(|&node| links[node - 1].is_none()).map(|node| node.to_string()).collect();
        if missing.is_empty() {
            break;
        }
        let nodes = if missing.len() == 1 { "node" } else { "nodes" };
        let missing = format!("{nodes} {}", missing.join(", "));
        ui.status("Waiting", format!("for {missing} of {} at {}", at.nnodes, at.place()));
        let (node, member, link) = loop {
            let Some(stream) = accept(&listener, end).map_err(|err| at.failed(err.to_string()))? else {
                return Err(at.failed(format!(
                    "{missing} of {} did not come within {}",
                    at.nnodes,
                    seconds(at.timeout)
                )));
            };
            // Those that have come and gone are waited for again.
            for link in &mut links {
                if link.as_mut().is_some_and(|link| link.read::<ToCoordinator>().is_err()) {
                    *link = None;
                }
            }
            match greet(stream, at, &links) {
                Ok(Some(met)) => break met,
                Ok(None) => {}
                Err(why) => ui.warn(why),
            }
        };
        ui.status("Joined", name(node, &member.host));
        members[node] = member;
        links[node - 1] = Some(link);
    }
    let mut first_rank = 0;
    for member in &mut members {
        member.first_rank = first_rank;
        first_rank += member.nproc;
    }
    let mut links: Vec<_> = links.into_iter().flatten().collect();
    for link in &mut links {
        link.begin();
        link.send(&FromCoordinator::Welcome { members: members.clone(), run: run.clone() });
    }
    Ok((Nodes { members, own: 0, master_addr: at.master_addr.clone(), address }, run, links))
}

/// The next caller; `None` once the time is over.
fn accept(listener: &TcpListener, end: Instant) -> io::Result<Option<TcpStream>> {
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(None);
        }
        if wait(listener, left)? {
            return Ok(Some(listener.accept()?.0));
        }
    }
}

fn wait(fd: &impl std::os::fd::AsFd, time: Duration) -> io::Result<bool> {
    let mut fds = [PollFd::new(fd, PollFlags::IN)];
    let timeout =
        Timespec { tv_sec: time.as_secs().try_into().unwrap_or(i64::MAX), tv_nsec: time.subsec_nanos().into() };
    match poll(&mut fds, Some(&timeout)) {
        Ok(ready) => Ok(ready > 0),
        Err(rustix::io::Errno::INTR) => Ok(false),
        Err(err) => Err(err.into()),
    }
}

/// Hears who calls. `None` for somebody who is not of the job; an error for a launcher that can't be, which is told so.
fn greet(stream: TcpStream, at: &Rendezvous, links: &[Option<Link>]) -> Result<Option<(usize, Member, Link)>, String> {
    let Ok(mut link) = Link::new(stream) else { return Ok(None) };
    let Some(ToCoordinator::Hello { version, node_rank, nnodes, host, nproc, gpus }) =
        first(&mut link, HELLO_TIMEOUT).ok().flatten()
    else {
        return Ok(None);
    };
    let problem = if version != VERSION {
        format!("node 0 runs cargo-ddp {VERSION}, and this is {version}: all nodes need the same")
    } else if nnodes != at.nnodes {
        format!("node 0 was started with --nnodes {}, and this with --nnodes {nnodes}", at.nnodes)
    } else if node_rank == 0 || node_rank >= nnodes {
        format!("there is no node {node_rank} beside node 0; there are {nnodes}, from 0")
    } else if links[node_rank - 1].is_some() {
        format!("there is a node {node_rank} already: each needs a --node-rank of its own")
    } else {
        return Ok(Some((node_rank, Member { host, first_rank: 0, nproc, gpus }, link)));
    };
    link.send_last(&FromCoordinator::Refused(problem.clone()));
    Err(format!("a launcher on {host} was sent away: {problem}"))
}

/// The first message of a connection, if it comes in time.
fn first<M: DeserializeOwned>(link: &mut Link, time: Duration) -> Result<Option<M>, super::Lost> {
    let end = Instant::now() + time;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() || !wait(&link.fd(), left)? && Instant::now() >= end {
            return Ok(None);
        }
        if let Some(message) = link.read()?.into_iter().next() {
            return Ok(Some(message));
        }
    }
}

/// The others' part.
fn report(at: &Rendezvous, own: Member, ui: &Ui) -> Result<(Nodes, String, Vec<Link>)> {
    ui.status("Joining", format!("node 0 at {}, as node {} of {}", at.place(), at.node_rank, at.nnodes));
    let end = Instant::now() + at.timeout;
    loop {
        let (mut link, address) = call(at, end)?;
        link.send(&ToCoordinator::Hello {
            version: VERSION.into(),
            node_rank: at.node_rank,
            nnodes: at.nnodes,
            host: own.host.clone(),
            nproc: own.nproc,
            gpus: own.gpus.clone(),
        });
        match first(&mut link, end.saturating_duration_since(Instant::now())) {
            Ok(Some(FromCoordinator::Welcome { members, run })) => {
                let nodes = Nodes { members, own: at.node_rank, master_addr: at.master_addr.clone(), address };
                return Ok((nodes, run, vec![link]));
            }
            Ok(Some(FromCoordinator::Refused(problem))) => return Err(at.failed(problem)),
            // A node 0 that ended before all had come may be started again.
            Err(_) if Instant::now() < end => std::thread::sleep(RETRY),
            Ok(Some(_)) => return Err(at.failed("who answers there is no cargo-ddp of this version")),
            Ok(None) | Err(_) => {
                return Err(at.failed(format!("the job did not begin within {}", seconds(at.timeout))));
            }
        }
    }
}

/// A connection to node 0, and our own address on it.
fn call(at: &Rendezvous, end: Instant) -> Result<(Link, IpAddr)> {
    loop {
        let connect = || -> io::Result<_> {
            let mut last = io::Error::other("the name has no address");
            for address in at.addresses()? {
                let left = end.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
                match TcpStream::connect_timeout(&address, left.min(Duration::from_secs(5))) {
                    Ok(stream) => {
                        let own = stream.local_addr()?.ip();
                        return Ok((Link::new(stream)?, own));
                    }
                    Err(err) => last = err,
                }
            }
            Err(last)
        };
        match connect() {
            Ok(connected) => return Ok(connected),
            Err(err) if Instant::now() + RETRY >= end => {
                return Err(at.failed(format!("node 0 could not be reached within {}: {err}", seconds(at.timeout))));
            }
            Err(_) => std::thread::sleep(RETRY),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(node_rank: usize, nnodes: usize, port: u16, seconds: f64) -> Rendezvous {
        let (master_addr, timeout) = ("127.0.0.1".into(), Duration::from_secs_f64(seconds));
        Rendezvous { nnodes, node_rank, master_addr, master_port: port, timeout }
    }

    /// A port that was free a moment ago.
    fn port() -> u16 {
        TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
    }

    fn start(at: Rendezvous, nproc: usize) -> std::thread::JoinHandle<Result<(Nodes, String, Vec<Link>)>> {
        let gpus = (nproc == 1).then(|| vec!["7".to_owned()]);
        std::thread::spawn(move || join(&at, nproc, gpus, format!("run-of-{}", at.node_rank), &Ui::new().quiet(true)))
    }

    #[test]
    fn all_nodes_agree_on_who_has_which_ranks() {
        let port = port();
        // In any order, with a stranger in between.
        let two = start(at(2, 3, port, 30.0), 1);
        let zero = start(at(0, 3, port, 30.0), 2);
        let stranger = start(at(1, 4, port, 30.0), 1);
        let refused = stranger.join().unwrap().unwrap_err().to_string();
        assert!(refused.contains("--nnodes 3, and this with --nnodes 4"), "{refused}");
        let one = start(at(1, 3, port, 30.0), 3);
        let met: Vec<_> = [zero, one, two].into_iter().map(|node| node.join().unwrap().unwrap()).collect();
        for (node, (nodes, run, links)) in met.iter().enumerate() {
            assert_eq!((run.as_str(), nodes.world_size(), nodes.own), ("run-of-0", 6, node));
            assert_eq!(nodes.members, met[0].0.members);
            assert_eq!(links.len(), if node == 0 { 2 } else { 1 });
        }
        assert_eq!([0, 1, 2].map(|node| met[node].0.own_ranks()), [0..2, 2..5, 5..6]);
        assert_eq!(met[0].0.members[2].gpus, Some(vec!["7".into()]));
    }

    #[test]
    fn who_does_not_come_is_named_and_waited_for_no_longer_than_told() {
        let missing = start(at(0, 3, port(), 0.3), 1).join().unwrap().unwrap_err().to_string();
        assert!(missing.contains("nodes 1, 2 of 3 did not come"), "{missing}");
        let alone = start(at(1, 2, port(), 0.3), 1).join().unwrap().unwrap_err().to_string();
        assert!(alone.contains("node 0 could not be reached"), "{alone}");
    }
}
