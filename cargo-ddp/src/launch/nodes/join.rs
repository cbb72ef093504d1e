//! How a launcher joins the launchers of the other nodes, before any worker starts.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::handshake::{Answer, Greeting, Join, LONGEST_GREETING, Version};
use super::link::{Link, Lost};
use super::rendezvous::{HANDSHAKE, Rendezvous, seconds};
use super::secret::{self, Secret, SecretSource, Side};
use super::{Member, Nodes, accept, bounds};
use crate::Result;
use crate::launch::event::{LaunchEvent, Reporter};

/// Time between two attempts to reach node 0.
const RETRY: Duration = Duration::from_millis(300);

/// Meets the launchers of the other nodes; `own` is this node, whose first rank is not known yet. Gives who has which ranks, the name of the job, and the connections: node 0's
/// to all others (by node rank, from 1), the others' to node 0.
///
/// # Errors
/// [`Error::Rendezvous`], which says who is missing, or what does not fit.
pub fn join(
    at: &Rendezvous,
    own: Member,
    run: String,
    reporter: &mut dyn Reporter,
) -> Result<(Nodes, String, Vec<Link>)> {
    if let SecretSource::File(path) = &at.secret
        && at.node_rank > 0
        && !path.exists()
    {
        reporter.report(LaunchEvent::SecretFileAwaited { path: path.clone() });
    }
    let (secret, exposure) =
        at.secret.get(at.node_rank == 0, Instant::now() + at.timeout).map_err(|problem| at.failed(problem))?;
    if let Some(exposure) = exposure {
        reporter.report(LaunchEvent::SecretExposed(exposure));
    }
    if at.node_rank == 0 {
        accept::accept_nodes(at, own, run, secret.as_ref(), reporter)
    } else {
        join_node_0(at, &own, secret.as_ref(), reporter)
    }
}

fn wait(fd: &impl std::os::fd::AsFd, time: Duration) -> io::Result<()> {
    let mut fds = [PollFd::new(fd, PollFlags::IN)];
    let timeout =
        Timespec { tv_sec: time.as_secs().try_into().unwrap_or(i64::MAX), tv_nsec: time.subsec_nanos().into() };
    match poll(&mut fds, Some(&timeout)) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(err) => Err(err.into()),
    }
}

/// The next message of a connection, if it arrives within `time`.
fn receive<M: DeserializeOwned>(link: &mut Link, time: Duration) -> Result<Option<M>, Lost> {
    let end = Instant::now() + time;
    loop {
        if let Some(message) = link.receive()? {
            return Ok(Some(message));
        }
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(None);
        }
        wait(&link.fd(), left)?;
    }
}

/// What a launcher does on all nodes but node 0.
fn join_node_0(
    at: &Rendezvous,
    own: &Member,
    secret: Option<&Secret>,
    reporter: &mut dyn Reporter,
) -> Result<(Nodes, String, Vec<Link>)> {
    let (place, node_rank, nnodes) = (at.place(), at.node_rank, at.nnodes);
    reporter.report(LaunchEvent::JoiningNode0 { place, node_rank, nnodes });
    let end = Instant::now() + at.timeout;
    loop {
        let (mut link, address) = call(at, end)?;
        match introduce(&mut link, at, own, secret, end) {
            Ok(Some((members, run))) => {
                let nodes = Nodes { members, own: at.node_rank, master_addr: at.master_addr.clone(), address };
                return Ok((nodes, run, vec![link]));
            }
            Err(NotJoined::Refused(problem)) => return Err(at.failed(problem)),
            // A node 0 that ended before all had joined may be started again.
            Err(NotJoined::Lost) if Instant::now() < end => std::thread::sleep(RETRY),
            Ok(None) | Err(NotJoined::Lost) => {
                return Err(at.failed(format!("the job did not start within {}", seconds(at.timeout))));
            }
        }
    }
}

enum NotJoined {
    /// It makes no sense to try again.
    Refused(String),
    /// The connection ended.
    Lost,
}

impl From<Lost> for NotJoined {
    fn from(_: Lost) -> Self {
        Self::Lost
    }
}

/// Talks to node 0 as [`handshake`](super::handshake) describes. `None` if the others did not join in time.
fn introduce(
    link: &mut Link,
    at: &Rendezvous,
    own: &Member,
    secret: Option<&Secret>,
    end: Instant,
) -> Result<Option<(Vec<Member>, String)>, NotJoined> {
    let refused = |problem: &str| Err(NotJoined::Refused(problem.into()));
    let nonce = secret::nonce().map_err(|err| NotJoined::Refused(format!("can't get random bytes: {err}")))?;
    link.send(&Greeting::Hello(Version::own(&nonce)));
    let theirs = match answer(link)? {
        Answer::Challenge { version, secret: has_secret } => {
            let theirs = version.check().map_err(NotJoined::Refused)?;
            match (secret.is_some(), has_secret) {
                (false, true) => {
                    return refused(
                        "the job has a secret that this node does not know: set DDP_JOB_SECRET or --secret-file as \
                         on node 0",
                    );
                }
                (true, false) => return refused("this node has a job secret, but node 0 has none"),
                _ => theirs,
            }
        }
        Answer::Refused(problem) => return Err(NotJoined::Refused(problem)),
        Answer::Proof(_) => return refused("node 0 does not run this version of cargo-ddp"),
    };
    if let Some(secret) = secret {
        link.send(&Greeting::Proof(secret.proof(Side::Member, &nonce, &theirs)));
        match answer(link)? {
            Answer::Proof(proof) if secret.verifies(&proof, Side::Coordinator, &nonce, &theirs) => {}
            Answer::Refused(problem) => return Err(NotJoined::Refused(problem)),
            _ => return refused("node 0 does not know the job's secret"),
        }
    }
    let Member { host, nproc, gpus, .. } = own.clone();
    link.joined();
    link.send(&Greeting::Join(Join { node_rank: at.node_rank, nnodes: at.nnodes, host, nproc, gpus }));
    match receive(link, end.saturating_duration_since(Instant::now()))? {
        Some(Verdict::Welcome { members, run }) => {
            bounds::check_welcome(&members, &run, at.nnodes, (at.node_rank, own))
                .map_err(|problem| NotJoined::Refused(format!("node 0 sent an invalid list of nodes: {problem}")))?;
            link.begin();
            Ok(Some((members, run)))
        }
        Some(Verdict::Refused(problem)) => Err(NotJoined::Refused(problem)),
        None => Ok(None),
    }
}

/// What node 0 decides about a `Join`.
#[derive(Deserialize)]
enum Verdict {
    Welcome { members: Vec<Member>, run: String },
    Refused(String),
}

/// Node 0 answers immediately, however long it waits for others. (One that does not may be starting again.)
fn answer(link: &mut Link) -> Result<Answer, NotJoined> {
    receive(link, HANDSHAKE)?.ok_or(NotJoined::Lost)
}

/// A connection to node 0, and our own address on it.
fn call(at: &Rendezvous, end: Instant) -> Result<(Link, SocketAddr)> {
    loop {
        let connect = || -> io::Result<_> {
            let mut last = io::Error::other("the name has no address");
            for address in at.addresses()? {
                let left = end.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
                match TcpStream::connect_timeout(&address, left.min(Duration::from_secs(5))) {
                    Ok(stream) => {
                        let own = stream.local_addr()?;
                        return Ok((Link::new(stream, LONGEST_GREETING)?, own));
                    }
                    Err(err) => last = err,
                }
            }
            Err(last)
        };
        match connect() {
            Ok(connected) => {
                tracing::debug!(address = %connected.1, place = at.place(), "connected to node 0");
                return Ok(connected);
            }
            Err(err) if Instant::now() + RETRY >= end => {
                return Err(at.failed(format!("node 0 could not be reached within {}: {err}", seconds(at.timeout))));
            }
            Err(_) => std::thread::sleep(RETRY),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;

    use super::super::message::FromCoordinator;
    use super::*;
    use crate::launch::event::Silent;

    fn at(node_rank: usize, nnodes: usize, port: u16, seconds: f64) -> Rendezvous {
        let (master_addr, timeout) = ("127.0.0.1".into(), Duration::from_secs_f64(seconds));
        Rendezvous { nnodes, node_rank, master_addr, master_port: port, timeout, secret: SecretSource::None }
    }

    /// A port that was free a moment ago.
    fn port() -> u16 {
        TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
    }

    fn start(at: Rendezvous, nproc: usize) -> std::thread::JoinHandle<Result<(Nodes, String, Vec<Link>)>> {
        let gpus = (nproc == 1).then(|| vec!["7".to_owned()]);
        std::thread::spawn(move || {
            let own = Member { host: "host".into(), first_rank: 0, nproc, gpus };
            join(&at, own, format!("run-of-{}", at.node_rank), &mut Silent)
        })
    }

    #[test]
    fn nodes_agree_on_the_ranks_of_each_node() {
        let port = port();
        // In any order, with a stranger in between.
        let two = start(at(2, 3, port, 30.0), 1);
        let zero = start(at(0, 3, port, 30.0), 2);
        let stranger = start(at(1, 4, port, 30.0), 1);
        let refused = stranger.join().unwrap().unwrap_err().to_string();
        assert!(refused.contains("--nnodes is 3 on node 0, but 4 on node 1"), "{refused}");
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
    fn node_that_does_not_join_is_named_after_the_timeout() {
        let missing = start(at(0, 3, port(), 0.3), 1).join().unwrap().unwrap_err().to_string();
        assert!(missing.contains("nodes 1, 2 of 3 did not join"), "{missing}");
        let alone = start(at(1, 2, port(), 0.3), 1).join().unwrap().unwrap_err().to_string();
        assert!(alone.contains("node 0 could not be reached"), "{alone}");
    }

    /// Starts all nodes of a job, each with its secret.
    fn nodes(secrets: [SecretSource; 2], seconds: f64) -> [Result<(Nodes, String, Vec<Link>)>; 2] {
        let port = port();
        let [zero, one] = secrets;
        let zero = start(Rendezvous { secret: zero, ..at(0, 2, port, seconds) }, 1);
        let one = start(Rendezvous { secret: one, ..at(1, 2, port, seconds) }, 1);
        [zero, one].map(|node| node.join().unwrap())
    }

    fn value(text: &str) -> SecretSource {
        SecretSource::Value(Secret::new(text).unwrap())
    }

    #[test]
    fn nodes_with_the_same_secret_join_and_others_get_the_reason() {
        for node in nodes([value("0123456789abcdef"), value("0123456789abcdef\n")], 30.0) {
            node.unwrap();
        }
        let dir = tempfile::tempdir().unwrap();
        let file = SecretSource::File(dir.path().join("secret"));
        for node in nodes([file.clone(), file], 30.0) {
            node.unwrap();
        }
        for (secrets, problem) in [
            ([value("0123456789abcdef"), value("0123456789abcdeg")], "secret differs from node 0's"),
            ([value("0123456789abcdef"), SecretSource::None], "the job has a secret that this node does not know"),
            ([SecretSource::None, value("0123456789abcdef")], "but node 0 has none"),
        ] {
            let [zero, one] = nodes(secrets, 2.0);
            let words = one.unwrap_err().to_string();
            assert!(words.contains(problem), "{words}");
            assert!(zero.unwrap_err().to_string().contains("node 1 of 2 did not join"));
        }
    }

    /// Answers one connection with these lines.
    fn impostor(lines: Vec<String>) -> (u16, std::thread::JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let thread = std::thread::spawn(move || {
            let mut stream = listener.accept().unwrap().0;
            for line in lines {
                let mut buffer = [0; 4096];
                let _ = stream.read(&mut buffer);
                let _ = stream.write_all(format!("{line}\n").as_bytes());
            }
            // Until the other side is gone.
            let _ = stream.read_to_end(&mut Vec::new());
        });
        (port, thread)
    }

    #[test]
    fn impostor_of_node_0_is_recognized() {
        let challenge = |secret| {
            let version = Version::own(&secret::nonce().unwrap());
            serde_json::to_string(&Answer::Challenge { version, secret }).unwrap()
        };
        let proof = serde_json::to_string(&Answer::Proof("00".repeat(32))).unwrap();
        let welcome = r#"{"Welcome":{"members":[{"host":"h","first_rank":0,"nproc":9223372036854775808,"gpus":null},
            {"host":"h","first_rank":9223372036854775808,"nproc":1,"gpus":["7"]}],"run":"r"}}"#;
        for (secret, lines, problem) in [
            (value("0123456789abcdef"), vec![challenge(true), proof.clone()], "node 0 does not know the job's secret"),
            (value("0123456789abcdef"), vec![challenge(false)], "but node 0 has none"),
            (SecretSource::None, vec![proof], "does not run this version of cargo-ddp"),
            (SecretSource::None, vec![challenge(false), welcome.replace('\n', "")], "invalid list of nodes"),
        ] {
            let (port, thread) = impostor(lines);
            let node = start(Rendezvous { secret, ..at(1, 2, port, 30.0) }, 1).join().unwrap();
            let words = node.unwrap_err().to_string();
            assert!(words.contains(problem), "{words}");
            thread.join().unwrap();
        }
    }

    #[test]
    fn message_after_the_welcome_is_not_lost() {
        // What a fast node 0 sends in one packet.
        let member = |host: &str, first_rank, gpus: Option<Vec<String>>| Member {
            host: host.into(),
            first_rank,
            nproc: 1,
            gpus,
        };
        let members = vec![member("a", 0, None), member("b", 1, Some(vec!["7".into()]))];
        let welcome = FromCoordinator::Welcome { members, run: "run".into() };
        let start_workers = FromCoordinator::Start { attempt: 0, port: 7 };
        let both = [welcome, start_workers].map(|message| serde_json::to_string(&message).unwrap()).join("\n");
        let challenge = Answer::Challenge { version: Version::own(&secret::nonce().unwrap()), secret: false };
        let (port, thread) = impostor(vec![serde_json::to_string(&challenge).unwrap(), both]);
        let (_, _, mut links) = start(at(1, 2, port, 30.0), 1).join().unwrap().unwrap();
        wait(&links[0].fd(), Duration::from_millis(1)).unwrap();
        let messages = links[0].read::<FromCoordinator>().unwrap();
        assert!(matches!(messages.as_slice(), [FromCoordinator::Start { attempt: 0, port: 7 }]), "{messages:?}");
        drop(links);
        thread.join().unwrap();
    }
}
