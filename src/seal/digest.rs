//! Content fingerprints of COPY text: order-free and order-bound sums of XXH3-128, made in pieces and put together.
//!
//! Both are defined over *lines*: the bytes of a COPY text row without its newline; the end marker `\.` is no line.
//! Memory: constant. A [`Fingerprint`] of a piece is independent of where the piece stands; [`Fingerprint::append`]
//! puts pieces together in order, so pieces can be made on any thread.

use xxhash_rust::xxh3::{Xxh3, xxh3_128};

/// Rows, bytes and both sums of some consecutive COPY text lines.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Fingerprint {
    /// Lines seen.
    pub rows: u64,
    /// Bytes seen, newlines included.
    pub bytes: u64,
    sum: u128,
    weighted: u128,
}

impl Fingerprint {
    /// Adds one line, given without its newline.
    pub fn line(&mut self, line: &[u8]) {
        self.hashed(xxh3_128(line), line.len() as u64);
    }

    /// Adds one line by its XXH3-128 and its length without the newline, for a line that was never held whole.
    pub fn hashed(&mut self, hash: u128, bytes: u64) {
        self.rows += 1;
        self.bytes += bytes + 1;
        self.sum = self.sum.wrapping_add(hash);
        self.weighted = self.weighted.wrapping_add(hash.wrapping_mul(u128::from(self.rows)));
    }

    /// Adds whole lines, each ending in a newline. Returns how many bytes at the end belong to an unfinished line
    /// and were not taken.
    pub fn lines(&mut self, mut text: &[u8]) -> usize {
        while let Some(end) = memchr(text) {
            let (line, rest) = text.split_at(end);
            self.line(line);
            text = rest.split_first().map_or(&[][..], |(_newline, rest)| rest);
        }
        text.len()
    }

    /// Appends the fingerprint of what follows.
    pub fn append(&mut self, next: &Self) {
        self.weighted =
            self.weighted.wrapping_add(next.weighted).wrapping_add(next.sum.wrapping_mul(u128::from(self.rows)));
        self.sum = self.sum.wrapping_add(next.sum);
        self.rows += next.rows;
        self.bytes += next.bytes;
    }

    /// `xxh3-128-sum:<32 hex>`: does not depend on the order of lines.
    #[must_use]
    pub fn digest(&self) -> String {
        format!("xxh3-128-sum:{:032x}", self.sum)
    }

    /// `xxh3-128-wsum:<32 hex>`: depends on the order of lines.
    #[must_use]
    pub fn order(&self) -> String {
        format!("xxh3-128-wsum:{:032x}", self.weighted)
    }
}

/// A line that comes in pieces, hashed as they come.
#[derive(Default)]
pub(crate) struct Partial {
    hash: Option<Box<Xxh3>>,
    bytes: u64,
}

impl Partial {
    /// True between two lines.
    pub(crate) const fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Adds the next text to a fingerprint: the end of the line that was begun, whole lines, and the beginning of one.
    pub(crate) fn lines(&mut self, fingerprint: &mut Fingerprint, mut text: &[u8]) {
        if !self.is_empty() {
            let end = memchr(text);
            let (rest, after) = text.split_at(end.unwrap_or(text.len()));
            self.add(rest);
            if end.is_none() {
                return;
            }
            if let Some(hash) = &mut self.hash {
                fingerprint.hashed(hash.digest128(), self.bytes);
                hash.reset();
            }
            self.bytes = 0;
            text = after.split_first().map_or(&[][..], |(_newline, after)| after);
        }
        let left = fingerprint.lines(text);
        self.add(text.get(text.len() - left..).unwrap_or_default());
    }

    fn add(&mut self, text: &[u8]) {
        if !text.is_empty() {
            self.hash.get_or_insert_with(Box::default).update(text);
            self.bytes += text.len() as u64;
        }
    }
}

fn memchr(text: &[u8]) -> Option<usize> {
    memchr::memchr(b'\n', text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &[u8]) -> Fingerprint {
        let mut all = Fingerprint::default();
        assert_eq!(all.lines(text), 0);
        all
    }

    #[test]
    fn pieces_put_together_equal_the_whole_and_order_is_seen() {
        let mut parts = of(b"a\n\nbc\n");
        parts.append(&of(b"d\ne\n"));
        assert_eq!(parts, of(b"a\n\nbc\nd\ne\n"));
        assert_eq!(of(b"a\nb\n").digest(), of(b"b\na\n").digest());
        assert_ne!(of(b"a\nb\n").order(), of(b"b\na\n").order());
        assert_eq!(parts.rows, 5);
        assert_eq!(parts.bytes, 10);
    }

    #[test]
    fn lines_in_pieces_give_the_same_fingerprint() {
        let text = [b"\n\nabc\n".to_vec(), vec![b'x'; 5000], b"\nend\n".to_vec()].concat();
        for step in [1, 2, 3, 7, 1000, 5001] {
            let (mut all, mut partial) = (Fingerprint::default(), Partial::default());
            text.chunks(step).for_each(|piece| partial.lines(&mut all, piece));
            assert_eq!(all, of(&text), "{step}");
            assert!(partial.is_empty());
        }
    }

    #[test]
    fn an_unfinished_line_is_left() {
        let mut all = Fingerprint::default();
        assert_eq!(all.lines(b"ab\ncd"), 2);
        assert_eq!(all.rows, 1);
    }
}
