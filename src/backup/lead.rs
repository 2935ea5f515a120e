//! Locks, snapshot and catalogue: the beginning of a run, tried again when others were in the way.
//!
//! pg_dump reads the catalogue while the leader holds its locks. It may wait without a limit of its own for the lock of
//! a view, a materialized view or a sequence; it fails when an object is dropped between its listing and its question.
//! So its backend is watched from the leader's session, and whatever it fails of is judged by what is true afterwards:
//! the run lets everything go and starts over, the objects that come and go all the time are left out by name, and in
//! the end the error names what was in the way.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use libpgdump::format::ArchiveMetadata;
use libpgdump::{Entry, ObjectType};

use crate::archive::catalogue::{PG_CLASS, namespace, tag, with_dependents};
use crate::backup::facts::{self, Facts};
use crate::backup::own_encoding;
use crate::backup::preflight::leave_out;
use crate::backup::run::Run;
use crate::error::{Error, Result};
use crate::format::manifest::Omitted;
use crate::postgres::connect::session::Session;
use crate::postgres::programs::pg_dump;
use crate::postgres::programs::pg_dump::Failure;
use crate::postgres::settings;
use crate::postgres::source::leader::{Candidate, Leader};
use crate::postgres::source::vanished::Unlocked;
use crate::postgres::source::{leader, vanished, waiters};
use crate::sql::names::TableName;

/// The encoding of a database that says nothing of its bytes.
const NO_ENCODING: &str = "SQL_ASCII";
const UTF8: &str = "UTF8";
/// Attempts that a lock, or a failure without a visible cause, may cost.
const ATTEMPTS: u32 = 3;
/// Attempts while objects come and go: each one learns the names of some that do.
const ATTEMPTS_WHILE_MOVING: u32 = 12;
/// The first pause between two attempts, and the longest.
const PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(4);
/// Time between two checks of pg_dump's backend.
const LOOK: Duration = Duration::from_millis(250);
/// The answer reads all locks of the server, which are many where the tables are: asking takes a tenth of the time at most.
const RARELY: u32 = 9;
/// While a session of somebody else is blocked by the run, pg_dump may wait no longer than this.
const COURTESY: Duration = Duration::from_secs(5);
/// Longest wait for an object that was left out to be gone.
const GONE: Duration = Duration::from_secs(2);

/// The reason to let everything go and start over.
enum Again {
    /// Objects that were dropped meanwhile.
    Moved(Error),
    /// A lock that was not to be had, or a failure without a cause that can be seen.
    Failed(Error),
}

/// Objects that were dropped while an attempt read the catalogue, by kind, schema and name.
type Volatile = HashSet<(String, TableName)>;

/// The description of the database at the leader's snapshot.
pub(crate) struct Described {
    /// The table of contents of pg_dump.
    pub(crate) meta: ArchiveMetadata,
    pub(crate) facts: Facts,
    /// The roles script.
    pub(crate) roles: Vec<u8>,
}

/// Makes locks, snapshot and catalogue.
pub(crate) async fn lead(run: &Run, candidate: Candidate) -> Result<(Leader, Described)> {
    let mut next = Some(candidate);
    let mut volatile = Volatile::new();
    let (mut pause, mut attempt, mut unmoved) = (PAUSE, 0, 0);
    loop {
        let candidate = if let Some(candidate) = next.take() {
            candidate
        } else {
            let (timeout, silence) = (run.options.connect_timeout, run.options.limits.stall_timeout);
            Candidate::connect(&run.options.info, timeout, silence, &run.name).await?
        };
        candidate.lock_store(&run.target.store.identity()).await?;
        let mut leader = candidate.lead(run.options.limits.lock_timeout).await?;
        let again = match Box::pin(describe(run, &mut leader, &mut volatile)).await? {
            Ok(described) => return Ok((leader, described)),
            Err(again) => again,
        };
        leader.release().await;
        attempt += 1;
        let error = match again {
            Again::Moved(error) => error,
            Again::Failed(error) => {
                unmoved += 1;
                error
            }
        };
        if unmoved >= ATTEMPTS || attempt >= ATTEMPTS_WHILE_MOVING {
            return Err(error.context(format!("read the catalogue ({attempt} attempts)")));
        }
        tracing::warn!("{error}; letting everything go and starting over (attempt {attempt})");
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// One attempt to let pg_dump describe the database at the leader's snapshot.
async fn describe(run: &Run, leader: &mut Leader, volatile: &mut Volatile) -> Result<Result<Described, Again>> {
    let asked = Instant::now();
    let client = &leader.session.client;
    let (unlocked, settings) = tokio::try_join!(vanished::unlocked(client), settings::differing(client))?;
    let known = |relation: &&Unlocked| volatile.contains(&(RELATION.to_owned(), relation.name.clone()));
    let excluded: Vec<Unlocked> = unlocked.iter().filter(known).cloned().collect();
    let mut arguments = leave_out(&leader.detection);
    arguments.extend(excluded.iter().map(|relation| format!("--exclude-table={}", relation.name.sql())));
    let own = leader.detection.server.encoding.clone();
    let mut request = pg_dump::Request {
        snapshot: &leader.snapshot,
        lock_timeout: run.options.limits.lock_timeout,
        encoding: if own == NO_ENCODING { NO_ENCODING } else { UTF8 },
        run: &run.name,
        options: settings.clone(),
        leave_out: arguments,
    };
    let mut read = match Box::pin(ask(run, leader, &request, &settings)).await? {
        Ok(read) => read,
        Err(again) => return Ok(Err(again)),
    };
    // Perhaps what it describes cannot be said in UTF-8: then it can in the database's own encoding, and nowhere else.
    if let Err(Failure::Program(error)) = &read
        && ![NO_ENCODING, UTF8].contains(&own.as_str())
    {
        request.encoding = &own;
        let error = error.clone();
        if let Ok(Ok(answer)) = Box::pin(ask(run, leader, &request, &settings)).await? {
            read = Ok(answer);
            tracing::debug!("read again in {own}: {error}");
        }
    }
    let meta = match read {
        Ok(((meta, warnings), rest)) => {
            for warning in warnings {
                tracing::warn!("pg_dump: {warning}");
            }
            Ok((meta, rest))
        }
        Err(Failure::Final(error)) => return Err(error),
        Err(Failure::Program(error)) => Err(error),
    };
    let seconds = asked.elapsed().as_secs_f64();
    let checker = run.short_session("check").await?;
    let meta = match meta {
        Ok((mut meta, rest)) if own == UTF8 => {
            own_encoding::name_odd(leader, &mut meta);
            Ok((meta, rest))
        }
        Ok((meta, rest)) if request.encoding == own && own != NO_ENCODING => {
            Ok((own_encoding::definitions(leader, &checker, meta).await?, rest))
        }
        other => other,
    };
    let judged = match meta {
        Ok((meta, (facts, roles))) => {
            let judged = without_vanished(leader, &checker, meta, &excluded, volatile).await;
            judged.map(|judged| judged.map(|meta| Described { meta, facts, roles }))
        }
        Err(error) => moved(leader, &checker, error, &unlocked, volatile).await.map(Err),
    };
    checker.close().await;
    if let Ok(Ok(described)) = &judged {
        let (entries, version) = (described.meta.entries.len(), &run.tools.version);
        tracing::info!("catalogue read: {entries} entries in {seconds:.2} s by pg_dump {version}");
    }
    judged
}

/// The end of pg_dump without an answer.
enum Stop {
    Failed(Failure),
    Again(Again),
    Broken(Error),
}

/// Asks for the facts and the roles while pg_dump is at work; the roles after it, where connections are few.
async fn with_the_rest<T>(
    run: &Run,
    leader: &Leader,
    pg_dump: impl Future<Output = Result<T, Stop>>,
    settings: &str,
) -> Result<Result<(T, (Facts, Vec<u8>)), Stop>> {
    let mut pg_dump = std::pin::pin!(pg_dump);
    let mut beside = std::pin::pin!(async {
        let facts = facts::facts(run, leader).await?;
        if facts.few_connections {
            return Ok((facts, None));
        }
        let roles = facts::roles(run, leader, settings).await?;
        Ok::<_, Error>((facts, Some(roles)))
    });
    let (read, (facts, roles)) = tokio::select! {
        biased;
        read = &mut pg_dump => match read {
            Ok(read) => (read, beside.await?),
            Err(stop) => return Ok(Err(stop)),
        },
        beside = &mut beside => {
            let beside = beside?;
            match pg_dump.await {
                Ok(read) => (read, beside),
                Err(stop) => return Ok(Err(stop)),
            }
        }
    };
    let roles = match roles {
        Some(roles) => roles,
        None => facts::roles(run, leader, settings).await?,
    };
    Ok(Ok((read, (facts, roles))))
}

/// The answer of pg_dump with its warnings, and what was asked beside it.
type Asked = Result<((ArchiveMetadata, Vec<String>), (Facts, Vec<u8>)), Failure>;

/// Asks pg_dump, and watches it as long as it runs; the outer error is final, the inner one a reason to start over.
async fn ask(
    run: &Run,
    leader: &Leader,
    request: &pg_dump::Request<'_>,
    settings: &str,
) -> Result<Result<Asked, Again>> {
    let info = run.options.info.with_options(run.child_options.unwrap_or_default());
    let (silence, application) = (run.options.limits.stall_timeout, pg_dump::application(&run.name));
    let client = &leader.session.client;
    let watched = async {
        tokio::select! {
            biased;
            read = pg_dump::table_of_contents(&run.tools, &info, request) => read.map_err(Stop::Failed),
            // pg_dump is gone by now: the end of its backend cannot become the reason.
            blocked = blocked(run, leader) => {
                let (backend, why) = blocked.map_err(Stop::Broken)?;
                waiters::end_backend(client, backend).await.map_err(Stop::Broken)?;
                Err(Stop::Again(Again::Failed(why)))
            }
            stuck = waiters::until_stuck(client, &application, silence) => {
                stuck.map_err(Stop::Broken)?;
                Err(Stop::Again(Again::Failed(pg_dump::lost("pg_dump", silence))))
            }
        }
    };
    let stop = match Box::pin(with_the_rest(run, leader, watched, settings)).await? {
        Ok(all) => return Ok(Ok(Ok(all))),
        Err(stop) => stop,
    };
    // The pg_dumpall beside it was ended; its connection may be one that froze.
    waiters::end_program(client, &pg_dump::roles_application(&run.name)).await?;
    match stop {
        Stop::Failed(failure) => Ok(Ok(Err(failure))),
        Stop::Again(again) => Ok(Err(again)),
        Stop::Broken(error) => Err(error),
    }
}

/// Watches pg_dump's backend; returns when it has waited too long for a lock, with its process id and who holds it.
async fn blocked(run: &Run, leader: &Leader) -> Result<(i32, Error)> {
    let (application, client) = (pg_dump::application(&run.name), &leader.session.client);
    let longest = run.options.limits.lock_timeout;
    let mut waiting: Option<(String, Instant)> = None;
    let mut pause = LOOK;
    loop {
        tokio::time::sleep(pause.min(longest / 2)).await;
        let asked = Instant::now();
        let wait = waiters::wait_of(client, &application, &run.name).await?;
        pause = LOOK.max(asked.elapsed() * RARELY);
        let Some(wait) = wait else {
            waiting = None;
            continue;
        };
        let since = match &waiting {
            Some((lock, since)) if *lock == wait.lock => *since,
            _ => Instant::now(),
        };
        waiting = Some((wait.lock.clone(), since));
        let allowed = if wait.blocks_others { longest.min(COURTESY) } else { longest };
        if since.elapsed() >= allowed {
            let waited = humantime::format_duration(Duration::from_secs(since.elapsed().as_secs()));
            let error = Error::failed(format!(
                "pg_dump could not get its locks: it waited {waited} for {}, behind {}",
                wait.lock, wait.holders
            ))
            .hint(
                "end that session, or run the backup when no migration is running (--lock-timeout allows longer waits)",
            );
            return Ok((wait.pid, error));
        }
    }
}

/// Judges a failure of pg_dump by what is true afterwards.
async fn moved(
    leader: &Leader,
    checker: &Session,
    error: Error,
    unlocked: &[Unlocked],
    volatile: &mut Volatile,
) -> Result<Again> {
    let objects = unlocked.iter().map(|relation| (PG_CLASS, relation.oid)).collect();
    let gone = vanished::gone(&checker.client, &objects).await?;
    let gone: Vec<&Unlocked> = unlocked.iter().filter(|relation| gone.contains(&(PG_CLASS, relation.oid))).collect();
    if !gone.is_empty() {
        let names: Vec<String> = gone.iter().map(|relation| relation.name.to_string()).collect();
        volatile.extend(gone.iter().map(|relation| (RELATION.to_owned(), relation.name.clone())));
        return Ok(Again::Moved(
            error
                .context(format!("{} dropped meanwhile by another session", names.join(", ")))
                .hint("run the backup when no migration is running"),
        ));
    }
    let held = leader::holders(&checker.client, &leader.detection).await?;
    Ok(Again::Failed(match held {
        Some(held) => error.context(format!("in the way: {held}")),
        None => error,
    }))
}

const RELATION: &str = "relation";

/// Takes out of the table of contents what was dropped while it was read, where it is known to come and go; anything
/// else that was dropped means another attempt.
async fn without_vanished(
    leader: &mut Leader,
    checker: &Session,
    mut meta: ArchiveMetadata,
    excluded: &[Unlocked],
    volatile: &mut Volatile,
) -> Result<Result<ArchiveMetadata, Again>> {
    if let Some(stays) = still_there(checker, excluded).await? {
        volatile.remove(&(RELATION.to_owned(), stays.clone()));
        let why = format!("{stays} was dropped by another session each time, and is there now");
        return Ok(Err(Again::Moved(Error::failed(why))));
    }
    let gone = vanished::gone(&checker.client, &vanished::described(&meta.entries)).await?;
    let direct = meta.entries.iter().filter(|e| vanished::object(e).is_some_and(|object| gone.contains(&object)));
    let direct: HashSet<i32> = direct.map(|e| e.dump_id).collect();
    let mut out = direct.clone();
    with_dependents(&meta.entries, &mut out);
    let mut unexpected = Vec::new();
    for entry in meta.entries.iter().filter(|e| out.contains(&e.dump_id)) {
        let name = TableName::new(namespace(entry), tag(entry));
        // What hangs on an object goes with it; anything else that needs it is there, by another definition.
        let is_known = if direct.contains(&entry.dump_id) {
            !volatile.insert((kind(entry), name.clone()))
        } else {
            HANGS_ON.contains(&entry.desc)
        };
        if !is_known {
            unexpected.push(name.to_string());
        }
    }
    if !unexpected.is_empty() {
        let why = format!("{} dropped by another session while the catalogue was read", unexpected.join(", "));
        return Ok(Err(Again::Moved(Error::failed(why).hint("run the backup when no migration is running"))));
    }
    let names = meta.entries.iter().filter(|e| direct.contains(&e.dump_id));
    let mut names: Vec<TableName> = names.map(|e| TableName::new(namespace(e), tag(e))).collect();
    names.extend(excluded.iter().map(|relation| relation.name.clone()));
    for name in &names {
        tracing::warn!("{name} is left out: another session drops it again and again");
        leader.detection.omitted.push(Omitted {
            kind: "dropped object".to_owned(),
            name: name.to_string(),
            reason: "another session made and dropped it while the catalogue was read".to_owned(),
        });
    }
    meta.entries.retain(|entry| !out.contains(&entry.dump_id));
    let excluded: HashSet<u32> = excluded.iter().map(|relation| relation.oid).collect();
    let is_gone = |oid: u32| excluded.contains(&oid) || gone.contains(&(PG_CLASS, oid));
    leader.detection.relations.retain(|relation| !is_gone(relation.oid));
    Ok(Ok(meta))
}

/// The kind of an entry's object; a name of relations is shared by tables, views and sequences.
fn kind(entry: &Entry) -> String {
    match vanished::object(entry) {
        Some((PG_CLASS, _)) => RELATION.to_owned(),
        _ => entry.desc.to_string(),
    }
}

/// Entries that are a part of another entry's object.
const HANGS_ON: [ObjectType; 7] = [
    ObjectType::Acl,
    ObjectType::Comment,
    ObjectType::SecurityLabel,
    ObjectType::SequenceSet,
    ObjectType::SequenceOwnedBy,
    ObjectType::Default,
    ObjectType::MaterializedViewData,
];

/// Waits until every relation that was left out is gone; returns one that is not.
async fn still_there(checker: &Session, excluded: &[Unlocked]) -> Result<Option<TableName>> {
    let begun = Instant::now();
    let objects: HashSet<(u32, u32)> = excluded.iter().map(|relation| (PG_CLASS, relation.oid)).collect();
    loop {
        let gone = vanished::gone(&checker.client, &objects).await?;
        let stays = excluded.iter().find(|relation| !gone.contains(&(PG_CLASS, relation.oid)));
        match stays {
            Some(_) if begun.elapsed() < GONE => tokio::time::sleep(Duration::from_millis(50)).await,
            stays => return Ok(stays.map(|relation| relation.name.clone())),
        }
    }
}
