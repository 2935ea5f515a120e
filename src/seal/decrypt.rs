//! Decoding sealed objects: secret keys from identity files, whole objects as a stream, and pieces from the middle.
//!
//! An age file is a header, a nonce of 16 bytes, then chunks of 64 KiB, each with a tag of 16 bytes
//! (age-encryption.org/v1), so a piece is found without what is before it. Memory: a chunk.

use std::fmt;
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::Path;
use std::str::FromStr as _;
use std::sync::Arc;

use age::x25519::Identity;
use age::{DecryptError, Decryptor};
use bytes::Bytes;
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use tokio::io::{AsyncBufRead, AsyncRead};
use tokio_util::io::{ReaderStream, StreamReader};

use crate::error::{Error, Result};

/// One request to the operating system or the network client for this many bytes.
pub const BUFFER: usize = 256 * 1024;

/// Bytes at the begin of an object that hold its header and nonce, whatever the number of keys (`encrypt::MOST`).
pub const HEAD_BYTES: u64 = 64 << 10;
/// Plaintext of one chunk.
const CHUNK_BYTES: u64 = 64 << 10;
/// Bytes of a chunk in the object: with its tag.
const SEALED_BYTES: u64 = CHUNK_BYTES + 16;
/// Plain bytes handed on at once.
const PART_BYTES: usize = 64 << 10;
/// Identity files are small; anything else is a mistake.
const LONGEST_FILE: u64 = 1 << 20;

/// Secret keys. Printed as a number of keys only.
#[derive(Clone, Default)]
pub struct Identities {
    keys: Arc<Vec<Identity>>,
}

impl fmt::Debug for Identities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} secret keys", self.keys.len())
    }
}

impl Identities {
    /// Reads identity files as `age-keygen` writes them: `AGE-SECRET-KEY-1...` lines, `#` comments.
    ///
    /// # Errors
    /// Kind `Usage`: a file that cannot be read, or lines that are no secret key (named by number, never repeated).
    pub fn read<P: AsRef<Path>>(files: &[P]) -> Result<Self> {
        let mut keys = Vec::new();
        for file in files {
            of_file(file.as_ref(), &mut keys)?;
        }
        Ok(Self { keys: Arc::new(keys) })
    }

    /// True when there is no key.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// The public halves, as text.
    #[must_use]
    pub fn public(&self) -> Vec<String> {
        self.keys.iter().map(|key| key.to_public().to_string()).collect()
    }

    /// The plain bytes of an age file, to its authenticated end.
    ///
    /// # Errors
    /// While reading: errors of `sealed` unchanged; an [`Error`] of kind `Damage` for bytes that do not open.
    pub fn open<'a, R: AsyncRead + Send + Unpin + 'a>(
        &self,
        sealed: R,
    ) -> impl AsyncBufRead + Send + Unpin + 'a + use<'a, R> {
        let keys = self.clone();
        let plain = stream::once(async move {
            let sealed = ReaderStream::with_capacity(sealed, BUFFER).boxed().into_async_read();
            let decryptor = Decryptor::new_async_buffered(sealed).await.map_err(damage)?;
            let plain = decryptor.decrypt_async(keys.dynamic()).map_err(damage)?;
            Ok::<_, io::Error>(stream::try_unfold(plain, |mut plain| async move {
                let mut buffer = vec![0; PART_BYTES];
                let read = futures::AsyncReadExt::read(&mut plain, &mut buffer).await.map_err(of_stream)?;
                buffer.truncate(read);
                Ok::<_, io::Error>((read > 0).then(|| (Bytes::from(buffer), plain)))
            }))
        });
        StreamReader::new(plain.try_flatten().boxed())
    }

    /// Finds the ciphertext of a piece: where it is in the object, given the object's first [`HEAD_BYTES`] and size.
    ///
    /// # Errors
    /// Kind `Damage` for a header that does not open.
    pub fn locate(&self, head: &Bytes, object_bytes: u64, piece: Range<u64>) -> Result<Located> {
        let mut rest = head.as_ref();
        let decryptor = Decryptor::new(&mut rest).map_err(|error| Error::from(damage(error)))?;
        decryptor.decrypt(self.dynamic()).map_err(|error| Error::from(damage(error)))?;
        let header = head.slice(..head.len() - rest.len());
        // A seek to the begin of a chunk would ask for the object's end: land on the byte before it.
        let landing = piece.start.saturating_sub(u64::from(piece.start.is_multiple_of(CHUNK_BYTES)));
        let begin = header.len() as u64 + landing / CHUNK_BYTES * SEALED_BYTES;
        let last = piece.end.saturating_sub(1).max(landing) / CHUNK_BYTES;
        let end = header.len() as u64 + (last + 1) * SEALED_BYTES;
        Ok(Located { keys: self.clone(), header, landing, piece, stored: begin..end.min(object_bytes) })
    }

    fn dynamic(&self) -> impl Iterator<Item = &dyn age::Identity> {
        self.keys.iter().map(|key| key as &dyn age::Identity)
    }
}

fn of_file(path: &Path, keys: &mut Vec<Identity>) -> Result<()> {
    let shown = path.display().to_string();
    if shown.get(..15).is_some_and(|begin| begin.eq_ignore_ascii_case("AGE-SECRET-KEY-")) {
        return Err(Error::usage("--identity takes a file, not the secret key itself")
            .hint("put the key into a file only you can read; what is on a command line, others can see"));
    }
    if shown.get(..4).is_some_and(|begin| begin.eq_ignore_ascii_case("age1")) && !path.exists() {
        return Err(Error::usage(format!("--identity {shown}: that is a public key"))
            .hint("give the file with the secret key, which `age-keygen -o` made"));
    }
    let read = || -> io::Result<String> {
        let mut text = String::new();
        std::fs::File::open(path)?.take(LONGEST_FILE).read_to_string(&mut text)?;
        Ok(text)
    };
    let text = read().map_err(|error| Error::usage(format!("--identity: read {shown}: {error}")))?;
    let before = keys.len();
    for (at, line) in text.lines().map(str::trim).enumerate() {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let key = Identity::from_str(line).map_err(|_secret: &str| {
            let error = Error::usage(format!("--identity: {shown}, line {}, is no secret key of age", at + 1));
            if line.starts_with("-----BEGIN AGE ENCRYPTED") || line.starts_with("age-encryption.org/") {
                error.hint(format!("it is protected by a passphrase: `age -d {shown} > key.txt`, and give that file"))
            } else if line.starts_with("age1") {
                error.hint("that is a public key; the secret one is in the file that `age-keygen -o` made")
            } else {
                error.hint("it must hold AGE-SECRET-KEY-1... as `age-keygen` writes it; keys of ssh are not taken")
            }
        })?;
        keys.push(key);
    }
    if keys.len() == before { Err(Error::usage(format!("--identity: {shown} has no key"))) } else { Ok(()) }
}

/// The reason why an age file does not open. Errors of its reader stay unchanged.
fn damage(error: DecryptError) -> io::Error {
    match error {
        DecryptError::Io(error) => of_stream(error),
        // The keys were compared with the manifest's before: the header of this object is what is wrong.
        DecryptError::NoMatchingKeys => Error::damage("decryption failed: it is not sealed to this key").into(),
        other => Error::damage(format!("decryption failed: {other}")).into(),
    }
}

fn of_stream(error: io::Error) -> io::Error {
    if error.get_ref().is_some_and(<dyn std::error::Error + Send + Sync>::is::<Error>) {
        return error;
    }
    Error::damage(format!("decryption failed: {error}")).into()
}

/// The place of a piece's ciphertext, and the key that opens it.
#[derive(Debug, Clone)]
pub struct Located {
    keys: Identities,
    header: Bytes,
    landing: u64,
    piece: Range<u64>,
    /// The bytes of the object to fetch.
    pub stored: Range<u64>,
}

impl Located {
    /// The piece's bytes, from a reader over [`Located::stored`]. Decrypts on the calling thread.
    ///
    /// # Errors
    /// As [`Identities::open`], now and while reading. An object that ends early ends the piece early.
    pub fn open<R: Read>(self, stored: R) -> Result<impl Read + use<R>> {
        let window = Window { header: self.header, at: 0, body: self.stored.start, next: self.stored.start, stored };
        let decryptor = Decryptor::new(window).map_err(|error| Error::from(damage(error)))?;
        let mut plain = decryptor.decrypt(self.keys.dynamic()).map_err(|error| Error::from(damage(error)))?;
        plain.seek(SeekFrom::Start(self.landing)).map_err(|error| Error::from(of_stream(error)))?;
        let skip = self.piece.start - self.landing;
        let mut skipped = Vec::new();
        plain.by_ref().take(skip).read_to_end(&mut skipped).map_err(|error| Error::from(of_stream(error)))?;
        Ok(Named(plain.take(self.piece.end.saturating_sub(self.piece.start))))
    }
}

/// Names what went wrong as decryption.
struct Named<R>(R);

impl<R: Read> Read for Named<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer).map_err(of_stream)
    }
}

/// An age file of which only the header and one range are here.
struct Window<R> {
    header: Bytes,
    /// Position in the file.
    at: u64,
    /// The begin of the range.
    body: u64,
    /// Position of the next byte of `stored`.
    next: u64,
    stored: R,
}

impl<R: Read> Read for Window<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = match usize::try_from(self.at).ok().and_then(|at| self.header.get(at..)) {
            Some(rest) if !rest.is_empty() => (&rest[..]).read(buffer)?,
            _ if self.at == self.next => {
                let read = self.stored.read(buffer)?;
                self.next += read as u64;
                read
            }
            _ => return Err(io::Error::other("a part of the object that was not fetched is needed")),
        };
        self.at += read as u64;
        Ok(read)
    }
}

impl<R> Seek for Window<R> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.at = match to {
            SeekFrom::Start(at) if at == self.body => at,
            SeekFrom::Current(0) => self.at,
            _ => return Err(io::Error::other("a part of the object that was not fetched is asked for")),
        };
        Ok(self.at)
    }
}

#[cfg(test)]
mod tests {
    use age::secrecy::ExposeSecret as _;
    use tokio::io::AsyncReadExt as _;

    use super::*;
    use crate::seal::encrypt::Recipients;

    fn keys() -> (Recipients, Identities, tempfile::TempDir) {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("key.txt");
        let key = Identity::generate();
        std::fs::write(&file, format!("# a comment\n{}\n", key.to_string().expose_secret())).unwrap();
        let recipients = Recipients::read(&[key.to_public().to_string()]).unwrap().unwrap();
        let identities = Identities::read(&[&file]).unwrap();
        assert_eq!(identities.public(), recipients.names());
        (recipients, identities, folder)
    }

    fn sealed(recipients: &Recipients, plain: &[u8]) -> Vec<u8> {
        let mut sealed = recipients.seal().unwrap();
        let mut out = Vec::new();
        for part in plain.chunks(100_001) {
            out.extend_from_slice(&sealed.write(part).unwrap());
        }
        out.extend_from_slice(&sealed.finish().unwrap());
        out
    }

    async fn opened(identities: &Identities, sealed: &[u8]) -> io::Result<Vec<u8>> {
        let mut plain = Vec::new();
        identities.open(sealed).read_to_end(&mut plain).await?;
        Ok(plain)
    }

    #[expect(clippy::cast_possible_truncation, reason = "any bytes will do")]
    fn text(length: usize) -> Vec<u8> {
        (0..length).map(|n| (n * n / 7) as u8).collect()
    }

    #[tokio::test]
    async fn every_length_around_a_chunk_s_end_comes_back_and_nothing_else() {
        let (recipients, identities, _folder) = keys();
        for length in [0, 1, 65_535, 65_536, 65_537, 131_071, 131_072, 131_073, 400_000] {
            let plain = text(length);
            let stored = sealed(&recipients, &plain);
            assert_eq!(opened(&identities, &stored).await.unwrap(), plain, "{length}");
            for cut in [0, 20, stored.len() / 2, stored.len().saturating_sub(65_552), stored.len() - 1] {
                assert!(opened(&identities, &stored[..cut]).await.is_err(), "{length} cut at {cut}");
            }
            for at in [3, 30, 200, stored.len() / 2, stored.len() - 1] {
                let mut flipped = stored.clone();
                flipped[at] ^= 1;
                let error = Error::from(opened(&identities, &flipped).await.unwrap_err());
                assert_eq!(error.kind(), crate::error::Kind::Damage, "{length} flipped at {at}: {error}");
            }
            assert!(opened(&identities, &[&stored[..], b"x"].concat()).await.is_err(), "{length} and a byte more");
        }
        let (_, other, _folder) = keys();
        let error = opened(&other, &sealed(&recipients, b"x")).await.unwrap_err();
        assert!(error.to_string().contains("not sealed to this key"), "{error}");
    }

    #[test]
    #[expect(clippy::cast_possible_truncation, reason = "small numbers")]
    fn a_piece_from_the_middle_needs_only_its_own_chunks() {
        let (recipients, identities, _folder) = keys();
        for length in [65_536_usize, 400_000, 65_536 * 4] {
            let plain = text(length);
            let stored = sealed(&recipients, &plain);
            let head = Bytes::copy_from_slice(&stored[..stored.len().min(64 << 10)]);
            let edges = [0, 1, 65_535, 65_536, 65_537, 131_072, 200_000, length - 1, length];
            for (from, to) in edges.into_iter().flat_map(|from| edges.map(|to| (from, to))) {
                if from >= to || to > length {
                    continue;
                }
                let located = identities.locate(&head, stored.len() as u64, from as u64..to as u64).unwrap();
                let range = located.stored.start as usize..located.stored.end as usize;
                assert!(range.len() <= (to - from) + 3 * 65_552, "{from}..{to} of {length} fetches {range:?}");
                let mut piece = Vec::new();
                located.open(&stored[range]).unwrap().read_to_end(&mut piece).unwrap();
                assert!(piece == plain[from..to], "{from}..{to} of {length}");
            }
        }
    }
}
