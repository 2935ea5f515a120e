//! SHA-256 and its text form, and readers that hash what passes through them.

use std::io::{self, Read};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncRead, ReadBuf};

use crate::error::Error;

/// SHA-256 of some bytes, in lower-case hex.
#[must_use]
pub fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// Lower-case hex digits.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        let written = write!(text, "{byte:02x}");
        debug_assert!(written.is_ok(), "writing to a String does not fail");
    }
    text
}

/// Sees every stored byte that passes through a [`Tapped`] reader; clones share what was seen.
#[derive(Debug, Clone, Default)]
pub struct Tap {
    seen: Arc<Mutex<Seen>>,
}

#[derive(Debug, Default)]
pub(crate) struct Seen {
    bytes: u64,
    all: Sha256,
    piece: Option<Sha256>,
    failure: Option<Error>,
}

impl Tap {
    /// Wraps a reader of stored bytes.
    pub fn reader<R>(&self, stored: R) -> Tapped<R> {
        Tapped { inner: stored, tap: self.clone() }
    }

    /// Stored bytes seen.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.with(|seen| seen.bytes)
    }

    /// SHA-256 of all bytes seen, in lower-case hex.
    #[must_use]
    pub fn sha256(&self) -> String {
        self.with(|seen| hex(&seen.all.clone().finalize()))
    }

    /// Begins a piece: [`Tap::piece_sha256`] hashes what comes from here on.
    pub fn begin_piece(&self) {
        self.with(|seen| seen.piece = Some(Sha256::new()));
    }

    /// SHA-256 of the bytes since [`Tap::begin_piece`]; ends the piece.
    #[must_use]
    pub fn piece_sha256(&self) -> Option<String> {
        self.with(|seen| seen.piece.take()).map(|piece| hex(&piece.finalize()))
    }

    /// The failure of the store, as opposed to damaged bytes.
    #[must_use]
    pub fn store_failure(&self) -> Option<Error> {
        self.with(|seen| seen.failure.clone())
    }

    fn with<T>(&self, look: impl FnOnce(&mut Seen) -> T) -> T {
        look(&mut self.seen.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn saw(&self, bytes: &[u8]) {
        self.with(|seen| {
            seen.bytes += bytes.len() as u64;
            seen.all.update(bytes);
            if let Some(piece) = &mut seen.piece {
                piece.update(bytes);
            }
        });
    }

    fn failed(&self, error: io::Error) -> io::Error {
        let error = Error::from(error);
        self.with(|seen| seen.failure = Some(error.clone()));
        error.into()
    }
}

/// A reader that shows a [`Tap`] what passes.
#[derive(Debug)]
pub struct Tapped<R> {
    inner: R,
    tap: Tap,
}

impl<R: AsyncRead + Unpin> AsyncRead for Tapped<R> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        match Pin::new(&mut self.inner).poll_read(context, buffer) {
            Poll::Ready(Ok(())) => {
                let (_, new) = buffer.filled().split_at(before);
                self.tap.saw(new);
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(self.tap.failed(error))),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<R: Read> Read for Tapped<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let size = self.inner.read(buffer).map_err(|error| self.tap.failed(error))?;
        self.tap.saw(buffer.get(..size).unwrap_or_default());
        Ok(size)
    }
}
