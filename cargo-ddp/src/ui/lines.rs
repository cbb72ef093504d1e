//! Workers' output: complete lines, each with its rank before it.

/// A line longer than this is printed in pieces.
const LONGEST: usize = 1 << 20;

/// Puts a prefix before each line of a stream that arrives in pieces.
pub(crate) struct Prefixer {
    prefix: Vec<u8>,
    /// A progress bar's `\r` ends a line, too: on a terminal it should be visible immediately.
    carriage_returns: bool,
    partial: Vec<u8>,
}

impl Prefixer {
    pub(crate) fn new(prefix: String, carriage_returns: bool) -> Self {
        Self { prefix: prefix.into_bytes(), carriage_returns, partial: Vec::new() }
    }

    /// Takes a piece, and appends the lines that are complete by now to `out`.
    pub(crate) fn push(&mut self, piece: &[u8], out: &mut Vec<u8>) {
        let returns = self.carriage_returns;
        for part in piece.split_inclusive(|&byte| byte == b'\n' || returns && byte == b'\r') {
            let whole = part.last().is_some_and(|&byte| byte == b'\n' || returns && byte == b'\r');
            if whole && self.partial.is_empty() {
                out.extend_from_slice(&self.prefix);
                out.extend_from_slice(part);
                continue;
            }
            self.partial.extend_from_slice(part);
            if whole {
                out.extend_from_slice(&self.prefix);
                out.append(&mut self.partial);
            } else if self.partial.len() >= LONGEST {
                self.finish(out);
            }
        }
    }

    /// The stream is over: what was not ended by a newline is a line too.
    pub(crate) fn finish(&mut self, out: &mut Vec<u8>) {
        if !self.partial.is_empty() {
            out.extend_from_slice(&self.prefix);
            out.append(&mut self.partial);
            out.push(b'\n');
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefixer() -> Prefixer {
        Prefixer::new("[rank 1] ".into(), false)
    }

    fn through(mut prefixer: Prefixer, pieces: &[&[u8]]) -> Vec<u8> {
        let mut out = Vec::new();
        for piece in pieces {
            prefixer.push(piece, &mut out);
        }
        prefixer.finish(&mut out);
        out
    }

    #[test]
    fn lines_are_printed_completely_however_they_are_split() {
        let out = through(prefixer(), &[b"a\nb", b"", b"c\n\nd"]);
        assert_eq!(out, b"[rank 1] a\n[rank 1] bc\n[rank 1] \n[rank 1] d\n");
        assert_eq!(through(prefixer(), &[b"\xff\xfe\n"]), b"[rank 1] \xff\xfe\n");
        assert_eq!(through(prefixer(), &[b"\r10%\r", b"20%\n"]), b"[rank 1] \r10%\r20%\n");
        assert_eq!(through(prefixer(), &[]), b"");
    }

    #[test]
    fn progress_bar_moves_on_a_terminal() {
        let mut prefixer = Prefixer::new("[rank 0] ".into(), true);
        let mut out = Vec::new();
        prefixer.push(b"10%\r", &mut out);
        assert_eq!(out, b"[rank 0] 10%\r");
        prefixer.push(b"20%", &mut out);
        prefixer.push(b"\r", &mut out);
        assert_eq!(out, b"[rank 0] 10%\r[rank 0] 20%\r");
    }

    #[test]
    fn line_without_end_does_not_fill_the_memory() {
        let out = through(prefixer(), &[&vec![b'x'; LONGEST], b"rest"]);
        assert_eq!(out.len(), LONGEST + 4 + 2 * ("[rank 1] \n".len()));
    }
}
