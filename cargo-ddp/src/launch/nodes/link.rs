use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use serde::Serialize;
use serde::de::DeserializeOwned;

/// A side that has nothing to say says so this often.
const BEAT: Duration = Duration::from_secs(5);
/// A side that has said nothing for so long is lost: its machine, or the network.
const SILENCE: Duration = Duration::from_secs(20);
/// What waits to be sent to a side that does not read; beyond that, what may be lost is.
const LONGEST_QUEUE: usize = 1 << 20;
/// A message that is longer is none of ours.
const LONGEST_MESSAGE: usize = 4 << 20;

/// The connection to another launcher: JSON, one message a line. Never waits.
#[derive(Debug)]
pub struct Link {
    stream: TcpStream,
    inbox: Vec<u8>,
    outbox: Vec<u8>,
    heard: Instant,
    spoke: Instant,
}

/// Why a connection is over.
#[derive(Debug)]
pub(in crate::launch) struct Lost(pub(in crate::launch) String);

impl From<io::Error> for Lost {
    fn from(err: io::Error) -> Self {
        Self(err.to_string())
    }
}

impl Link {
    pub(super) fn new(stream: TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        let now = Instant::now();
        Ok(Self { stream, inbox: Vec::new(), outbox: Vec::new(), heard: now, spoke: now })
    }

    /// From now on both sides give signs of life.
    pub(super) fn begin(&mut self) {
        self.heard = Instant::now();
    }

    pub(in crate::launch) fn fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }

    /// Whether there is something that could not be sent yet.
    pub(in crate::launch) fn has_more_to_send(&self) -> bool {
        !self.outbox.is_empty()
    }

    /// When to call [`tick`](Self::tick) at the latest.
    pub(in crate::launch) fn deadline(&self) -> Instant {
        (self.spoke + BEAT).min(self.heard + SILENCE)
    }

    /// Queues a message and sends what can be sent. What went wrong is seen when the link is read.
    pub(in crate::launch) fn send(&mut self, message: &impl Serialize) {
        self.spoke = Instant::now();
        if serde_json::to_writer(&mut self.outbox, message).is_ok() {
            self.outbox.push(b'\n');
        }
        let _ = self.flush();
    }

    /// As [`send`](Self::send), for what may be lost: not when much is waiting already.
    pub(in crate::launch) fn send_if_it_reads(&mut self, message: &impl Serialize) {
        if self.outbox.len() < LONGEST_QUEUE {
            self.send(message);
        }
    }

    /// Sends what can be sent now.
    pub(in crate::launch) fn flush(&mut self) -> Result<(), Lost> {
        while !self.outbox.is_empty() {
            match self.stream.write(&self.outbox) {
                Ok(sent) => drop(self.outbox.drain(..sent)),
                Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
                Err(err) if err.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(err) => return Err(err.into()),
            }
        }
        Ok(())
    }

    /// The last message: waits for it to go out, but not for long.
    pub(in crate::launch) fn send_last(&mut self, message: &impl Serialize) {
        self.send(message);
        let _ = self.stream.set_nonblocking(false);
        let _ = self.stream.set_write_timeout(Some(Duration::from_secs(2)));
        let _ = self.stream.write_all(&self.outbox);
        self.outbox.clear();
    }

    /// The messages that have come. Those before the end of a connection are still given; the next call says it is over.
    pub(in crate::launch) fn read<M: DeserializeOwned>(&mut self) -> Result<Vec<M>, Lost> {
        let mut buffer = [0; 16384];
        let mut end = None;
        loop {
            match self.stream.read(&mut buffer) {
                Ok(0) => end = Some(Lost("the connection was closed".into())),
                Ok(n) => {
                    self.heard = Instant::now();
                    self.inbox.extend_from_slice(&buffer[..n]);
                    if self.inbox.len() < LONGEST_MESSAGE {
                        continue;
                    }
                }
                Err(err) if err.kind() == io::ErrorKind::Interrupted => continue,
                Err(err) if err.kind() == io::ErrorKind::WouldBlock => {}
                Err(err) => end = Some(err.into()),
            }
            break;
        }
        let whole = self.inbox.iter().rposition(|&byte| byte == b'\n').map_or(0, |end| end + 1);
        if whole == 0 && self.inbox.len() >= LONGEST_MESSAGE {
            return Err(Lost("it sends what is no message".into()));
        }
        let lines: Vec<u8> = self.inbox.drain(..whole).collect();
        let mut messages = Vec::new();
        for line in lines.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()) {
            messages
                .push(serde_json::from_slice(line).map_err(|err| Lost(format!("it sends what is no message: {err}")))?);
        }
        match end {
            Some(lost) if messages.is_empty() => Err(lost),
            _ => Ok(messages),
        }
    }

    /// Speaks up if nothing was said for a while; an error if nothing was heard for too long.
    pub(in crate::launch) fn tick(&mut self, now: Instant, alive: &impl Serialize) -> Result<(), Lost> {
        if now >= self.heard + SILENCE {
            return Err(Lost(format!("nothing was heard of it for {} s", SILENCE.as_secs())));
        }
        if now >= self.spoke + BEAT {
            self.send(alive);
        }
        self.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    fn pair() -> (Link, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let far = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (Link::new(listener.accept().unwrap().0).unwrap(), far)
    }

    fn wait(link: &Link) {
        let mut fds = [rustix::event::PollFd::new(&link.stream, rustix::event::PollFlags::IN)];
        rustix::event::poll(&mut fds, None).unwrap();
    }

    #[test]
    fn messages_come_whole_and_before_the_end() {
        let (mut link, mut far) = pair();
        far.write_all(b"[1]\n[2").unwrap();
        wait(&link);
        assert_eq!(link.read::<Vec<u8>>().unwrap(), [vec![1]]);
        far.write_all(b"]\n").unwrap();
        drop(far);
        wait(&link);
        assert_eq!(link.read::<Vec<u8>>().unwrap(), [vec![2]]);
        assert!(link.read::<Vec<u8>>().unwrap_err().0.contains("closed"));
    }

    #[test]
    fn strangers_and_silence_are_a_loss() {
        let (mut link, mut far) = pair();
        far.write_all(b"GET / HTTP/1.1\r\n").unwrap();
        wait(&link);
        assert!(link.read::<Vec<u8>>().unwrap_err().0.contains("no message"));
        let now = Instant::now();
        assert!(link.tick(now, &"alive").is_ok());
        assert!(link.tick(now + SILENCE, &"alive").unwrap_err().0.contains("nothing was heard"));
    }

    #[test]
    fn a_side_that_does_not_read_costs_no_waiting_and_little_memory() {
        let (mut link, _far) = pair();
        let long = "x".repeat(1000);
        for _ in 0..100_000 {
            link.send_if_it_reads(&long);
        }
        assert!(link.outbox.len() <= LONGEST_QUEUE + 2000);
    }
}
