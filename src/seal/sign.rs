//! Signatures of manifests, in minisign's format (jedisct1.github.io/minisign): stock `minisign -V` checks them.
//!
//! A manifest holds the SHA-256 of every object of its run, so one signature vouches for all of them. It says nothing of
//! how recent a run is: who can write to the bucket can still make `latest` name an older run that was signed.
//! A secret key comes from a file or from the environment and is never printed.

use std::fmt;
use std::io::{Cursor, Read as _};
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use minisign::{PublicKey, PublicKeyBox, SecretKey, SecretKeyBox, SignatureBox};

use crate::error::{Error, Result};
use crate::seal::hash;

/// Key files and signatures are a few hundred bytes; anything larger is a mistake.
const LONGEST: u64 = 64 << 10;
/// The first line of every file of minisign begins so.
const COMMENT: &str = "untrusted comment:";

/// A secret key that signs manifests.
pub struct SigningKey {
    secret: SecretKey,
    public: PublicKey,
}

/// Shows the key's number only.
impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "signing key {}", number(self.public.keynum()))
    }
}

impl SigningKey {
    /// Reads a secret key as `minisign -G` writes it: `given` is its file, or its two lines where `is_text_allowed`
    /// (they came from the environment, which other users cannot see). A key with a password needs that password.
    ///
    /// # Errors
    /// Kind `Usage`: what cannot be read or is not a secret key. The key itself is never repeated.
    pub fn read(given: &str, is_text_allowed: bool, password: Option<&str>) -> Result<Self> {
        let (text, shown) = if given.trim_start().starts_with(COMMENT) {
            if !is_text_allowed {
                return Err(Error::usage("--sign-key takes a file, not the secret key itself")
                    .hint("put the key into a file that only you can read, or into PGSTOW_SIGN_KEY: others can see a command line"));
            }
            (given.trim_start().to_owned(), "PGSTOW_SIGN_KEY".to_owned())
        } else {
            (small_file("--sign-key", Path::new(given))?, given.to_owned())
        };
        let unreadable = || {
            Error::usage(format!("--sign-key: {shown} is not a secret key of minisign that can be read"))
                .hint("`minisign -G -W -s FILE` makes one without a password; PGSTOW_SIGN_PASSWORD is the password of one that has it")
        };
        let line = text.lines().nth(1).unwrap_or_default().trim();
        let bytes = BASE64.decode(line).map_err(|_not_base64| unreadable())?;
        // The two bytes behind the signature's algorithm name the function that encrypts the key; none where they are 0
        // (key format on minisign's page). `minisign -G -W` leaves the checksum of such a key empty.
        let secret = match (bytes.get(2..4), password) {
            (Some([0, 0]), _) => SecretKey::from_bytes(&bytes),
            (_, Some(password)) => {
                SecretKeyBox::from_string(&text).and_then(|key| key.into_secret_key(Some(password.to_owned())))
            }
            (_, None) => return Err(unreadable()),
        };
        let secret = secret.map_err(|_error| unreadable())?;
        let public = PublicKey::from_secret_key(&secret).map_err(|_error| unreadable())?;
        Ok(Self { secret, public })
    }

    /// The number of the key, as minisign prints it.
    #[must_use]
    pub fn number(&self) -> String {
        number(self.public.keynum())
    }

    /// The public key in base64, as `--trust` and `minisign -P` take it.
    #[must_use]
    pub fn public(&self) -> String {
        self.public.to_base64()
    }

    /// Signs the manifest of a run; returns the content of its `.minisig` object.
    ///
    /// # Errors
    /// Kind `Failed` when the system has no randomness.
    pub fn sign(&self, run: &str, manifest: &[u8]) -> Result<String> {
        let trusted = format!("pgstow run {run}");
        let untrusted = format!("signature of the manifest of pgstow run {run}");
        minisign::sign(Some(&self.public), &self.secret, Cursor::new(manifest), Some(&trusted), Some(&untrusted))
            .map(SignatureBox::into_string)
            .map_err(|error| Error::failed(format!("sign the manifest of {run}: {error}")))
    }
}

/// The public keys whose signatures are trusted. Without a key no signature is asked for.
#[derive(Clone, Default)]
pub struct Trust {
    keys: Vec<PublicKey>,
}

impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.keys.iter().map(|key| number(key.keynum()))).finish()
    }
}

impl Trust {
    /// Reads public keys: each the base64 line of minisign's `.pub` file, or that file.
    ///
    /// # Errors
    /// Kind `Usage` for what is neither.
    pub fn read<S: AsRef<str>>(words: &[S]) -> Result<Self> {
        let keys = words.iter().map(|word| public_key(word.as_ref().trim()));
        Ok(Self { keys: keys.collect::<Result<_>>()? })
    }

    /// True when no signature is asked for.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// The numbers of the trusted keys.
    #[must_use]
    pub fn numbers(&self) -> Vec<String> {
        self.keys.iter().map(|key| number(key.keynum())).collect()
    }

    /// Checks the signature of a run's manifest and returns the number of the key that made it; `None` where no
    /// signature is asked for.
    ///
    /// # Errors
    /// Kind `Damage` for a run that is not signed, is signed by another key, or whose signature is not that of these
    /// bytes of this run.
    pub fn check(&self, run: &str, manifest: &[u8], signature: Option<&[u8]>) -> Result<Option<String>> {
        if self.is_empty() {
            return Ok(None);
        }
        let refused = |why: &str| {
            Error::damage(format!("run {run} {why}"))
                .hint(format!("--trust asks for a signature by {}", self.numbers().join(" or ")))
                .hint("use the run only where you know who wrote it; nothing was changed")
        };
        let Some(signature) = signature else { return Err(refused("is not signed")) };
        let text = std::str::from_utf8(signature).ok();
        let parsed = text.and_then(|text| SignatureBox::from_string(text).ok());
        let Some(signature) = parsed else { return Err(refused("has a signature that is not one of minisign")) };
        let by = number(signature.keynum());
        let Some(key) = self.keys.iter().find(|key| key.keynum() == signature.keynum()) else {
            return Err(refused(&format!("is signed by key {by}, which is not trusted")));
        };
        // No signature of the legacy form, which hashes less: pgstow never made one.
        minisign::verify(key, &signature, Cursor::new(manifest), true, false, false)
            .map_err(|_invalid| refused(&format!("has a signature by key {by} that does not fit its manifest")))?;
        if signature.trusted_comment().ok().as_deref() != Some(&format!("pgstow run {run}")) {
            return Err(refused(&format!("has a signature by key {by} that was made for another run")));
        }
        Ok(Some(by))
    }
}

/// The number of the key that made a signature, unchecked; `None` for what is not a signature.
#[must_use]
pub fn signer(signature: &[u8]) -> Option<String> {
    let parsed = SignatureBox::from_string(std::str::from_utf8(signature).ok()?).ok()?;
    Some(number(parsed.keynum()))
}

/// The number of a key as minisign prints it: eight bytes, little end first, in hexadecimal.
fn number(bytes: &[u8]) -> String {
    let bytes: Vec<u8> = bytes.iter().rev().copied().collect();
    hash::hex(&bytes).to_ascii_uppercase()
}

fn public_key(word: &str) -> Result<PublicKey> {
    if let Ok(key) = PublicKey::from_base64(word) {
        return Ok(key);
    }
    let wrong = || {
        Error::usage(format!("--trust: {word:?} is neither a public key of minisign nor a file with one"))
            .hint("a public key is the line RW... of the .pub file that `minisign -G` writes")
    };
    if !Path::new(word).is_file() {
        return Err(wrong());
    }
    let text = small_file("--trust", Path::new(word))?;
    let key = PublicKeyBox::from_string(&text).and_then(PublicKeyBox::into_public_key);
    key.or_else(|_no_comment| PublicKey::from_base64(text.trim())).map_err(|_neither| wrong())
}

fn small_file(flag: &str, path: &Path) -> Result<String> {
    let shown = path.display();
    let mut text = String::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(LONGEST).read_to_string(&mut text))
        .map_err(|error| Error::usage(format!("{flag}: read {shown}: {error}")))?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use minisign::KeyPair;

    use super::*;

    fn key() -> (String, String) {
        let pair = KeyPair::generate_unencrypted_keypair().unwrap();
        (pair.sk.to_box(None).unwrap().into_string(), pair.pk.to_base64())
    }

    #[test]
    fn a_signature_fits_one_manifest_of_one_run_by_one_key() {
        let ((secret, public), (_, other)) = (key(), key());
        let key = SigningKey::read(&secret, true, None).unwrap();
        let signature = key.sign("r1", b"manifest").unwrap();
        let trust = Trust::read(&[&other, &public]).unwrap();
        let check = |trust: &Trust, run, manifest: &[u8], signature: Option<&str>| {
            trust.check(run, manifest, signature.map(str::as_bytes)).map_err(|error| error.message())
        };
        assert_eq!(check(&trust, "r1", b"manifest", Some(&signature)), Ok(Some(key.number())));
        assert_eq!(signer(signature.as_bytes()), Some(key.number()));
        for (run, manifest, signature) in [
            ("r1", &b"manifesT"[..], Some(signature.as_str())),
            ("r2", b"manifest", Some(&signature)),
            ("r1", b"manifest", None),
            ("r1", b"manifest", Some("nonsense")),
            ("r1", b"manifest", Some(&signature.replace("run r1", "run r2"))),
        ] {
            assert!(check(&trust, run, manifest, signature).is_err(), "{run} {signature:?}");
        }
        let others = Trust::read(&[&other]).unwrap();
        assert!(check(&others, "r1", b"manifest", Some(&signature)).unwrap_err().contains("not trusted"));
        assert_eq!(check(&Trust::default(), "r1", b"x", None), Ok(None));
    }

    #[test]
    fn keys_are_read_from_files_and_text_and_never_repeated() {
        let (secret, public) = key();
        assert!(SigningKey::read(&secret, false, None).is_err());
        let folder = tempfile::tempdir().unwrap();
        let (sk, pk) = (folder.path().join("k"), folder.path().join("k.pub"));
        std::fs::write(&sk, &secret).unwrap();
        std::fs::write(&pk, format!("untrusted comment: x\n{public}\n")).unwrap();
        let key = SigningKey::read(sk.to_str().unwrap(), false, None).unwrap();
        assert_eq!(key.public(), public);
        assert_eq!(Trust::read(&[pk.to_str().unwrap()]).unwrap().numbers(), [key.number()]);
        assert!(Trust::read(&["nonsense"]).is_err());
        std::fs::write(&sk, "untrusted comment: x\nAAAA\n").unwrap();
        assert!(SigningKey::read(sk.to_str().unwrap(), false, Some("p")).is_err());
        let said = format!("{key:?} {:?}", SigningKey::read(&secret.replace("RW", "XX"), true, None));
        assert!(!said.contains(secret.lines().nth(1).unwrap()), "{said}");
    }
}
