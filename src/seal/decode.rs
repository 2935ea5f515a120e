//! From stored bytes back to plain ones: hashing on the way in, decryption, decompression of every frame to the last
//! byte.
//!
//! Objects are frames put one after another; a frame cut short or bytes that are no frame are errors. Memory: one input
//! buffer and the decoder's window; where encrypted, a chunk more.

use std::io::{self, Read};

use async_compression::tokio::bufread::{GzipDecoder, ZstdDecoder};
use tokio::io::{AsyncBufRead, AsyncRead, BufReader};

use crate::seal::compress::Compression;
pub use crate::seal::decrypt::BUFFER;
use crate::seal::decrypt::Identities;

/// The way from stored objects to plain ones.
#[derive(Debug, Clone)]
pub struct Decoding {
    compression: Compression,
    identities: Option<Identities>,
}

impl Decoding {
    /// Nothing is opened: plain bytes are the stored ones.
    pub const AS_STORED: Self = Self { compression: Compression::None, identities: None };

    /// Objects are compressed so and, with `identities`, sealed after that.
    #[must_use]
    pub const fn new(compression: Compression, identities: Option<Identities>) -> Self {
        Self { compression, identities }
    }

    /// The same keys for an object that is not compressed.
    #[must_use]
    pub fn uncompressed(&self) -> Self {
        Self { compression: Compression::None, identities: self.identities.clone() }
    }

    /// The keys, where objects are sealed.
    #[must_use]
    pub const fn identities(&self) -> Option<&Identities> {
        self.identities.as_ref()
    }

    /// The plain bytes of `stored`.
    ///
    /// Reads `stored` to its end; an error of its own comes out unchanged, a sealed object that does not open as an
    /// [`Error`] of kind `Damage`, a broken frame as any other [`io::Error`]. Works inside `poll_read`, so large
    /// objects belong on a blocking thread.
    pub fn decoder<'a, R: AsyncRead + Send + Unpin + 'a>(&self, stored: R) -> Plain<'a> {
        match &self.identities {
            Some(identities) => self.decompressed(identities.open(stored)),
            None => self.decompressed(BufReader::with_capacity(BUFFER, stored)),
        }
    }

    /// The compressed bytes of `stored`: opened, not decompressed.
    pub fn unsealed<'a, R: AsyncRead + Send + Unpin + 'a>(&self, stored: R) -> Plain<'a> {
        match &self.identities {
            Some(identities) => Box::new(identities.open(stored)),
            None => Box::new(stored),
        }
    }

    /// The plain bytes of whole frames that are opened already.
    pub fn decompressed<'a, R: AsyncBufRead + Send + Unpin + 'a>(&self, frames: R) -> Plain<'a> {
        match self.compression {
            Compression::Zstd(_) => {
                let mut decoder = ZstdDecoder::new(frames);
                decoder.multiple_members(true);
                Box::new(decoder)
            }
            Compression::Gzip(_) => {
                let mut decoder = GzipDecoder::new(frames);
                decoder.multiple_members(true);
                Box::new(decoder)
            }
            Compression::None => Box::new(frames),
        }
    }

    /// As [`Decoding::decompressed`] for a reader that blocks.
    ///
    /// # Errors
    /// No memory for a decoder.
    pub fn decompressed_blocking<'a, R: Read + Send + 'a>(&self, frames: R) -> io::Result<Box<dyn Read + Send + 'a>> {
        Ok(match self.compression {
            Compression::Zstd(_) => Box::new(zstd::stream::read::Decoder::new(frames)?),
            Compression::Gzip(_) => Box::new(flate2::read::MultiGzDecoder::new(frames)),
            Compression::None => Box::new(frames),
        })
    }
}

/// A reader of plain bytes.
pub type Plain<'a> = Box<dyn AsyncRead + Send + Unpin + 'a>;

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use tokio::io::AsyncReadExt as _;

    use super::*;
    use crate::seal::hash::{Tap, sha256};

    const PARTS: [&[u8]; 4] = [b"first", b"", b"x", b"the last part\n"];

    fn framed(compression: Compression) -> Vec<u8> {
        let mut stored = Vec::new();
        for part in PARTS {
            match compression {
                Compression::Zstd(_) => stored.extend(zstd::encode_all(part, 3).unwrap()),
                Compression::Gzip(_) => {
                    let mut member = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(6));
                    member.write_all(part).unwrap();
                    stored.extend(member.finish().unwrap());
                }
                Compression::None => stored.extend(part),
            }
        }
        stored
    }

    async fn plain(stored: &[u8], compression: Compression) -> io::Result<(Vec<u8>, Tap)> {
        let tap = Tap::default();
        let mut out = Vec::new();
        Decoding::new(compression, None).decoder(tap.reader(stored)).read_to_end(&mut out).await?;
        Ok((out, tap))
    }

    #[tokio::test]
    async fn every_frame_comes_back_and_every_stored_byte_is_hashed() {
        for compression in [Compression::Zstd(3), Compression::Gzip(6), Compression::None] {
            let stored = framed(compression);
            let (out, tap) = plain(&stored, compression).await.unwrap();
            assert_eq!(out, PARTS.concat());
            assert_eq!(tap.bytes(), stored.len() as u64);
            assert_eq!(tap.sha256(), sha256(&stored));
        }
    }

    #[tokio::test]
    async fn a_frame_cut_short_and_bytes_that_are_no_frame_are_errors() {
        for compression in [Compression::Zstd(3), Compression::Gzip(6)] {
            let stored = framed(compression);
            let last = match compression {
                Compression::Zstd(_) => zstd::encode_all(PARTS[3], 3).unwrap().len(),
                _ => 18 + 16,
            };
            for cut in stored.len() - last.min(20)..stored.len() {
                assert!(plain(&stored[..cut], compression).await.is_err(), "{compression:?} cut at {cut}");
            }
            for tail in [&b"\0"[..], b"x", b"\0\0\0\0\0\0\0\0", b"garbage that is longer than a header"] {
                let garbage = [&stored[..], tail].concat();
                assert!(plain(&garbage, compression).await.is_err(), "{compression:?} with {tail:?} at the end");
            }
        }
    }
}
