//! Cutting COPY text into segments at row ends. The cuts depend on the rows only, never on how they arrived, so that
//! reading a chunk again gives the same segments.

use bytes::{Bytes, BytesMut};

/// A segment is cut at the first row end at or after this many bytes. One zstd level-3 window is 2 MiB: larger
/// frames compress hardly better, smaller ones lose ratio.
pub const SEGMENT_BYTES: usize = 2 << 20;

/// A message at least this long is kept where the driver read it instead of being copied, so that a row of hundreds
/// of MiB, which comes in many, is in memory once.
const KEEP_BYTES: usize = 256 << 10;

/// First room for short messages: enough for most tables' last segment.
const FIRST_ROOM: usize = 16 << 10;

/// Above this, the next room is that of a whole segment with its last row: doubling would copy it several times, and
/// end at twice its size.
const LAST_DOUBLED: usize = 256 << 10;
const WHOLE_ROOM: usize = SEGMENT_BYTES + (64 << 10);

/// Whole rows of COPY text.
#[derive(Debug, Default)]
pub(crate) struct Segment {
    /// The text in order; each part is whole rows unless a row came in several messages.
    pub(crate) parts: Vec<Bytes>,
    /// Bytes of all parts.
    pub(crate) bytes: usize,
}

/// Gathers messages into segments.
#[derive(Debug, Default)]
pub(crate) struct Segmenter {
    small: BytesMut,
    segment: Segment,
    at_row_end: bool,
    /// A full segment has come: the next one is likely to be one too.
    is_long: bool,
}

impl Segmenter {
    /// Takes one message of COPY text (PostgreSQL sends a row a message) and returns a segment when one is full.
    pub(crate) fn push(&mut self, message: Bytes) -> Option<Segment> {
        self.at_row_end = message.last() == Some(&b'\n');
        self.segment.bytes += message.len();
        if message.len() >= KEEP_BYTES {
            self.keep_small();
            self.segment.parts.push(message);
        } else {
            self.room(message.len());
            self.small.extend_from_slice(&message);
        }
        let is_full = self.segment.bytes >= SEGMENT_BYTES && self.at_row_end;
        self.is_long |= is_full;
        is_full.then(|| self.take())
    }

    fn room(&mut self, more: usize) {
        let (length, room) = (self.small.len(), self.small.capacity());
        if length + more > room {
            let next = if room >= LAST_DOUBLED || self.is_long { WHOLE_ROOM } else { (room * 2).max(FIRST_ROOM) };
            self.small.reserve(next.saturating_sub(length).max(more));
        }
    }

    /// Bytes that are gathered and not yet returned.
    pub(crate) const fn gathered(&self) -> usize {
        self.segment.bytes
    }

    /// The rows left at the end of a chunk. `None` where there are none; an error text where the last row has no end.
    pub(crate) fn finish(&mut self) -> Result<Option<Segment>, &'static str> {
        if self.segment.bytes == 0 {
            return Ok(None);
        }
        if !self.at_row_end {
            return Err("the last row has no line end");
        }
        Ok(Some(self.take()))
    }

    fn keep_small(&mut self) {
        if !self.small.is_empty() {
            self.segment.parts.push(std::mem::take(&mut self.small).freeze());
        }
    }

    fn take(&mut self) -> Segment {
        self.keep_small();
        std::mem::take(&mut self.segment)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cuts_do_not_depend_on_how_rows_arrive() {
        let rows: Vec<Bytes> =
            (0..40_000_u32).map(|n| Bytes::from(format!("{n}\t{}\n", "x".repeat(n as usize % 300)))).collect();
        let cut = |messages: Vec<Bytes>| {
            let mut segmenter = Segmenter::default();
            let mut out: Vec<Vec<u8>> =
                messages.into_iter().filter_map(|m| segmenter.push(m)).map(|s| s.parts.concat()).collect();
            out.extend(segmenter.finish().unwrap().map(|s| s.parts.concat()));
            out
        };
        let one_by_one = cut(rows.clone());
        assert!(one_by_one.len() > 2);
        assert_eq!(one_by_one.concat(), rows.concat());
        let halves = rows
            .iter()
            .flat_map(|r| [r.slice(..r.len() / 2), r.slice(r.len() / 2..)])
            .filter(|m| !m.is_empty())
            .collect();
        assert_eq!(one_by_one, cut(halves));
    }

    #[test]
    fn a_row_without_its_end_is_an_error() {
        let mut segmenter = Segmenter::default();
        assert!(segmenter.push(Bytes::from_static(b"abc")).is_none());
        assert!(segmenter.finish().is_err());
    }
}
