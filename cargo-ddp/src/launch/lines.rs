//! Workers' output: whole lines, each with its rank before it.

use std::collections::VecDeque;

/// A line longer than this is passed on in pieces.
const LONGEST: usize = 1 << 20;
/// How many of a worker's last lines are kept for the failure report.
const KEPT: usize = 5;

/// Puts a prefix before each line of a stream that arrives in pieces.
pub(super) struct Prefixer {
    prefix: String,
    partial: Vec<u8>,
    last: VecDeque<Vec<u8>>,
}

impl Prefixer {
    pub(super) fn new(rank: usize) -> Self {
        Self { prefix: format!("[rank {rank}] "), partial: Vec::new(), last: VecDeque::new() }
    }

    /// Takes a piece, and appends the lines that are whole by now to `out`.
    pub(super) fn push(&mut self, piece: &[u8], out: &mut Vec<u8>) {
        for part in piece.split_inclusive(|&byte| byte == b'\n') {
            self.partial.extend_from_slice(part);
            if self.partial.ends_with(b"\n") || self.partial.len() >= LONGEST {
                self.emit(out);
            }
        }
    }

    /// The stream is over: what was not ended by a newline is a line too.
    pub(super) fn finish(&mut self, out: &mut Vec<u8>) {
        if !self.partial.is_empty() {
            self.emit(out);
        }
    }

    /// The last lines, oldest first.
    pub(super) fn last_lines(&self) -> impl Iterator<Item = String> {
        self.last.iter().map(|line| String::from_utf8_lossy(line).trim_end().to_owned())
    }

    fn emit(&mut self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.prefix.as_bytes());
        out.extend_from_slice(&self.partial);
        if !self.partial.ends_with(b"\n") {
            out.push(b'\n');
        }
        if self.last.len() == KEPT {
            self.last.pop_front();
        }
        self.last.push_back(std::mem::take(&mut self.partial));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn through(pieces: &[&[u8]]) -> Vec<u8> {
        let (mut prefixer, mut out) = (Prefixer::new(1), Vec::new());
        for piece in pieces {
            prefixer.push(piece, &mut out);
        }
        prefixer.finish(&mut out);
        out
    }

    #[test]
    fn lines_come_out_whole_whatever_the_pieces() {
        assert_eq!(through(&[b"a\nb", b"", b"c\n\nd"]), b"[rank 1] a\n[rank 1] bc\n[rank 1] \n[rank 1] d\n");
        assert_eq!(through(&[b"\xff\xfe\n"]), b"[rank 1] \xff\xfe\n");
        assert_eq!(through(&[]), b"");
    }

    #[test]
    fn a_line_without_end_does_not_fill_the_memory() {
        let out = through(&[&vec![b'x'; LONGEST], b"rest"]);
        assert_eq!(out.len(), LONGEST + 4 + 2 * ("[rank 1] \n".len()));
    }

    #[test]
    fn the_last_lines_are_kept() {
        let (mut prefixer, mut out) = (Prefixer::new(0), Vec::new());
        for i in 0..9 {
            prefixer.push(format!("line {i}\n").as_bytes(), &mut out);
        }
        assert_eq!(prefixer.last_lines().collect::<Vec<_>>(), ["line 4", "line 5", "line 6", "line 7", "line 8"]);
    }
}
