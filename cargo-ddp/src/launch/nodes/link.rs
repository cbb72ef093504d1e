//! The connection between two launchers: JSON lines, signs of life, and limits on both.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use serde::Serialize;
use serde::de::DeserializeOwned;

/// A side that has nothing to send sends a sign of life this often.
const BEAT: Duration = Duration::from_secs(5);
/// A side that has sent nothing for this long is lost: its machine, or the network.
const SILENCE: Duration = Duration::from_secs(20);
/// What waits to be sent to a side that does not read; beyond that, what may be lost is.
const LONGEST_QUEUE: usize = 1 << 20;
/// The longest message of a launcher that has joined.
const LONGEST_MESSAGE: usize = 4 << 20;
/// What is read before messages are handled.
const PIECE: usize = 1 << 14;

/// The connection to another launcher: JSON, one message a line. Never waits.
#[derive(Debug)]
pub struct Link {
    stream: TcpStream,
    /// Received bytes that are not handled yet; the first `scanned` bytes hold no line end.
    inbox: Vec<u8>,
    scanned: usize,
    /// The longest line that is accepted.
    longest: usize,
    outbox: Vec<u8>,
    heard: Instant,
    spoke: Instant,
}

/// Why a connection is over.
#[derive(Debug)]
pub(crate) struct Lost(pub(crate) String);

impl From<io::Error> for Lost {
    fn from(err: io::Error) -> Self {
        Self(err.to_string())
    }
}

impl Link {
    /// To a side that may be a stranger: no line may be longer than `longest`.
    pub(crate) fn new(stream: TcpStream, longest: usize) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        let now = Instant::now();
        let (inbox, outbox) = (Vec::new(), Vec::new());
        Ok(Self { stream, inbox, scanned: 0, longest, outbox, heard: now, spoke: now })
    }

    /// From now on a line may have this length.
    pub(crate) fn allow(&mut self, longest: usize) {
        self.longest = longest;
    }

    /// The other side has joined: from now on messages may be long.
    pub(crate) fn joined(&mut self) {
        self.longest = LONGEST_MESSAGE;
    }

    /// From now on both sides give signs of life.
    pub(crate) fn begin(&mut self) {
        self.heard = Instant::now();
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }

    /// Whether there is something that could not be sent yet.
    pub(crate) fn has_more_to_send(&self) -> bool {
        !self.outbox.is_empty()
    }

    /// When to call [`tick`](Self::tick) at the latest.
    pub(crate) fn deadline(&self) -> Instant {
        (self.spoke + BEAT).min(self.heard + SILENCE)
    }

    /// Queues a message and sends what can be sent. What went wrong is seen when the link is read.
    pub(crate) fn send(&mut self, message: &impl Serialize) {
        self.spoke = Instant::now();
        if serde_json::to_writer(&mut self.outbox, message).is_ok() {
            self.outbox.push(b'\n');
        }
        let _ = self.flush();
    }

    /// As [`send`](Self::send), for what may be lost: not when much is waiting already.
    pub(crate) fn send_if_it_reads(&mut self, message: &impl Serialize) {
        if self.outbox.len() < LONGEST_QUEUE {
            self.send(message);
        }
    }

    /// Sends what can be sent now.
    pub(crate) fn flush(&mut self) -> Result<(), Lost> {
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
    pub(crate) fn send_last(&mut self, message: &impl Serialize) {
        self.send(message);
        let _ = self.stream.set_nonblocking(false);
        let _ = self.stream.set_write_timeout(Some(Duration::from_secs(2)));
        let _ = self.stream.write_all(&self.outbox);
        self.outbox.clear();
    }

    /// Whether a received message is not handled yet.
    pub(crate) fn has_message(&self) -> bool {
        self.inbox[self.scanned..].contains(&b'\n')
    }

    /// The next line without its end, if one has arrived. Further ones stay for later.
    pub(crate) fn line(&mut self) -> Result<Option<Vec<u8>>, Lost> {
        if let Some(line) = self.take_line()? {
            return Ok(Some(line));
        }
        let end = self.fill();
        match (self.take_line()?, end) {
            (Some(line), _) => Ok(Some(line)),
            (None, Some(lost)) => Err(lost),
            (None, None) => Ok(None),
        }
    }

    /// The next message, if one has arrived.
    pub(crate) fn receive<M: DeserializeOwned>(&mut self) -> Result<Option<M>, Lost> {
        self.line()?.map(|line| parse(&line)).transpose()
    }

    /// The messages that have arrived. Those before the end of a connection are still given; the next call reports the end.
    pub(crate) fn read<M: DeserializeOwned>(&mut self) -> Result<Vec<M>, Lost> {
        let end = self.fill();
        let mut messages = Vec::new();
        while let Some(line) = self.take_line()? {
            if !line.is_empty() {
                messages.push(parse(&line)?);
            }
        }
        match end {
            Some(lost) if messages.is_empty() => Err(lost),
            _ => Ok(messages),
        }
    }

    /// Reads and drops what arrives. An error at the end.
    pub(crate) fn discard(&mut self) -> Result<(), Lost> {
        self.inbox.clear();
        self.scanned = 0;
        let end = self.fill();
        self.inbox.clear();
        self.scanned = 0;
        end.map_or(Ok(()), Err)
    }

    /// Reads until there is a message, or nothing more for now. Returns the end of the connection.
    fn fill(&mut self) -> Option<Lost> {
        let mut buffer = [0; PIECE];
        while self.inbox.len() <= self.longest && !self.has_message() {
            self.scanned = self.inbox.len();
            match self.stream.read(&mut buffer) {
                Ok(0) => return Some(Lost("the connection was closed".into())),
                Ok(n) => {
                    self.heard = Instant::now();
                    self.inbox.extend_from_slice(&buffer[..n]);
                }
                Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
                Err(err) if err.kind() == io::ErrorKind::WouldBlock => return None,
                Err(err) => return Some(err.into()),
            }
        }
        None
    }

    fn take_line(&mut self) -> Result<Option<Vec<u8>>, Lost> {
        let end = self.inbox[self.scanned..].iter().position(|&byte| byte == b'\n').map(|end| self.scanned + end);
        if end.unwrap_or(self.inbox.len()) > self.longest {
            return Err(Lost("received an invalid message".into()));
        }
        let Some(end) = end else {
            self.scanned = self.inbox.len();
            return Ok(None);
        };
        let mut line: Vec<u8> = self.inbox.drain(..=end).collect();
        line.pop();
        self.scanned = 0;
        Ok(Some(line))
    }

    /// Sends `alive` if nothing was sent for a while; an error if nothing was received for too long.
    pub(crate) fn tick(&mut self, now: Instant, alive: &impl Serialize) -> Result<(), Lost> {
        if now >= self.heard + SILENCE {
            return Err(Lost(format!("no message for {} s", SILENCE.as_secs())));
        }
        if now >= self.spoke + BEAT {
            self.send(alive);
        }
        self.flush()
    }
}

fn parse<M: DeserializeOwned>(line: &[u8]) -> Result<M, Lost> {
    serde_json::from_slice(line).map_err(|err| Lost(format!("received an invalid message: {err}")))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    fn pair() -> (Link, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let far = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (Link::new(listener.accept().unwrap().0, 1 << 10).unwrap(), far)
    }

    fn wait(link: &Link) {
        let mut fds = [rustix::event::PollFd::new(&link.stream, rustix::event::PollFlags::IN)];
        rustix::event::poll(&mut fds, None).unwrap();
    }

    #[test]
    fn messages_arrive_completely_before_the_end_of_the_connection() {
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
    fn link_is_lost_after_invalid_messages_or_silence() {
        let (mut link, mut far) = pair();
        far.write_all(b"GET / HTTP/1.1\r\n").unwrap();
        wait(&link);
        assert!(link.read::<Vec<u8>>().unwrap_err().0.contains("received an invalid message"));
        let now = Instant::now();
        assert!(link.tick(now, &"alive").is_ok());
        assert!(link.tick(now + SILENCE, &"alive").unwrap_err().0.contains("no message for 20 s"));
    }

    #[test]
    fn messages_of_one_packet_are_all_received() {
        let (mut link, mut far) = pair();
        far.write_all(b"[1]\n[2]\n[3]\n").unwrap();
        wait(&link);
        assert_eq!(link.receive::<Vec<u8>>().unwrap(), Some(vec![1]));
        assert!(link.has_message());
        assert_eq!(link.read::<Vec<u8>>().unwrap(), [vec![2], vec![3]]);
        assert!(!link.has_message() && link.receive::<Vec<u8>>().unwrap().is_none());
    }

    #[test]
    fn line_without_end_is_refused_and_fills_no_memory() {
        let (mut link, mut far) = pair();
        far.set_nonblocking(true).unwrap();
        // As much as the kernel takes.
        while far.write(&[b'x'; 4096]).is_ok() {}
        wait(&link);
        assert!(link.read::<Vec<u8>>().unwrap_err().0.contains("received an invalid message"));
        assert!(
            link.inbox.len() <= (1 << 10) + PIECE && link.inbox.capacity() <= 4 * PIECE,
            "{}",
            link.inbox.capacity()
        );
    }

    #[test]
    fn peer_that_does_not_read_causes_no_waiting_and_little_memory() {
        let (mut link, _far) = pair();
        let long = "x".repeat(1000);
        for _ in 0..100_000 {
            link.send_if_it_reads(&long);
        }
        assert!(link.outbox.len() <= LONGEST_QUEUE + 2000);
    }
}
