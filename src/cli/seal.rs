//! What a person may type about encryption and the size of objects.

use std::path::PathBuf;

use clap::Args;

/// How the objects of a run are stored.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Objects")]
pub struct SealArgs {
    /// Encrypt every object but the manifest and RESTORE.md to this public key of age (`age1...`), or to those in this
    /// file, one a line (repeatable).
    #[arg(long, value_name = "KEY|FILE", env = "PGSTOW_ENCRYPT", hide_env_values = true)]
    pub encrypt: Vec<String>,
    /// Store what is larger as numbered volumes of this size (`50MB`, `2GiB`), for providers that limit it.
    #[arg(long, value_name = "SIZE", env = "PGSTOW_MAX_OBJECT_SIZE", value_parser = object_size)]
    pub max_object_size: Option<u64>,
}

/// The secret keys of encrypted runs.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Encrypted runs")]
pub struct IdentityArgs {
    /// File with the secret key of an encrypted run, as `age-keygen` writes it (repeatable).
    #[arg(long, value_name = "FILE", env = "PGSTOW_IDENTITY", hide_env_values = true, value_delimiter = ',')]
    pub identity: Vec<PathBuf>,
}

/// Smaller volumes would be more requests than bytes.
const SMALLEST: u64 = 1_000_000;

fn object_size(text: &str) -> Result<u64, String> {
    let size = size(text)?;
    if size < SMALLEST { Err("at least 1MB".to_owned()) } else { Ok(size) }
}

/// A size as people write it: `50MB` (of 1000), `50MiB` (of 1024), `1.5 GB`, `1048576`.
///
/// # Errors
/// What is no size, with examples.
pub(crate) fn size(text: &str) -> Result<u64, String> {
    let wrong = || format!("{text:?} is no size; write it like 50MB, 512MiB or 1.5GB");
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let factor: u64 = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kb" => 1_000,
        "kib" => 1 << 10,
        "m" | "mb" => 1_000_000,
        "mib" => 1 << 20,
        "g" | "gb" => 1_000_000_000,
        "gib" => 1 << 30,
        "t" | "tb" => 1_000_000_000_000,
        "tib" => 1 << 40,
        _ => return Err(wrong()),
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let whole: u64 =
        if whole.is_empty() && !fraction.is_empty() { 0 } else { whole.parse().map_err(|_digits| wrong())? };
    let digits = u32::try_from(fraction.len()).ok().filter(|digits| *digits <= 6).ok_or_else(wrong)?;
    let part: u64 = if fraction.is_empty() { 0 } else { fraction.parse().map_err(|_digits| wrong())? };
    let part = part.checked_mul(factor).ok_or_else(wrong)? / 10_u64.pow(digits);
    whole.checked_mul(factor).and_then(|bytes| bytes.checked_add(part)).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_people_write_them() {
        for (text, bytes) in [
            ("50MB", 50_000_000),
            ("50 MiB", 52_428_800),
            ("1.5GB", 1_500_000_000),
            ("1048576", 1_048_576),
            (".5kib", 512),
            ("5gib", 5 << 30),
        ] {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for text in ["", "MB", "1.2.3MB", "5 apples", "-1MB", "99999999999TB", "1e6", "."] {
            assert!(size(text).is_err(), "{text}");
        }
        assert!(object_size("900kB").is_err());
    }
}
