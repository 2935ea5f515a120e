//! Sealing objects to public keys: the age format (age-encryption.org/v1), X25519 recipients, one age file an object.
//!
//! Only public keys are here: the machine that makes backups cannot read them. The format and its cryptography are the
//! `age` crate's; the stock `age -d` opens what comes out. Memory: the output of one call.

use std::fmt;
use std::io::{self, Write};
use std::path::Path;
use std::str::FromStr as _;
use std::sync::{Arc, Mutex, PoisonError};

use age::x25519::Recipient;
use bytes::Bytes;

use crate::error::{Context as _, Error, Result};

/// Most keys: each adds about 100 bytes to every object, and readers expect a header within `decrypt::HEAD_BYTES`.
const MOST: usize = 256;
/// Ciphertext of one STREAM chunk beyond its plaintext: the Poly1305 tag.
const TAG_BYTES: usize = 16;
/// Plaintext of one STREAM chunk.
const CHUNK_BYTES: usize = 64 << 10;

/// The public keys that a run's objects are sealed to; at least one.
#[derive(Clone)]
pub struct Recipients {
    keys: Arc<[Recipient]>,
}

impl fmt::Debug for Recipients {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.names()).finish()
    }
}

impl Recipients {
    /// Reads what a person gave: each value is a recipients file, or `age1...` keys and files with commas or white
    /// space between. `None` where nothing was given.
    ///
    /// # Errors
    /// Kind `Usage`: what is no key and no file, a file without a key, or nothing but blanks (a variable that was meant
    /// to hold a key must not lead to an unencrypted run). A secret key is never repeated.
    pub fn read(values: &[String]) -> Result<Option<Self>> {
        let mut keys: Vec<Recipient> = Vec::new();
        let add = |key: Recipient, keys: &mut Vec<Recipient>| {
            if !keys.contains(&key) {
                keys.push(key);
            }
        };
        for value in values {
            if !value.starts_with("age1") && Path::new(value).is_file() {
                of_file(Path::new(value))?.into_iter().for_each(|key| add(key, &mut keys));
                continue;
            }
            for word in value.split(|c: char| c == ',' || c.is_whitespace()).filter(|word| !word.is_empty()) {
                if !looks_like_key(word) && Path::new(word).is_file() {
                    of_file(Path::new(word))?.into_iter().for_each(|key| add(key, &mut keys));
                } else {
                    add(key(word).map_err(|error| error.context("--encrypt"))?, &mut keys);
                }
            }
        }
        if keys.is_empty() && !values.is_empty() {
            return Err(Error::usage("--encrypt (or PGSTOW_ENCRYPT) is set and holds no key")
                .hint("unset it where the run is meant to be stored unencrypted"));
        }
        if keys.len() > MOST {
            return Err(Error::usage(format!("--encrypt: {} keys, at most {MOST} work", keys.len())));
        }
        Ok((!keys.is_empty()).then(|| Self { keys: keys.into() }))
    }

    /// The public keys as text.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.keys.iter().map(ToString::to_string).collect()
    }

    /// Begins an object of its own key. The first call of [`Sealed::write`] returns its header too.
    pub fn seal(&self) -> Result<Sealed> {
        let sink = Sink::default();
        let keys = self.keys.iter().map(|key| key as &dyn age::Recipient);
        let encryptor = age::Encryptor::with_recipients(keys);
        let encryptor = encryptor.map_err(|error| Error::failed(format!("encrypt: {error}")))?;
        let writer = encryptor.wrap_output(sink.clone()).context("encrypt")?;
        Ok(Sealed { writer, sink })
    }
}

fn looks_like_key(word: &str) -> bool {
    word.starts_with("age1") || word.starts_with("ssh-") || is_secret(word)
}

fn is_secret(word: &str) -> bool {
    word.get(..15).is_some_and(|begin| begin.eq_ignore_ascii_case("AGE-SECRET-KEY-"))
}

fn key(word: &str) -> Result<Recipient> {
    if is_secret(word) {
        return Err(Error::usage("a secret key is where public keys belong").hint(
            "`age-keygen -y FILE` prints the public key of a key file; the machine that backs up needs no other",
        ));
    }
    Recipient::from_str(word).map_err(|why| {
        let shown: String = word.chars().take(80).collect();
        let error = Error::usage(format!("{shown:?} is no public key of age ({why}) and no file"));
        if word.starts_with("ssh-") {
            error.hint("keys of ssh are not taken: make one with `age-keygen -o key.txt`")
        } else {
            error.hint("`age-keygen -o key.txt` makes a key and prints its public half, age1...")
        }
    })
}

fn of_file(path: &Path) -> Result<Vec<Recipient>> {
    let shown = path.display();
    let text = std::fs::read_to_string(path);
    let text = text.map_err(|error| Error::usage(format!("--encrypt: read {shown}: {error}")))?;
    let lines = text.lines().map(str::trim).enumerate().filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
    let keys: Vec<Recipient> = lines
        .map(|(at, line)| key(line).map_err(|error| error.context(format!("--encrypt: {shown}, line {}", at + 1))))
        .collect::<Result<_>>()?;
    if keys.is_empty() { Err(Error::usage(format!("--encrypt: {shown} has no key"))) } else { Ok(keys) }
}

/// One object being sealed. Dropped without [`Sealed::finish`], what it made is a cut age file that nothing opens.
pub struct Sealed {
    writer: age::stream::StreamWriter<Sink>,
    sink: Sink,
}

impl Sealed {
    /// Seals the next bytes; returns what is ready, which may be nothing yet. About 1 ms for a MiB: more than that
    /// belongs on a blocking thread.
    pub fn write(&mut self, plain: &[u8]) -> Result<Bytes> {
        self.sink.reserve(plain.len() + (plain.len() / CHUNK_BYTES + 1) * TAG_BYTES + CHUNK_BYTES);
        self.writer.write_all(plain).context("encrypt")?;
        Ok(self.sink.take())
    }

    /// Ends the object; returns its last bytes.
    pub fn finish(self) -> Result<Bytes> {
        let sink = self.writer.finish().context("encrypt")?;
        Ok(sink.take())
    }
}

/// The buffer into which the writer of the `age` crate puts ciphertext.
#[derive(Clone, Default)]
struct Sink(Arc<Mutex<Vec<u8>>>);

impl Sink {
    fn with<T>(&self, act: impl FnOnce(&mut Vec<u8>) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn reserve(&self, bytes: usize) {
        self.with(|ready| ready.reserve(bytes));
    }

    fn take(&self) -> Bytes {
        self.with(|ready| Bytes::from(std::mem::take(ready)))
    }
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.with(|ready| ready.extend_from_slice(bytes));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p";

    #[test]
    fn keys_are_read_from_words_and_files_each_once() {
        let other = age::x25519::Identity::generate().to_public().to_string();
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("of two words");
        std::fs::write(&file, format!("# a comment\n\n{other}\n  {ONE}\n")).unwrap();
        let file = file.to_str().unwrap().to_owned();
        let names = |values: &[&str]| {
            let values: Vec<String> = values.iter().map(|&value| value.to_owned()).collect();
            Recipients::read(&values).map(|read| read.map(|read| read.names()))
        };
        assert_eq!(names(&[]).unwrap(), None);
        assert!(names(&["", " ,\n"]).is_err());
        assert_eq!(names(&[ONE]).unwrap(), Some(vec![ONE.to_owned()]));
        assert_eq!(names(&[&file, ONE]).unwrap(), Some(vec![other.clone(), ONE.to_owned()]));
        assert_eq!(names(&[&format!("{ONE},\n{other}")]).unwrap(), Some(vec![ONE.to_owned(), other]));
    }

    #[test]
    fn what_is_no_public_key_is_refused_and_a_secret_is_not_repeated() {
        use age::secrecy::ExposeSecret as _;
        let secret = age::x25519::Identity::generate().to_string().expose_secret().to_owned();
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("key.txt");
        std::fs::write(&file, format!("# public key: {ONE}\n{secret}\n")).unwrap();
        let empty = folder.path().join("empty");
        std::fs::write(&empty, "# nothing\n").unwrap();
        let of_file = file.to_str().unwrap();
        for bad in
            [secret.as_str(), of_file, "age1nonsense", "ssh-ed25519 AAAA", "/no/such/file", empty.to_str().unwrap()]
        {
            let error = Recipients::read(&[bad.to_owned()]).unwrap_err();
            assert_eq!(error.kind(), crate::error::Kind::Usage);
            let said = format!("{} {:?}", error.message(), error.hints());
            assert!(!said.contains(&secret[20..]), "{said}");
        }
    }
}
