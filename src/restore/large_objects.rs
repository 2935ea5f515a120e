//! The large objects of a run, streamed from the store into `pg_restore`. The end of their archive is held back until all
//! of it was compared with the manifest, so that a damaged one is never completed. `pg_restore` makes them as the role's
//! own: who they belong to and who may read them is told to the server by statements of ours, so that one refused takes
//! nothing else away.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::Poll;

use libpgdump::{Entry, ObjectType};
use tokio::io::{AsyncRead, ReadBuf};

use crate::archive::catalogue::tag;
use crate::error::{Error, Result};
use crate::format::manifest::Object;
use crate::objects::read::Watch;
use crate::postgres::connect::session::Session;
use crate::postgres::target;
use crate::postgres::target::project;
use crate::restore::entry::{self, is_refusal};
use crate::restore::executor::Executor;
use crate::restore::grants::{Grant, give};
use crate::restore::private_file::PrivateFile;
use crate::restore::work::Work;
use crate::seal::decode;
use crate::sql::names::quote;

/// Up to so many large objects are restored in one transaction: each takes a lock.
const BLOBS_AT_ONCE: u64 = 2_000;

/// Statements about large objects in one transaction.
const STATEMENTS_AT_ONCE: usize = 500;

/// The entries attached to large objects.
pub(crate) enum Attached {
    /// The privileges on one of them.
    Privileges(Box<Entry>),
    Label {
        oid: u32,
        sql: String,
    },
}

/// The large objects of a run, as their archive lists them.
#[derive(Default)]
pub(crate) struct LargeObjects {
    /// Their numbers.
    pub(crate) oids: Vec<u32>,
    /// The owner of each.
    pub(crate) owners: Vec<(u32, String)>,
    pub(crate) attached: Vec<Attached>,
}

impl LargeObjects {
    /// Reads which there are, for a whole run with rows.
    ///
    /// # Errors
    /// Damage of the store.
    pub(crate) async fn read(work: &Work<'_>) -> Result<Self> {
        let object = work.run.manifest.large_objects.object.as_ref();
        let is_wanted = work.part.is_whole() && work.options.has_rows() && !work.leave_out.large_objects;
        let Some(object) = object.filter(|_| is_wanted) else {
            return Ok(Self::default());
        };
        let mut found = Self::of(work.run.table_of_contents(object).await?.entries);
        for (_, owner) in &mut found.owners {
            *owner = work.options.owner(owner).to_owned();
        }
        Ok(found)
    }

    fn of(entries: Vec<Entry>) -> Self {
        let mut this = Self::default();
        let mut groups = HashMap::new();
        for entry in entries {
            let oids: Vec<u32> = match entry.desc {
                ObjectType::Blob => tag(&entry).parse().into_iter().collect(),
                // From pg_dump 17 on: a line for each object of a group.
                ObjectType::BlobMetadata => {
                    let lines = entry.defn.as_deref().unwrap_or_default().lines();
                    lines.filter_map(|line| line.trim().parse().ok()).collect()
                }
                ObjectType::Acl => {
                    let group = entry.dependencies.first().and_then(|id| groups.get(id));
                    this.attached.extend(
                        each(&entry, group.map_or(&[][..], Vec::as_slice)).map(Box::new).map(Attached::Privileges),
                    );
                    continue;
                }
                ObjectType::SecurityLabel => {
                    let sql = entry.defn.unwrap_or_default();
                    let oid = entry.tag.as_deref().and_then(|tag| tag.rsplit(' ').next()?.parse().ok());
                    this.attached.push(Attached::Label { oid: oid.unwrap_or_default(), sql });
                    continue;
                }
                _ => continue,
            };
            let owner = entry.owner.unwrap_or_default();
            this.owners.extend(oids.iter().map(|oid| (*oid, owner.clone())));
            this.oids.extend(&oids);
            groups.insert(entry.dump_id, oids);
        }
        this
    }
}

/// The privileges of a group of large objects as those of each: they are written for its first only (`IssueACLPerBlob`
/// in PostgreSQL's `pg_backup_archiver.c`).
fn each<'e>(entry: &'e Entry, group: &'e [u32]) -> impl Iterator<Item = Entry> + 'e {
    let first = group.first().copied().unwrap_or_default();
    let alone = group.len() < 2;
    let one = move |oid: u32| {
        let mut entry = entry.clone();
        let (from, to) = (format!(" ON LARGE OBJECT {first} "), format!(" ON LARGE OBJECT {oid} "));
        entry.defn = entry.defn.map(|defn| defn.replace(&from, &to));
        entry.tag = Some(format!("LARGE OBJECT {oid}"));
        entry
    };
    let it_self = alone.then(|| entry.clone());
    it_self.into_iter().chain(group.iter().filter(move |_| !alone).map(move |oid| one(*oid)))
}

/// The kind of what may be granted in pieces.
const PRIVILEGES: &str = "privileges on large object";

/// A statement about a large object.
struct About {
    kind: &'static str,
    oid: String,
    sql: String,
}

impl Work<'_> {
    /// Restores the large objects of the run, with their owners and privileges.
    ///
    /// # Errors
    /// Damage of the store, lost connections, what `pg_restore` fails with.
    pub(crate) async fn owned_large_objects(&self, executor: &Executor<'_>) -> Result<()> {
        let blobs = LargeObjects::read(self).await?;
        let Some(object) = self.run.manifest.large_objects.object.as_ref().filter(|_| !blobs.oids.is_empty()) else {
            return Ok(());
        };
        self.large_objects(object).await?;
        let mut all = Vec::new();
        for (oid, owner) in &blobs.owners {
            if self.options.ignores_owners() || owner.is_empty() || owner == executor.role() {
                continue;
            }
            match executor.cannot_give_to(owner) {
                None => {
                    let sql = format!("ALTER LARGE OBJECT {oid} OWNER TO {};", quote(owner));
                    all.push(About { kind: "owner of large object", oid: oid.to_string(), sql });
                }
                Some(why) => self.ledger.unowned(owner, &why, format!("large object {oid}")),
            }
        }
        for attached in blobs.attached {
            match attached {
                Attached::Privileges(entry) if self.options.has_privileges() => {
                    let oid = tag(&entry).trim_start_matches("LARGE OBJECT ").to_owned();
                    all.push(About { kind: PRIVILEGES, oid, sql: entry.defn.unwrap_or_default() });
                }
                Attached::Privileges(_) => {}
                Attached::Label { oid, sql } => {
                    all.push(About { kind: "security label of large object", oid: oid.to_string(), sql });
                }
            }
        }
        // A session of its own: grants of other grantors change its role, and settings stay in it.
        let session = Session::connect(&self.info, self.options.connect_timeout, "restore").await?;
        for chunk in all.chunks(STATEMENTS_AT_ONCE) {
            self.tell(&session, chunk).await?;
        }
        session.close().await;
        Ok(())
    }

    /// Runs statements together, or each by itself where one is refused.
    async fn tell(&self, session: &Session, all: &[About]) -> Result<()> {
        let together: Vec<&str> = all.iter().map(|one| one.sql.as_str()).collect();
        match project::transaction(session, &together.join("\n"), "restore large objects").await {
            Err(error) if is_refusal(&error) && !self.options.exit_on_error => {}
            other => return other,
        }
        for About { kind, oid, sql } in all {
            if *kind == PRIVILEGES {
                give(session, &self.ledger, (kind, oid), &Grant::all(sql)).await?;
                continue;
            }
            match project::transaction(session, sql, &format!("{kind} {oid}")).await {
                Err(error) if is_refusal(&error) => {
                    self.ledger.refused(kind, oid, &error.cause(), &entry::step(&error, sql), sql);
                }
                other => other?,
            }
        }
        Ok(())
    }

    /// Makes the large objects empty where default privileges would open those that `pg_restore` makes; returns the list
    /// of what is left to it.
    async fn made_before(&self, object: &Object) -> Result<Option<PrivateFile>> {
        if self.control.server_version_num() < 180_000 || !target::opens_large_objects(&self.control).await? {
            return Ok(None);
        }
        let entries = self.run.table_of_contents(object).await?.entries;
        let is_left = |e: &&Entry| {
            !matches!(e.desc, ObjectType::Blob | ObjectType::BlobMetadata | ObjectType::Acl | ObjectType::SecurityLabel)
        };
        let left = entries.iter().filter(is_left).map(|e| format!("{};\n", e.dump_id)).collect::<Vec<_>>();
        let list = PrivateFile::new(left.concat().as_bytes())?;
        let session = Session::connect(&self.info, self.options.connect_timeout, "restore").await?;
        for oids in LargeObjects::of(entries).oids.chunks(STATEMENTS_AT_ONCE) {
            target::make_large_objects(&session, oids).await?;
        }
        session.close().await;
        Ok(Some(list))
    }

    /// Streams the large objects into `pg_restore`, as the role's own and without privileges. The end of the archive is
    /// held back until its SHA-256 was compared.
    pub(crate) async fn large_objects(&self, object: &Object) -> Result<()> {
        let (watch, stored) = self.run.watched(object);
        let plain = self.run.decoding.decoder(stored);
        let (watched, damage) = (watch.clone(), Arc::new(Mutex::new(None)));
        let mut held = HeldBack {
            inner: plain,
            last: Vec::new(),
            ended: false,
            object: object.clone(),
            watch,
            damage: Arc::clone(&damage),
        };
        let made = self.made_before(object).await?;
        let list = made.as_ref().map(|list| format!("--use-list={}", list.path.display()));
        let mut arguments = vec!["--no-owner", "--no-privileges", "--no-security-labels"];
        arguments.extend(list.as_deref());
        if self.run.manifest.large_objects.count <= BLOBS_AT_ONCE {
            arguments.push("--single-transaction");
        }
        let result = self.pg_restore.pipe("restore large objects", &arguments, &mut held).await;
        if let Some(failure) = watched.whole.store_failure() {
            return Err(failure.context(&object.key));
        }
        let damaged = damage.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        if let Some(damaged) = damaged {
            return Err(damaged);
        }
        result?;
        self.note(|report| report.large_objects = self.run.manifest.large_objects.count);
        Ok(())
    }
}

/// Plain bytes of an object, the last of which come only when the whole object was compared with the manifest. What
/// is damaged so ends early, and who reads it fails.
struct HeldBack<R> {
    inner: R,
    last: Vec<u8>,
    ended: bool,
    object: Object,
    watch: Watch,
    damage: Arc<Mutex<Option<Error>>>,
}

impl<R: AsyncRead + Unpin> AsyncRead for HeldBack<R> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        while !self.ended {
            // Two readings are held, so that the one before the last can be given out.
            let mut buffer = vec![0; decode::BUFFER.min(out.remaining())];
            let mut read = ReadBuf::new(&mut buffer);
            let damage = match Pin::new(&mut self.inner).poll_read(context, &mut read) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(())) if read.filled().is_empty() => (!self.watch.is_sound(&self.object))
                    .then(|| "its stored bytes are not the manifest's (SHA-256)".to_owned()),
                Poll::Ready(Ok(())) => {
                    let new = read.filled().to_vec();
                    let before = std::mem::replace(&mut self.last, new);
                    if before.is_empty() {
                        continue;
                    }
                    out.put_slice(&before);
                    return Poll::Ready(Ok(()));
                }
                Poll::Ready(Err(error)) => Some(format!("does not decode: {error}")),
            };
            self.ended = true;
            if let Some(why) = damage {
                self.last.clear();
                let error = Error::damage(format!("{}: {why}", self.watch.blame(&self.object)));
                *self.damage.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(error);
            }
        }
        let last = std::mem::take(&mut self.last);
        let now = last.len().min(out.remaining());
        let (given, kept) = last.split_at(now);
        out.put_slice(given);
        self.last = kept.to_vec();
        Poll::Ready(Ok(()))
    }
}
