//! How a launcher joins a job: who sends what first, and what is checked. No sockets here.
//!
//! | launcher of node N | node 0 |
//! |---|---|
//! | `Hello`: protocol, version, a nonce | |
//! | | `Challenge`: the same, and whether the job has a secret |
//! | with a secret, `Proof`: it knows the secret | |
//! | | `Proof`: node 0 knows it, too |
//! | `Join`: its number and its workers | |
//! | | `Welcome`, once all have joined |
//!
//! Instead of an answer, node 0 sends `Refused` with the reason. `Refused` and the field `protocol` are the same in every
//! protocol, so that launchers of different versions can report the difference.

use ddp_contract::text::printable_line;
use serde::{Deserialize, Serialize};

use super::Member;
use super::bounds::{LARGEST_NPROC, check_gpus};
use super::secret::{Nonce, Secret, Side, from_hex, hex};

/// Changes when launchers before and after could not understand each other. Before there was a number, it was 1.
pub(crate) const PROTOCOL: u32 = 2;
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");
/// The longest line before a launcher has proved that it may join.
pub(crate) const LONGEST_GREETING: usize = 4 << 10;
/// The longest `Join`: the UUIDs of a node's GPUs.
pub(crate) const LONGEST_JOIN: usize = 128 << 10;
/// A machine's name has at most 64 bytes on Linux, and 253 in DNS.
const LONGEST_HOST: usize = 255;

/// What a launcher sends until it has joined.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Greeting {
    /// The first word.
    Hello(Version),
    /// It knows the secret.
    Proof(String),
    /// What it has.
    Join(Join),
}

/// What node 0 answers until a launcher has joined.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Answer {
    /// The answer to a `Hello`.
    Challenge {
        #[serde(flatten)]
        version: Version,
        /// Whether the job has a secret.
        secret: bool,
    },
    /// Node 0 knows the secret.
    Proof(String),
    /// The launcher can't be part of the job.
    Refused(String),
}

/// Who speaks. Everything but `protocol` may be missing in another protocol.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Version {
    #[serde(default = "first_protocol")]
    protocol: u32,
    #[serde(default)]
    version: String,
    /// 32 random bytes.
    #[serde(default)]
    nonce: String,
}

fn first_protocol() -> u32 {
    1
}

/// What a node brings.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Join {
    pub(crate) node_rank: usize,
    pub(crate) nnodes: usize,
    pub(crate) host: String,
    pub(crate) nproc: usize,
    pub(crate) gpus: Option<Vec<String>>,
}

impl Version {
    pub(crate) fn own(nonce: &Nonce) -> Self {
        Self { protocol: PROTOCOL, version: VERSION.into(), nonce: hex(nonce) }
    }

    /// The other side's nonce, or why the two can't work together.
    pub(crate) fn check(&self) -> Result<Nonce, String> {
        let version: String = self.version.chars().take(40).collect();
        let version = printable_line(&version);
        if self.protocol != PROTOCOL {
            let theirs = self.protocol;
            return Err(format!(
                "this node has cargo-ddp {VERSION} with protocol {PROTOCOL}, but the other has {version} with protocol \
                 {theirs}: install the same version on all nodes"
            ));
        }
        if version != VERSION {
            return Err(format!(
                "this node has cargo-ddp {VERSION}, but the other has {version}: install the same version on all nodes"
            ));
        }
        from_hex(&self.nonce).ok_or_else(|| "the first message has no valid nonce".into())
    }
}

impl Join {
    /// The node, if this can be one of `nnodes`.
    pub(crate) fn check(self, nnodes: usize) -> Result<(usize, Member), String> {
        let Self { node_rank, nnodes: theirs, host, nproc, gpus } = self;
        if theirs != nnodes {
            return Err(format!("--nnodes is {nnodes} on node 0, but {theirs} on node {node_rank}"));
        }
        if node_rank == 0 || node_rank >= nnodes {
            return Err(format!("invalid --node-rank {node_rank}: expected 1 to {}", nnodes - 1));
        }
        if nproc == 0 || nproc > LARGEST_NPROC {
            return Err(format!("expected 1 to {LARGEST_NPROC} workers, got {nproc}"));
        }
        if host.len() > LONGEST_HOST {
            return Err(format!("the host name is longer than {LONGEST_HOST} bytes"));
        }
        check_gpus(gpus.as_deref(), nproc)?;
        // The name is part of messages and paths of no file.
        Ok((node_rank, Member { host: printable_line(&host).into_owned(), first_rank: 0, nproc, gpus }))
    }
}

/// Node 0's part, for one connection.
pub(crate) struct Guest {
    own: Nonce,
    stage: Stage,
}

#[derive(Clone, Copy)]
enum Stage {
    Hello,
    Proof(Nonce),
    Join,
    Over,
}

/// What node 0 does about a line.
#[derive(Debug)]
pub(crate) enum Step {
    /// Sends this, and waits for the next line.
    Answer(Answer),
    /// Takes the node in, if its place is free.
    Join(usize, Member),
    /// Sends the reason away with the launcher.
    Refuse(String),
    /// Ends the connection: this is not a launcher.
    Leave,
}

impl Guest {
    pub(crate) fn new(own: Nonce) -> Self {
        Self { own, stage: Stage::Hello }
    }

    /// The longest line that the other side may send next.
    pub(crate) fn longest_line(&self) -> usize {
        if matches!(self.stage, Stage::Join) { LONGEST_JOIN } else { LONGEST_GREETING }
    }

    pub(crate) fn hear(&mut self, line: &[u8], secret: Option<&Secret>, nnodes: usize) -> Step {
        let step = match (serde_json::from_slice(line), self.stage) {
            (Ok(Greeting::Hello(version)), Stage::Hello) => self.hello(&version, secret),
            (Ok(Greeting::Proof(proof)), Stage::Proof(theirs)) => match secret {
                Some(secret) if secret.verifies(&proof, Side::Member, &self.own, &theirs) => {
                    self.stage = Stage::Join;
                    Step::Answer(Answer::Proof(secret.proof(Side::Coordinator, &self.own, &theirs)))
                }
                _ => Step::Refuse("the job secret differs from node 0's".into()),
            },
            (Ok(Greeting::Join(join)), Stage::Join) => match join.check(nnodes) {
                Ok((node, member)) => Step::Join(node, member),
                Err(problem) => Step::Refuse(problem),
            },
            _ => Step::Leave,
        };
        if !matches!(step, Step::Answer(_)) {
            self.stage = Stage::Over;
        }
        step
    }

    fn hello(&mut self, version: &Version, secret: Option<&Secret>) -> Step {
        match version.check() {
            Ok(theirs) => {
                self.stage = if secret.is_some() { Stage::Proof(theirs) } else { Stage::Join };
                Step::Answer(Answer::Challenge { version: Version::own(&self.own), secret: secret.is_some() })
            }
            Err(problem) => Step::Refuse(problem),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::secret::nonce;
    use super::*;

    fn line(greeting: &Greeting) -> Vec<u8> {
        serde_json::to_vec(greeting).unwrap()
    }

    fn join(node_rank: usize, nproc: usize, gpus: Option<&[&str]>) -> Join {
        let gpus = gpus.map(|gpus| gpus.iter().map(|&gpu| gpu.to_owned()).collect());
        Join { node_rank, nnodes: 3, host: "gpu\x1b[2J".into(), nproc, gpus }
    }

    #[test]
    fn secret_is_proved_by_both_sides_before_anything_else() {
        let secret = Secret::new("a secret of all nodes").unwrap();
        let (ours, theirs) = (nonce().unwrap(), nonce().unwrap());
        let mut guest = Guest::new(ours);
        let hello = line(&Greeting::Hello(Version::own(&theirs)));
        let Step::Answer(Answer::Challenge { version, secret: true }) = guest.hear(&hello, Some(&secret), 3) else {
            panic!("no challenge")
        };
        assert_eq!(version.check().unwrap(), ours);
        let proof = line(&Greeting::Proof(secret.proof(Side::Member, &theirs, &ours)));
        let Step::Answer(Answer::Proof(proof)) = guest.hear(&proof, Some(&secret), 3) else { panic!("no proof") };
        assert!(secret.verifies(&proof, Side::Coordinator, &theirs, &ours));
        let step = guest.hear(&line(&Greeting::Join(join(2, 2, Some(&["0", "1"])))), Some(&secret), 3);
        let Step::Join(2, member) = step else { panic!("{step:?}") };
        assert_eq!(member.host, r"gpu\u{1b}[2J");
    }

    #[test]
    fn peer_without_the_secret_is_refused() {
        let secret = Secret::new("a secret of all nodes").unwrap();
        let other = Secret::new("a secret of no node").unwrap();
        let theirs = nonce().unwrap();
        let hello = line(&Greeting::Hello(Version::own(&theirs)));
        let ours = nonce().unwrap();
        for second in [
            Greeting::Join(join(1, 1, None)),
            Greeting::Hello(Version::own(&theirs)),
            Greeting::Proof(other.proof(Side::Member, &theirs, &ours)),
            Greeting::Proof(secret.proof(Side::Coordinator, &theirs, &ours)),
        ] {
            let mut guest = Guest::new(ours);
            guest.hear(&hello, Some(&secret), 3);
            let step = guest.hear(&line(&second), Some(&secret), 3);
            assert!(matches!(step, Step::Refuse(_) | Step::Leave), "{second:?}: {step:?}");
            let step = guest.hear(&line(&Greeting::Join(join(1, 1, None))), Some(&secret), 3);
            assert!(matches!(step, Step::Leave), "nothing helps after that: {step:?}");
        }
    }

    #[test]
    fn numbers_and_lists_of_a_node_are_bounded() {
        let gpus: Vec<&str> = vec!["0"; 4];
        let cases = [
            (join(1, 1 << 63, None), "1 to 4096 workers"),
            (join(1, 0, None), "1 to 4096 workers"),
            (join(3, 1, None), "invalid --node-rank 3: expected 1 to 2"),
            (join(0, 1, None), "invalid --node-rank 0: expected 1 to 2"),
            (join(usize::MAX, 1, None), "invalid --node-rank"),
            (join(1, 3, Some(&gpus)), "3 workers and 4 GPUs"),
            (join(1, 4, Some(&[])), "4 workers and 0 GPUs"),
            (join(1, 1, Some(&[&"g".repeat(200)])), "invalid GPU name"),
            (join(1, 1, Some(&["0\n"])), "invalid GPU name"),
            (Join { nnodes: 4, ..join(1, 1, None) }, "--nnodes is 3 on node 0, but 4 on node 1"),
            (Join { host: "h".repeat(300), ..join(1, 1, None) }, "host name"),
        ];
        for (join, problem) in cases {
            let words = join.check(3).unwrap_err();
            assert!(words.contains(problem), "{words}");
        }
    }

    #[test]
    fn version_that_differs_is_refused_with_the_difference() {
        let hear = |text: &str| Guest::new(Nonce::default()).hear(text.as_bytes(), None, 2);
        let Step::Refuse(older) =
            hear(r#"{"Hello":{"version":"0.0.9","node_rank":1,"nnodes":2,"host":"h","nproc":1}}"#)
        else {
            panic!("not refused")
        };
        assert!(older.contains("with protocol 2, but the other has 0.0.9 with protocol 1"), "{older}");
        let Step::Refuse(newer) = hear(r#"{"Hello":{"protocol":9,"version":"7\u001b[2J","more":[]}}"#) else {
            panic!("not refused")
        };
        assert!(newer.contains(r"has 7\u{1b}[2J with protocol 9: install the same"), "{newer}");
        // What a launcher of protocol 1 understands.
        let refused = serde_json::to_string(&Answer::Refused("no".into())).unwrap();
        assert_eq!(refused, r#"{"Refused":"no"}"#);
    }
}
