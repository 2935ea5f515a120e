//! From stored bytes to COPY text: the rows of a SQL file or of one piece of it, as a channel of parts, with their
//! fingerprint. Decryption and decompression run on blocking threads. What a piece or an object is, is
//! known at its end only, so the caller commits after that.

use std::io::Read;
use std::sync::Arc;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use tokio::io::AsyncReadExt as _;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio_util::io::SyncIoBridge;

use crate::archive::rows::Rows;
use crate::archive::schema_names::SchemaNames;
use crate::archive::sql_reader::SqlReader;
use crate::error::{Error, Result};
use crate::format::manifest::{Index, Object, Piece, Table};
use crate::objects::read;
use crate::objects::read::Plain;
use crate::objects::stored_run::StoredRun;
use crate::seal::decrypt::HEAD_BYTES;
use crate::seal::digest::Fingerprint;
use crate::store::traffic::Traffic;

/// Bytes of COPY text sent at once.
const PART_BYTES: usize = 256 << 10;
/// Parts on their way for each session: a decompressor's burst is taken without waiting.
const PARTS: usize = 6;
/// Definitions before a table's rows are held; PostgreSQL allows 1,600 columns, whose comments may be long.
const LONGEST_HEAD: usize = 64 << 20;

/// The begin of an encrypted SQL file, by which its pieces are opened; of others nothing.
#[derive(Debug, Clone, Default)]
pub(crate) struct Head(Bytes);

/// The text before the rows of a SQL file.
#[derive(Debug)]
pub(crate) struct Before {
    /// Everything before the `COPY` statement.
    pub(crate) before: String,
    /// The `COPY ... FROM stdin;` statement.
    pub(crate) copy: String,
}

impl Before {
    /// The statement right before the `COPY`, which makes the temporary table that its rows go through, for tables
    /// of extensions that `pg_dump` leaves out; nothing for others.
    pub(crate) fn preamble(&self) -> &str {
        let Some(staging) = self.copy.strip_prefix("COPY pg_temp.") else { return "" };
        let staging = staging.split(' ').next().unwrap_or_default();
        let begin = format!("CREATE TEMPORARY TABLE {staging} AS SELECT ");
        self.before.find(&begin).and_then(|at| self.before.get(at..)).unwrap_or_default()
    }
}

/// Rows on their way, and what becomes known at their end.
pub(crate) struct Flow {
    /// The rows; ends with them. An error comes through it too, so that the COPY is cancelled.
    pub(crate) rows: mpsc::Receiver<Result<Bytes>>,
    /// Their fingerprint, once everything was compared; for a SQL file also what follows the rows.
    pub(crate) end: JoinHandle<Result<(Fingerprint, String)>>,
}

impl Flow {
    /// Waits for the end. What the rows came from is damaged where this fails with kind `Damage`.
    pub(crate) async fn finish(self) -> Result<(Fingerprint, String)> {
        drop(self.rows);
        self.end.await.map_err(|error| Error::failed(format!("read rows: {error}")))?
    }
}

/// The rows of a run.
impl StoredRun {
    /// The index of a large table, verified, and what its pieces are found by.
    pub(crate) async fn index(&self, schema: &str, table: &Table, stored: &Object) -> Result<(Index, Head)> {
        let bytes = self.read_with(stored, &self.decoding.uncompressed()).await?;
        let damaged = |why: String| Error::damage(format!("{}: {why}", stored.key));
        let mut index: Index = serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
        crate::objects::index::check(&index, self.schemas.saved(schema), table).map_err(damaged)?;
        index.copy = self.schemas.renamed(&index.copy);
        if self.decoding.identities().is_none() {
            return Ok((index, Head::default()));
        }
        let (_, mut stored) = self.range(&table.file, 0..HEAD_BYTES.min(table.file.bytes));
        let mut head = Vec::new();
        stored.read_to_end(&mut head).await.map_err(Error::from)?;
        Ok((index, Head(head.into())))
    }

    /// The rows of a SQL file. The first receiver gets what stands before them.
    pub(crate) fn file(&self, object: &Object) -> (oneshot::Receiver<Before>, Flow) {
        let (tell, head) = oneshot::channel();
        let (send, rows) = mpsc::channel(PARTS);
        let (watch, stored) = self.watched(object);
        let (object, decoding) = (object.clone(), self.decoding.clone());
        let (traffic, schemas) = (Arc::clone(self.store.traffic()), Arc::clone(&self.schemas));
        let end = tokio::task::spawn_blocking(move || {
            let mut plain = Plain::new(stored, &decoding);
            let mut out = Out { traffic: &traffic, rows: Rows::default(), held: BytesMut::new(), send: &send };
            let read = file(&mut plain, tell, &schemas, &mut out);
            let drained = match &read {
                Ok(_) => std::io::copy(&mut plain, &mut std::io::sink()).map(drop).map_err(Error::from),
                Err(error) => Err(error.clone()),
            };
            let settled = read::settle(&watch, &object, drained, plain.bytes);
            if let Err(error) = &settled {
                // Nobody listens any more when the COPY itself failed.
                drop(send.blocking_send(Err(error.clone())));
            }
            settled?;
            read.map(|after| (*out.rows.fingerprint(), after))
        });
        (head, Flow { rows, end })
    }

    /// The rows of one piece of a SQL file; its SHA-256 is compared at its end, before anything is committed.
    pub(crate) fn piece(&self, object: &Object, piece: &Piece, head: &Head, number: usize) -> Result<Flow> {
        let range = piece.offset..piece.offset.saturating_add(piece.bytes);
        let located = match self.decoding.identities() {
            Some(identities) => {
                let located = identities.locate(&head.0, object.bytes, range.clone());
                Some(located.map_err(|error| error.context(object.whole_key()))?)
            }
            None => None,
        };
        let range = located.as_ref().map_or(range, |located| located.stored.clone());
        let (keys, stored) = self.range(object, range);
        let (send, rows) = mpsc::channel(PARTS);
        let (piece, decoding) = (piece.clone(), self.decoding.clone());
        let traffic = Arc::clone(self.store.traffic());
        let end = tokio::task::spawn_blocking(move || {
            let mut out = Out { traffic: &traffic, rows: Rows::default(), held: BytesMut::new(), send: &send };
            let tap = crate::seal::hash::Tap::default();
            let read = match located {
                None => whole_piece(&mut Plain::of_frames(tap.reader(stored), &decoding), &tap, &piece, &mut out),
                Some(located) => located
                    .open(SyncIoBridge::new(stored))
                    .and_then(|frames| Plain::of_blocking(tap.reader(frames), &decoding))
                    .and_then(|mut plain| whole_piece(&mut plain, &tap, &piece, &mut out)),
            };
            let read = read.map_err(|error| error.context(format!("{keys}: piece {number}")));
            if let Err(error) = &read {
                drop(send.blocking_send(Err(error.clone())));
            }
            read.map(|()| (*out.rows.fingerprint(), String::new()))
        });
        Ok(Flow { rows, end })
    }
}

/// Reads a SQL file; returns what follows the rows.
fn file(
    plain: &mut Plain<'_>,
    tell: oneshot::Sender<Before>,
    schemas: &SchemaNames,
    out: &mut Out<'_>,
) -> Result<String> {
    let mut sql = SqlReader::default();
    let (mut before, mut after) = (Vec::new(), Vec::new());
    let mut tell = Some(tell);
    let mut buffer = vec![0; PART_BYTES];
    loop {
        let size = plain.read(&mut buffer)?;
        let mut rest = buffer.get(..size).unwrap_or_default();
        if rest.is_empty() {
            break;
        }
        while let (true, Some((byte, more))) = (tell.is_some(), rest.split_first()) {
            sql.feed(&[*byte])?;
            before.push(*byte);
            rest = more;
            if before.len() > LONGEST_HEAD {
                return Err(Error::damage("the definitions before the rows are too long"));
            }
            if sql.between_rows() == Some(0)
                && let Some(tell) = tell.take()
            {
                // Nobody listens any more when the restore is ending; the next send finds out.
                let mut head = head(&sql.letters().decode(&before), sql.copy().unwrap_or_default());
                head.copy = schemas.renamed(&head.copy);
                drop(tell.send(head));
            }
        }
        let taken = out.push(rest)?;
        after.extend_from_slice(rest.get(taken..).unwrap_or_default());
    }
    if tell.is_some() {
        return Err(Error::damage("has no COPY statement"));
    }
    if !out.rows.ended() {
        return Err(Error::damage(r"ends inside the rows, without \."));
    }
    Ok(sql.letters().decode(&after))
}

fn head(text: &str, copy: &str) -> Before {
    let end = text.rfind(copy).unwrap_or(text.len());
    Before { before: text.get(..end).unwrap_or_default().to_owned(), copy: copy.to_owned() }
}

fn whole_piece(plain: &mut Plain<'_>, tap: &crate::seal::hash::Tap, piece: &Piece, out: &mut Out<'_>) -> Result<()> {
    let mut buffer = vec![0; PART_BYTES];
    loop {
        let size = plain.read(&mut buffer)?;
        if size == 0 {
            break;
        }
        out.push(buffer.get(..size).unwrap_or_default())?;
    }
    out.flush()?;
    if tap.bytes() != piece.bytes || tap.sha256() != piece.sha256 {
        return Err(Error::damage("differs from its SHA-256"));
    }
    if out.rows.ended() || !out.rows.between_rows() || out.rows.fingerprint().rows != piece.rows {
        return Err(Error::damage(format!("is not {} whole rows", piece.rows)));
    }
    Ok(())
}

/// Sends rows on, without the end marker's line.
struct Out<'a> {
    traffic: &'a Traffic,
    rows: Rows,
    /// The last bytes, which may be the marker's.
    held: BytesMut,
    send: &'a mpsc::Sender<Result<Bytes>>,
}

/// `\.` and its newline.
const MARKER: usize = 3;

impl Out<'_> {
    /// Takes text up to the end of the rows; returns how much was taken.
    fn push(&mut self, text: &[u8]) -> Result<usize> {
        if text.is_empty() || self.rows.ended() {
            return Ok(0);
        }
        let taken = self.rows.feed(text);
        let mut part = std::mem::take(&mut self.held);
        part.extend_from_slice(text.get(..taken).unwrap_or_default());
        let ready = part.len().saturating_sub(MARKER);
        self.held = part.split_off(ready);
        self.send(part.freeze())?;
        Ok(taken)
    }

    /// The rows end here, without a marker.
    fn flush(&mut self) -> Result<()> {
        let part = std::mem::take(&mut self.held).freeze();
        self.send(part)
    }

    fn send(&self, part: Bytes) -> Result<()> {
        if part.is_empty() {
            return Ok(());
        }
        let begun = Instant::now();
        let sent = self.send.blocking_send(Ok(part));
        self.traffic.taker.add(begun.elapsed());
        sent.map_err(|_closed| Error::failed("the session that loads these rows ended"))
    }
}
