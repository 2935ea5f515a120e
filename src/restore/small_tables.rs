//! Rows of small tables, several tables in one transaction: at a distance a table costs one round trip instead of six.
//! Owns which tables go together, and the one transaction; who takes them when is [`crate::restore::rows`]'s business.
//!
//! The rows of all of them are read and compared with the manifest before the first is sent. What a table holds is then
//! all or nothing as ever: where the server refuses anything, nothing of the transaction stays, and each table is loaded
//! by itself, so that the refusal is known as that table's own.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use futures::{FutureExt as _, StreamExt as _};

use crate::error::{Error, Kind, Result};
use crate::postgres::target::load::{self, Loader, Taken};
use crate::restore::entry::is_refusal;
use crate::restore::rows::{Rows, Tables, compare, into_itself};
use crate::restore::wanted::Wanted;

/// Rows of a small table, in bytes of text. Larger ones are worth a transaction of their own.
const SMALL_BYTES: u64 = 64 << 10;
/// Tables of one transaction: their rows, at most 2 MiB, are in memory.
const TOGETHER: usize = 32;
/// Objects read from the store at the same time.
const READ_AHEAD: usize = 8;

impl Rows {
    /// True for a table that is loaded together with others.
    pub(crate) fn is_small(&self, wanted: &Wanted) -> bool {
        self.tables == Tables::New && wanted.table.extension.is_none() && wanted.table.raw_bytes <= SMALL_BYTES
    }

    /// The number of small tables, of so many in all, that one of so many sessions loads together: each has work twice.
    pub(crate) fn together(small: usize, sessions: usize) -> usize {
        (small / (2 * sessions.max(1))).clamp(1, TOGETHER)
    }

    /// Loads small tables in one transaction. Returns false where the server refused any of it, and those that must be
    /// loaded by themselves; the session is of no more use then.
    ///
    /// # Errors
    /// Damage, and a lost connection.
    pub(crate) async fn several<'w>(
        &self,
        loader: &Loader,
        tables: &[&'w Wanted],
    ) -> Result<(bool, VecDeque<&'w Wanted>)> {
        let read: Vec<_> =
            tables.iter().map(|&wanted| async move { (wanted, self.whole_rows(wanted).await) }.boxed()).collect();
        let mut read = futures::stream::iter(read).buffered(READ_AHEAD);
        let (mut copies, mut bytes, mut others) = (Vec::new(), 0, VecDeque::new());
        while let Some((wanted, rows)) = read.next().await {
            match rows? {
                Some((copy, parts)) => {
                    bytes += wanted.table.raw_bytes;
                    copies.push((wanted, copy, parts));
                }
                None => others.push_back(wanted),
            }
        }
        if copies.is_empty() {
            return Ok((true, others));
        }
        let names: Vec<String> = copies.iter().map(|(wanted, ..)| format!("ONLY {}", wanted.name())).collect();
        let begin = format!("BEGIN; TRUNCATE {}", names.join(", "));
        let doing = format!("load {} small tables", copies.len());
        let expected: Vec<&Wanted> = copies.iter().map(|(wanted, ..)| *wanted).collect();
        let taken: Vec<Taken> = copies.into_iter().map(|(_, statement, rows)| Taken { statement, rows }).collect();
        let loaded = async {
            let counts = loader.copy_several(&begin, taken, &doing).await?;
            for (wanted, counted) in expected.iter().zip(counts) {
                if counted != wanted.table.rows {
                    let doing = format!("load {}", wanted.table_name());
                    return Err(load::miscounted(&doing, wanted.table.rows, counted));
                }
            }
            loader.execute("COMMIT", &doing).await
        };
        match loaded.await {
            Ok(()) => {
                self.progress.taken.fetch_add(bytes, Ordering::Relaxed);
                Ok((true, others))
            }
            Err(error) if is_refusal(&error) && error.kind() != Kind::Damage => {
                tracing::debug!("{error}; loading one table after the other");
                Ok((false, tables.iter().copied().collect()))
            }
            Err(error) => Err(error),
        }
    }

    /// The rows of a small table, compared with the manifest, and the statement that writes them frozen; `None` where
    /// they do not go straight into their table.
    async fn whole_rows(&self, wanted: &Wanted) -> Result<Option<(String, Vec<Bytes>)>> {
        let (head, mut flow) = self.run.file(&wanted.table.file);
        let Ok(head) = head.await else {
            flow.finish().await?;
            return Err(Error::damage(format!("{}: has no COPY statement", wanted.table.file.key)));
        };
        let frozen = head.copy.trim_end().strip_suffix("FROM stdin;").filter(|_| into_itself(&head.copy, wanted));
        let Some(begin) = frozen else { return Ok(None) };
        let statement = format!("{begin}FROM stdin WITH (FREEZE)");
        let mut parts = Vec::new();
        let mut size = 0;
        while let Some(part) = flow.rows.recv().await {
            let part = part?;
            size += part.len() as u64;
            if size > wanted.table.raw_bytes {
                break;
            }
            parts.push(part);
        }
        let (fingerprint, _after) = flow.finish().await?;
        compare(wanted, &fingerprint)?;
        Ok(Some((statement, parts)))
    }
}
