//! COPY text taken in pieces of any size: rows are counted and hashed without ever holding one.
//!
//! Both forms of a table end their rows with a line `\.`; what follows that line differs and is the caller's matter.
//! Memory: constant, also for a row of 1 GB, whose hash is made as its bytes come.

use xxhash_rust::xxh3::Xxh3;

use crate::seal::digest::Fingerprint;

/// Rows of one table, fed in order.
#[derive(Clone)]
pub(crate) struct Rows {
    all: Fingerprint,
    open: Box<Xxh3>,
    open_bytes: u64,
    head: [u8; 2],
    ended: bool,
}

impl std::fmt::Debug for Rows {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rows").field("all", &self.all).field("ended", &self.ended).finish_non_exhaustive()
    }
}

impl Default for Rows {
    fn default() -> Self {
        Self { all: Fingerprint::default(), open: Box::new(Xxh3::new()), open_bytes: 0, head: [0; 2], ended: false }
    }
}

impl Rows {
    /// Takes text up to and including the end marker's line; returns how many bytes were taken.
    ///
    /// All are taken unless the end marker was met; nothing is taken after it.
    pub(crate) fn feed(&mut self, text: &[u8]) -> usize {
        let mut rest = text;
        while !self.ended && !rest.is_empty() {
            let Some(end) = memchr::memchr(b'\n', rest) else {
                self.hold(rest);
                rest = &[];
                break;
            };
            let (line, after) = rest.split_at(end);
            self.close(line);
            rest = after.split_first().map_or(&[][..], |(_newline, after)| after);
        }
        text.len() - rest.len()
    }

    /// Rows so far; an unfinished row and the end marker are not counted.
    #[must_use]
    pub(crate) const fn fingerprint(&self) -> &Fingerprint {
        &self.all
    }

    /// True when the end marker was met.
    #[must_use]
    pub(crate) const fn ended(&self) -> bool {
        self.ended
    }

    /// True when the last byte taken ended a row (or nothing was taken).
    #[must_use]
    pub(crate) const fn between_rows(&self) -> bool {
        self.open_bytes == 0
    }

    fn hold(&mut self, part: &[u8]) {
        if self.open_bytes < 2 {
            let free = self.head.iter_mut().skip(usize::from(self.open_bytes == 1));
            for (slot, byte) in free.zip(part) {
                *slot = *byte;
            }
        }
        self.open.update(part);
        self.open_bytes += part.len() as u64;
    }

    fn close(&mut self, end_of_line: &[u8]) {
        if self.open_bytes == 0 {
            if end_of_line == br"\." {
                self.ended = true;
            } else {
                self.all.line(end_of_line);
            }
            return;
        }
        self.hold(end_of_line);
        if self.open_bytes == 2 && &self.head == br"\." {
            self.ended = true;
        } else {
            self.all.hashed(self.open.digest128(), self.open_bytes);
        }
        self.open.reset();
        self.open_bytes = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cut_of_the_text_gives_the_same_rows() {
        let text = b"a\tb\n\n\\N\n\\.x\n.\nlonger row\n\\.\nafter";
        let end = text.len() - 5;
        let mut expected = Fingerprint::default();
        assert_eq!(expected.lines(&text[..end - 3]), 0);
        for first in 0..=text.len() {
            for second in first..=text.len() {
                let mut rows = Rows::default();
                let mut taken = 0;
                for part in [&text[..first], &text[first..second], &text[second..]] {
                    taken += rows.feed(part);
                }
                assert!(rows.ended());
                assert_eq!(taken, end, "cut at {first} and {second}");
                assert_eq!(rows.fingerprint(), &expected, "cut at {first} and {second}");
            }
        }
    }
}
