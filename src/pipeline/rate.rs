//! A limit on how fast rows leave the database: one bucket for all sessions of a run, in bytes of COPY text a second.
//!
//! A reader pays for what it has read before it reads on; PostgreSQL stops sending when nobody takes what it sends, so
//! the server's disks and the network rest as well. Without a limit it costs nothing.

use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// A reader pays each time it has read so much: often enough that no limit makes it stop for long, seldom enough that
/// rows of a few bytes cost no lock each.
const GRAIN: u64 = 64 << 10;
/// The burst that may be read after a pause, in seconds of the limit.
const BURST: Duration = Duration::from_millis(250);

/// Bytes a second, as a person writes them: `50MiB`, `800kB`, `1.5GiB`, with or without `/s`. At least 1 KiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BytesPerSecond(u64);

impl FromStr for BytesPerSecond {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not a rate; write it like 50MiB, 800kB or 1.5GiB (a second)");
        let size = text.trim();
        let size = size.strip_suffix("/s").unwrap_or(size);
        let (number, unit) = size.split_at(size.find(|c: char| c != '.' && !c.is_ascii_digit()).unwrap_or(size.len()));
        let factor: u64 = match unit.trim_start() {
            // A bare number would be taken for MiB by one half of its readers.
            "B" => 1,
            "KiB" => 1 << 10,
            "MiB" => 1 << 20,
            "GiB" => 1 << 30,
            "kB" | "KB" => 1_000,
            "MB" => 1_000_000,
            "GB" => 1_000_000_000,
            _ => return Err(wrong()),
        };
        let (whole, part) = number.split_once('.').unwrap_or((number, "0"));
        if whole.is_empty() || part.is_empty() || part.len() > 6 || part.contains('.') {
            return Err(wrong());
        }
        let whole: u64 = whole.parse().map_err(|_too_long| wrong())?;
        let millionths: u64 = format!("{part:0<6}").parse().map_err(|_not_digits| wrong())?;
        let fraction = factor.saturating_mul(millionths) / 1_000_000;
        let bytes = whole.checked_mul(factor).and_then(|bytes| bytes.checked_add(fraction)).ok_or_else(wrong)?;
        if bytes < 1 << 10 {
            return Err(format!("{text:?} is too slow: at least 1KiB"));
        }
        Ok(Self(bytes))
    }
}

impl fmt::Display for BytesPerSecond {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/s", indicatif::HumanBytes(self.0))
    }
}

/// The bucket; clones share it. Without a limit it lets everything through.
#[derive(Debug, Clone, Default)]
pub(crate) struct Rate(Option<Arc<Bucket>>);

#[derive(Debug)]
struct Bucket {
    bytes_per_second: u64,
    /// The moment when everything that was let through would have been read at exactly the limit.
    paid_until: Mutex<Instant>,
}

/// The bytes that one reader has read and not yet paid for. The rest when it is dropped is less than 64 KiB.
#[derive(Debug)]
pub(crate) struct Meter {
    rate: Rate,
    owed: u64,
}

impl Rate {
    /// A bucket with that limit, if there is one.
    #[must_use]
    pub(crate) fn new(limit: Option<BytesPerSecond>) -> Self {
        let bucket =
            |limit: BytesPerSecond| Bucket { bytes_per_second: limit.0, paid_until: Mutex::new(Instant::now()) };
        Self(limit.map(|limit| Arc::new(bucket(limit))))
    }

    /// A meter for one reader.
    #[must_use]
    pub(crate) fn meter(&self) -> Meter {
        Meter { rate: self.clone(), owed: 0 }
    }

    /// Waits until so many more bytes are within the limit. Readers that ask at the same time wait in order of asking.
    async fn pay(&self, bytes: u64) {
        let Some(bucket) = &self.0 else { return };
        let until = bucket.take(bytes, Instant::now());
        tokio::time::sleep_until(until).await;
    }
}

impl Bucket {
    /// Takes so many bytes and returns when they are within the limit.
    fn take(&self, bytes: u64, now: Instant) -> Instant {
        let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(self.bytes_per_second);
        let cost = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        let mut paid_until = self.paid_until.lock().unwrap_or_else(PoisonError::into_inner);
        let from = (*paid_until).max(now.checked_sub(BURST).unwrap_or(now));
        *paid_until = from + cost;
        *paid_until
    }
}

impl Meter {
    /// Counts bytes that were read, and waits where the limit asks for it. Safe to cancel.
    pub(crate) async fn read(&mut self, bytes: usize) {
        if self.rate.0.is_none() {
            return;
        }
        self.owed += bytes as u64;
        if self.owed >= GRAIN {
            self.settle().await;
        }
    }

    /// Pays the rest: at the end of what was read.
    pub(crate) async fn settle(&mut self) {
        if self.owed > 0 {
            self.rate.pay(std::mem::take(&mut self.owed)).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_read_strictly() {
        let read = |text: &str| text.parse::<BytesPerSecond>().map(|rate| rate.0);
        assert_eq!(read("50MiB"), Ok(50 << 20));
        assert_eq!(read(" 50 MiB/s "), Ok(50 << 20));
        assert_eq!(read("800kB"), Ok(800_000));
        assert_eq!(read("1.5GiB"), Ok(3 << 29));
        assert_eq!(read("2048B"), Ok(2048));
        for wrong in
            ["", "50", "50M", "50mib", "MiB", "-5MiB", "1.2.3MiB", ".5MiB", "5.MiB", "0MiB", "1B", "5 furlongs"]
        {
            assert!(read(wrong).is_err(), "{wrong:?}");
        }
        assert!(read("99999999999999999999GiB").is_err());
        assert!(read("99999999999999GiB").is_err());
    }

    #[tokio::test]
    async fn all_readers_together_keep_the_limit() {
        let limit = Rate::new(Some("1MiB".parse().unwrap()));
        let bucket = limit.0.unwrap();
        let later = Instant::now() + Duration::from_hours(1);
        let last = (0..40).map(|_| bucket.take(256 << 10, later)).max().unwrap();
        // 10 MiB at 1 MiB a second; an hour of rest counts as the burst only.
        assert_eq!(last - later + BURST, Duration::from_secs(10));
    }

    #[tokio::test]
    async fn without_a_limit_nothing_waits() {
        let mut meter = Rate::new(None).meter();
        meter.read(usize::MAX).await;
        assert_eq!(meter.owed, 0);
    }
}
