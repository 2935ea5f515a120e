//! Compression of frames. A frame is a complete zstd frame (RFC 8878, with content checksum) or gzip member
//! (RFC 1952); frames put one after the other are again a valid file for the stock `zstd -d` and `gzip -d`.

use std::cell::RefCell;
use std::fmt;
use std::io::Write as _;
use std::str::FromStr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use crate::error::{Context as _, Error, Result};

/// Level of plain `zstd`. On COPY text of UUIDs, hashes, addresses and JSON level 1 gives *smaller* frames than level 3
/// (4.2 : 1 against 3.8 : 1 with zstd 1.5.4) in about half the time; on prose it is a few percent larger.
const DEFAULT_ZSTD: i32 = 1;

/// Frames larger than this are compressed while they are let go, and no window is larger: high levels take a multiple of
/// it for their tables, and COPY text gains little from more.
const WINDOW_LOG: u32 = 21;
/// Texts up to this size share a compressor by thread.
const SMALL: usize = 128 << 10;
/// Memory for all compressors together.
const COMPRESSORS_BYTES: usize = 96 << 20;

/// The compression of objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// zstd at this level (1 to 19).
    Zstd(i32),
    /// gzip at this level (1 to 9).
    Gzip(u32),
    /// Stored as it is.
    None,
}

impl Compression {
    /// The suffix of compressed objects: `.zst`, `.gz` or nothing.
    #[must_use]
    pub const fn suffix(self) -> &'static str {
        match self {
            Self::Zstd(_) => ".zst",
            Self::Gzip(_) => ".gz",
            Self::None => "",
        }
    }

    /// Compresses the parts, put together, into one frame. Runs on the calling thread; for texts and other small things.
    ///
    /// Memory: the frame, and the parts while it runs.
    pub fn frame(self, parts: &[Bytes]) -> Result<Bytes> {
        match self {
            Self::None => Ok(match parts {
                [one] => one.clone(),
                many => Bytes::from(many.concat()),
            }),
            Self::Gzip(level) => gzip(level, parts.to_vec()),
            Self::Zstd(level) => match parts {
                [one] if one.len() <= SMALL => zstd_small(level, one),
                [one] => zstd_compressor(level)?.compress(one).map(Bytes::from).context("compress"),
                many => zstd_parts(level, many.to_vec()),
            },
        }
    }

    /// Compressors that may work at once: their tables grow with the level (measured with zstd 1.5 and a window of 2 MiB).
    pub(crate) const fn most_at_once(self) -> usize {
        let each = match self {
            Self::None | Self::Gzip(_) => 1 << 20,
            Self::Zstd(..=5) => 4 << 20,
            Self::Zstd(6..=12) => 16 << 20,
            Self::Zstd(_) => 40 << 20,
        };
        COMPRESSORS_BYTES / each
    }
}

/// The compressors of frames, used again and again by whichever thread needs one.
pub(crate) struct Compressors {
    compression: Compression,
    idle: Mutex<Vec<zstd::bulk::Compressor<'static>>>,
}

impl fmt::Debug for Compressors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Compressors({})", self.compression)
    }
}

impl Compressors {
    /// Compressors that are made when first needed.
    #[must_use]
    pub(crate) fn new(compression: Compression) -> Self {
        Self { compression, idle: Mutex::default() }
    }

    /// Compresses the parts, put together, into one frame, which may come in pieces. Lets each part go once it is
    /// compressed, so that a giant row is in memory once.
    pub(crate) fn frame(&self, parts: Vec<Bytes>) -> Result<Vec<Bytes>> {
        match (self.compression, parts.as_slice()) {
            (Compression::None, _) => Ok(parts),
            (Compression::Zstd(level), [one]) => {
                let idle = self.idle().pop();
                let mut compressor = match idle {
                    Some(compressor) => compressor,
                    None => zstd_compressor(level)?,
                };
                let frame = compressor.compress(one).map(Bytes::from).context("compress");
                self.idle().push(compressor);
                Ok(vec![frame?])
            }
            (Compression::Zstd(level), _) => Ok(vec![zstd_parts(level, parts)?]),
            (Compression::Gzip(level), _) => Ok(vec![gzip(level, parts)?]),
        }
    }

    fn idle(&self) -> MutexGuard<'_, Vec<zstd::bulk::Compressor<'static>>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn gzip(level: u32, parts: Vec<Bytes>) -> Result<Bytes> {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(level));
    for part in parts {
        gzip.write_all(&part).context("compress")?;
    }
    gzip.finish().map(Bytes::from).context("compress")
}

/// Keeps one compressor a thread: its tables are as small as the texts, and making one takes longer than using it.
fn zstd_small(level: i32, data: &[u8]) -> Result<Bytes> {
    thread_local! {
        static COMPRESSOR: RefCell<Option<(i32, zstd::bulk::Compressor<'static>)>> = const { RefCell::new(None) };
    }
    COMPRESSOR.with_borrow_mut(|slot| {
        let fitting = slot.take().filter(|(made_for, _)| *made_for == level);
        let (_, compressor) = match fitting {
            Some(kept) => slot.insert(kept),
            None => slot.insert((level, zstd_compressor(level)?)),
        };
        compressor.compress(data).map(Bytes::from).context("compress")
    })
}

fn zstd_compressor(level: i32) -> Result<zstd::bulk::Compressor<'static>> {
    let mut made = zstd::bulk::Compressor::new(level).context("compress")?;
    made.set_parameter(zstd::zstd_safe::CParameter::ChecksumFlag(true)).context("compress")?;
    made.set_parameter(zstd::zstd_safe::CParameter::WindowLog(WINDOW_LOG)).context("compress")?;
    Ok(made)
}

fn zstd_parts(level: i32, parts: Vec<Bytes>) -> Result<Bytes> {
    let total: usize = parts.iter().map(Bytes::len).sum();
    let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), level).context("compress")?;
    encoder.include_checksum(true).context("compress")?;
    encoder.window_log(WINDOW_LOG).context("compress")?;
    encoder.set_pledged_src_size(Some(total as u64)).context("compress")?;
    for part in parts {
        encoder.write_all(&part).context("compress")?;
    }
    encoder.finish().map(Bytes::from).context("compress")
}

impl FromStr for Compression {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let (name, level) = match text.split_once(':') {
            Some((name, level)) => (name, Some(level)),
            None => (text, None),
        };
        let wrong = || {
            Error::usage(format!("--compression {text:?} is not known"))
                .hint("use zstd, zstd:1 to zstd:19, gzip, gzip:1 to gzip:9, or none")
        };
        let level_in = |default: i32, most: i32| match level {
            None => Ok(default),
            Some(digits) => digits.parse().ok().filter(|n| (1..=most).contains(n)).ok_or_else(wrong),
        };
        match name {
            "zstd" => level_in(DEFAULT_ZSTD, 19).map(Self::Zstd),
            "gzip" => level_in(6, 9).map(|n| Self::Gzip(n.unsigned_abs())),
            "none" if level.is_none() => Ok(Self::None),
            _ => Err(wrong()),
        }
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Zstd(level) => write!(f, "zstd:{level}"),
            Self::Gzip(level) => write!(f, "gzip:{level}"),
            Self::None => f.write_str("none"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_and_written() {
        for text in ["zstd:3", "gzip:6", "none", "zstd:19"] {
            assert_eq!(text.parse::<Compression>().unwrap().to_string(), text);
        }
        assert_eq!("zstd".parse::<Compression>().unwrap(), Compression::Zstd(DEFAULT_ZSTD));
        for text in ["", "zstd:0", "zstd:20", "zstd:x", "gzip:10", "none:1", "lz4"] {
            assert!(text.parse::<Compression>().is_err(), "{text}");
        }
    }

    #[test]
    fn frames_put_together_decompress_to_the_parts_put_together() {
        let parts = [Bytes::from_static(b"abc"), Bytes::from(vec![7; 100_000])];
        let mut stored = Compression::Zstd(3).frame(&parts).unwrap().to_vec();
        stored.extend_from_slice(&Compression::Zstd(3).frame(&parts[..1]).unwrap());
        let plain = zstd::stream::decode_all(&stored[..]).unwrap();
        assert_eq!(plain, [parts.concat(), b"abc".to_vec()].concat());
    }
}
