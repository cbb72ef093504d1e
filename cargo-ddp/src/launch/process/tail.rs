//! A worker's last lines, for the report of a failure.

/// How much is kept, in bytes.
const KEPT: usize = 1 << 14;

/// The end of a stream.
#[derive(Default)]
pub(crate) struct Tail {
    bytes: Vec<u8>,
}

impl Tail {
    pub(super) fn push(&mut self, piece: &[u8]) {
        let piece = &piece[piece.len().saturating_sub(KEPT)..];
        let surplus = (self.bytes.len() + piece.len()).saturating_sub(2 * KEPT);
        if surplus > 0 {
            // Down to half, so that this is rare.
            let from = (self.bytes.len() + piece.len()).saturating_sub(KEPT).min(self.bytes.len());
            self.bytes.drain(..from);
        }
        self.bytes.extend_from_slice(piece);
    }

    /// The last `count` lines, oldest first, without what a progress bar has overwritten.
    pub(crate) fn last_lines(&self, count: usize) -> Vec<String> {
        let text = String::from_utf8_lossy(&self.bytes);
        let lines = text.lines().map(|line| line.trim_end().rsplit('\r').next().unwrap_or_default());
        let lines: Vec<_> = lines.filter(|line| !line.is_empty()).map(str::to_owned).collect();
        lines[lines.len().saturating_sub(count)..].to_vec()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tail_keeps_the_last_lines() {
        let mut tail = Tail::default();
        for i in 0..20_000 {
            tail.push(format!("line {i}\n").as_bytes());
        }
        assert_eq!(tail.last_lines(2), ["line 19998", "line 19999"]);
        assert!(tail.bytes.len() <= 2 * KEPT);
        tail.push(&vec![b'x'; 10 * KEPT]);
        tail.push(b"\n10%\r20%\nend");
        assert_eq!(tail.last_lines(2), ["20%", "end"]);
    }
}
