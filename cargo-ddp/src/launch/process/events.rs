//! A worker's events, from a pipe into which it may write anything.

use ddp_contract::Event;

use super::stream::Pipe;

/// Bytes read before other sources have their turn: four times what a pipe holds.
const FAIR_SHARE: usize = 256 << 10;
/// No event is longer, in bytes: it has at most one path, of at most 4096 bytes, each of which JSON may write as six.
const LONGEST: usize = 32 << 10;

/// The events of one worker.
pub(crate) struct EventStream {
    pub(crate) pipe: Pipe,
    lines: Lines,
}

impl EventStream {
    pub(crate) fn new(pipe: Pipe) -> Self {
        Self { pipe, lines: Lines::default() }
    }

    /// The events that have arrived. The next call returns the rest of a flood.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> Vec<Event> {
        self.read_at_most(buffer, FAIR_SHARE)
    }

    /// The last events of a worker that is gone.
    pub(crate) fn close(&mut self, buffer: &mut [u8]) -> Vec<Event> {
        let events = self.read_at_most(buffer, self.pipe.waiting());
        self.pipe.close();
        events
    }

    fn read_at_most(&mut self, buffer: &mut [u8], limit: usize) -> Vec<Event> {
        let Self { pipe, lines } = self;
        let mut events = Vec::new();
        pipe.drain(buffer, limit, |piece| lines.push(piece, &mut events));
        events
    }
}

/// Puts lines together that arrive in pieces.
#[derive(Default)]
struct Lines {
    partial: Vec<u8>,
    /// The line in progress is too long to be an event.
    too_long: bool,
}

impl Lines {
    fn push(&mut self, piece: &[u8], events: &mut Vec<Event>) {
        // A line that is not an event (a program of another kind writes to the pipe) is skipped.
        let parse = |line: &[u8]| serde_json::from_slice(line).ok();
        for part in piece.split_inclusive(|&byte| byte == b'\n') {
            let complete = part.ends_with(b"\n");
            if complete && self.partial.is_empty() && !self.too_long {
                events.extend(Some(part).filter(|part| part.len() <= LONGEST).and_then(parse));
                continue;
            }
            if !self.too_long && self.partial.len() + part.len() <= LONGEST {
                self.partial.extend_from_slice(part);
            } else {
                self.too_long = true;
                self.partial.clear();
            }
            if complete {
                events.extend(parse(&self.partial));
                self.partial.clear();
                self.too_long = false;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn through(pieces: &[&[u8]]) -> (Vec<Event>, Lines) {
        let (mut lines, mut events) = (Lines::default(), Vec::new());
        for piece in pieces {
            lines.push(piece, &mut events);
        }
        (events, lines)
    }

    const STARTED: &[u8] = b"{\"event\":\"started\",\"version\":1}\n";

    #[test]
    fn events_are_read_in_pieces_and_between_other_lines() {
        let (events, _) = through(&[STARTED, &STARTED[..7], &STARTED[7..], b"hello\n\n{}\n", STARTED, &STARTED[..9]]);
        assert_eq!(events, [Event::started(), Event::started(), Event::started()]);
    }

    #[test]
    fn event_without_an_end_takes_little_memory_and_the_next_one_is_read() {
        let long = vec![b'x'; LONGEST];
        let mut pieces = vec![&long[..]; 1000];
        let (events, lines) = through(&pieces);
        assert!(events.is_empty() && lines.partial.capacity() <= 2 * LONGEST);
        pieces.extend([&b"\n"[..], STARTED]);
        assert_eq!(through(&pieces).0, [Event::started()]);
        let line = [&long[..], b"\n", STARTED].concat();
        assert_eq!(through(&[&line]).0, [Event::started()]);
    }

    #[test]
    fn event_may_have_a_long_path() {
        let snapshot = "\u{1}".repeat(4095).into();
        let saved = Event::Resumed { snapshot, epoch: u64::MAX, step: u64::MAX };
        let line = serde_json::to_string(&saved).unwrap() + "\n";
        assert_eq!(through(&[line.as_bytes()]).0, [saved]);
    }
}
