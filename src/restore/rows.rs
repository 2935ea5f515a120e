//! Loading the rows of many tables: who loads what when, and what is committed together.
//!
//! Tables of extensions come first, one after the other in the order of their foreign keys, which exist before their
//! rows. Then the others, biggest first, each by one session, which writes the rows as they stay (`FREEZE`): no index
//! build, foreign key or later vacuum has to come back to them. A table that would keep one session busy when all
//! others are done is loaded by several, piece by piece of its index. A session that loaded pieces is parked with its
//! transaction open; when the last piece was verified, all parked sessions of the table commit. When one of those
//! commits fails the table, which was empty, is emptied again.
//!
//! One file, since the plan, the queue of pieces and the commits share the parked sessions: apart, none can be checked.

use std::collections::{BTreeSet, HashSet, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio_util::task::TaskTracker;

use crate::error::{Error, Kind, Result};
use crate::format::manifest::Index;
use crate::objects::flow::{Before, Flow, Head};
use crate::objects::stored_run::StoredRun;
use crate::postgres::connect::conninfo::ConnInfo;
use crate::postgres::target::emptying::Emptied;
use crate::postgres::target::foreign_keys::{ForeignKey, Known};
use crate::postgres::target::load::Loader;
use crate::postgres::target::{emptying, foreign_keys, load};
use crate::restore::entry::is_refusal;
use crate::restore::forget::Forget;
use crate::restore::progress::Progress;
use crate::restore::wanted::{Wanted, referred_first};
use crate::seal::digest::Fingerprint;
use crate::sql::names::TableName;
use crate::sql::statements;

/// Times a further session is asked for, a quarter of a second apart, before the restore fails.
const CONNECTS: u32 = 8;

/// The tables that rows are loaded into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tables {
    /// New ones: this restore made them, so they are empty and nothing refers to them yet.
    New,
    /// Tables that were there; all rows of a table in one transaction.
    Existing {
        /// Remove what is in all of them first. Not table by table: the rows of one partition may go through the root
        /// into another one.
        replace: bool,
    },
}

/// Loads rows.
pub(crate) struct Rows {
    /// Their source.
    pub(crate) run: StoredRun,
    /// Their destination.
    pub(crate) info: ConnInfo,
    /// Longest time to connect.
    pub(crate) connect_timeout: Duration,
    /// Sessions at once.
    pub(crate) jobs: usize,
    /// The way into their tables.
    pub(crate) tables: Tables,
    /// Tables that are made here belong to the role of the session.
    pub(crate) no_owner: bool,
    /// Large tables may be loaded by several sessions. Between their commits a table holds some of its rows, and a
    /// program that is killed right there leaves it so: only where the database is marked, and the restore starts over.
    pub(crate) in_pieces: bool,
    /// Counts the bytes of COPY text taken so far.
    pub(crate) progress: Arc<Progress>,
    /// Commits that must not be cut in the middle.
    pub(crate) commits: TaskTracker,
    /// Longest wait for a lock of a table that exists.
    pub(crate) lock_timeout: Duration,
    /// Rows that are erased again, where all come in one transaction.
    pub(crate) forget: Option<Arc<Forget>>,
    /// Go on without the rows of a new table that the server refuses.
    pub(crate) goes_on: bool,
    /// Tables whose rows were refused.
    pub(crate) refused: Mutex<Vec<Refused>>,
}

/// The answer to an attempt to load a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tried {
    /// Its rows are there.
    Loaded,
    /// The server refused them; the session is of no more use, since answers may come that nobody waits for.
    Refused,
}

/// A table whose rows the server refused.
#[derive(Debug)]
pub(crate) struct Refused {
    pub(crate) wanted: Wanted,
    pub(crate) why: Error,
}

/// Work for one session.
#[derive(Debug, Clone, Copy)]
struct Unit {
    table: usize,
    piece: Option<usize>,
}

/// A table that is loaded by several sessions.
struct Large {
    index: Index,
    head: Head,
    state: Mutex<Pieces>,
}

#[derive(Default)]
struct Pieces {
    fingerprints: Vec<Option<Fingerprint>>,
    /// Sessions with an open transaction that still load.
    active: usize,
    /// Sessions with an open transaction that wait for the commit.
    parked: Vec<Loader>,
    /// The server refused a piece: none of them is committed.
    refused: bool,
}

struct Plan {
    tables: Vec<Wanted>,
    large: Vec<Option<Large>>,
    queue: Mutex<VecDeque<Unit>>,
    /// Small tables that were on the queue.
    small: usize,
    /// Sessions that load.
    sessions: AtomicUsize,
}

/// Small tables from which more sessions are worth their connecting.
const FURTHER_FROM: usize = 64;
/// Round trip that is worth as many sessions once more.
const FURTHER_EACH: Duration = Duration::from_millis(8);
/// Sessions for small tables in the place of one, at most.
const FURTHER_MOST: usize = 4;

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Rows {
    /// Loads the rows of these tables, given in the archive's order. Returns the tables whose rows the server refused,
    /// where the restore goes on without them.
    ///
    /// # Errors
    /// The first that came up; every transaction that was open is rolled back.
    pub(crate) async fn load(self: Arc<Self>, tables: Vec<Wanted>) -> Result<Vec<Refused>> {
        if let Tables::Existing { replace } = self.tables {
            self.all_or_nothing(tables, replace).await?;
            return Ok(Vec::new());
        }
        let (of_extensions, mut others): (Vec<Wanted>, Vec<Wanted>) =
            tables.into_iter().filter(|w| w.table.rows > 0).partition(|w| w.table.extension.is_some());
        if !of_extensions.is_empty() {
            let mut loader = self.session().await?;
            let keys = foreign_keys::all(loader.session()).await?;
            let roots = foreign_keys::roots(loader.session()).await?;
            for wanted in referred_first(of_extensions, &keys, &roots) {
                if self.try_whole(&loader, &wanted).await? == Tried::Refused {
                    loader = self.session().await?;
                }
            }
            loader.close().await;
        }
        others.sort_by_key(|w| std::cmp::Reverse(w.table.raw_bytes));
        let plan = Arc::new(self.plan(others).await?);
        let further = self.further(&plan).await?;
        let workers = self.jobs.min(locked(&plan.queue).len());
        let mut tasks = JoinSet::new();
        for worker in 0..workers + further {
            let (this, plan) = (Arc::clone(&self), Arc::clone(&plan));
            tasks.spawn(async move { if worker < workers { this.work(&plan).await } else { this.help(&plan).await } });
        }
        while let Some(ended) = tasks.join_next().await {
            ended.map_err(|error| Error::failed(format!("a loader broke: {error}")))??;
        }
        Ok(std::mem::take(&mut *locked(&self.refused)))
    }

    /// Loads the rows of one table again, by one session.
    ///
    /// # Errors
    /// As [`Self::load`]; a refusal too.
    pub(crate) async fn one(&self, wanted: &Wanted) -> Result<()> {
        let loader = self.session().await?;
        self.whole(&loader, wanted).await?;
        loader.close().await;
        Ok(())
    }

    /// Loads into tables that exist, in one transaction: all rows of all tables come, or nothing changes. What was in
    /// the tables is removed in it too, so that it is back when an object turns out to be damaged. References are
    /// counted before the commit, since they are not checked while triggers are off.
    async fn all_or_nothing(&self, tables: Vec<Wanted>, replace: bool) -> Result<()> {
        if replace {
            self.refuse_scattered(&tables).await?;
        }
        let loader = self.session().await?;
        let replica = loader.replica_role().await;
        if !replica {
            tracing::warn!("the role may not set session_replication_role: triggers fire and foreign keys are checked");
        }
        let keys = foreign_keys::all(loader.session()).await?;
        let tables = referred_first(tables, &keys, &foreign_keys::roots(loader.session()).await?);
        if let Err(error) = self.in_one(&loader, &tables, replace, replica).await {
            // Its locks go with it.
            drop(loader);
            return Err(self.with_holders(error, &tables).await);
        }
        // Not to be cut: what the server makes of a commit that was sent must be known.
        let committing = self.commits.spawn(async move {
            loader.execute("COMMIT", "load").await?;
            loader.close().await;
            Ok(())
        });
        committing.await.map_err(|error| Error::failed(format!("a commit broke: {error}")))?
    }

    /// The transaction of [`Self::all_or_nothing`], up to its commit. It waits for the locks of others, who live on, for
    /// a bounded time.
    async fn in_one(&self, loader: &Loader, tables: &[Wanted], replace: bool, replica: bool) -> Result<()> {
        let begin = format!("BEGIN; SET LOCAL lock_timeout = {}", self.lock_timeout.as_millis());
        loader.execute(&begin, "begin to load").await?;
        let unchanged = |error: Error| error.hint("nothing was changed");
        let keys = if replica { dangling(loader, tables, replace).await? } else { Vec::new() };
        if replace {
            self.empty(loader, tables, replica).await.map_err(unchanged)?;
        }
        for wanted in tables.iter().filter(|wanted| wanted.table.rows > 0) {
            self.load_open(loader, wanted, None).await.map_err(unchanged)?;
        }
        if let Some(forget) = &self.forget {
            forget.erase(loader.session()).await.map_err(unchanged)?;
        }
        refuse_dangling(loader, &keys).await
    }

    /// Adds who has the lock that was not to be had.
    async fn with_holders(&self, error: Error, tables: &[Wanted]) -> Error {
        if !error.is_sqlstate("55P03") {
            return error;
        }
        let names: Vec<String> = tables.iter().map(Wanted::name).collect();
        let held = async {
            let loader = self.session().await?;
            let held = emptying::holders(loader.session(), &names).await;
            loader.close().await;
            held
        };
        match held.await {
            Ok(held) if !held.is_empty() => error.hint(format!("in the way: {}", held.join("; "))),
            _ => error,
        }
    }

    /// Reads the indexes of large tables and lines the work up.
    async fn plan(&self, tables: Vec<Wanted>) -> Result<Plan> {
        let mut large = Vec::with_capacity(tables.len());
        let mut queue = VecDeque::new();
        let total: u64 = tables.iter().map(|wanted| wanted.table.raw_bytes).sum();
        let share = total / self.jobs.max(1) as u64;
        for (at, wanted) in tables.iter().enumerate() {
            let index = match &wanted.table.index {
                Some(object) if self.in_pieces && self.tables == Tables::New && wanted.table.raw_bytes > share => {
                    let found = self.run.index(&wanted.schema, &wanted.table, object).await?;
                    // Rows that go through another table (a partition's root) are loaded by one session: that table
                    // cannot be emptied for one of its partitions.
                    Some(found).filter(|(index, _)| into_itself(&index.copy, wanted))
                }
                _ => None,
            };
            match &index {
                Some((index, _)) => {
                    queue.extend((0..index.pieces.len()).map(|piece| Unit { table: at, piece: Some(piece) }));
                }
                None => queue.push_back(Unit { table: at, piece: None }),
            }
            large.push(index.map(|(index, head)| {
                let fingerprints = vec![None; index.pieces.len()];
                Large { index, head, state: Mutex::new(Pieces { fingerprints, ..Pieces::default() }) }
            }));
        }
        let small = queue.iter().filter(|unit| unit.piece.is_none()).filter_map(|unit| tables.get(unit.table));
        let sessions = AtomicUsize::new(self.jobs);
        let small = small.filter(|wanted| self.is_small(wanted)).count();
        Ok(Plan { tables, large, queue: Mutex::new(queue), small, sessions })
    }

    /// The number of further sessions for small tables. At a distance a session only waits; as many more share that
    /// wait as the round trip is long, not more than half of the connections that the server has free.
    async fn further(&self, plan: &Plan) -> Result<usize> {
        let small = plan.small;
        if small < FURTHER_FROM {
            return Ok(0);
        }
        let loader = self.session().await?;
        let round_trip = loader.round_trip().await?;
        let times = usize::try_from(round_trip.as_millis() / FURTHER_EACH.as_millis()).unwrap_or(FURTHER_MOST);
        let mut further = self.jobs * times.min(FURTHER_MOST - 1);
        if further > 0 {
            let free = loader.free_connections().await.unwrap_or_default();
            further = further.min((free / 2).saturating_sub(self.jobs)).min(small / FURTHER_FROM * self.jobs);
            tracing::debug!(further, free, ?round_trip, "further sessions for small tables");
            plan.sessions.fetch_add(further, Ordering::Relaxed);
        }
        loader.close().await;
        Ok(further)
    }

    /// A further session, for small tables only. It is nothing anybody asked for: without a connection it does not come.
    async fn help(&self, plan: &Plan) -> Result<()> {
        let mut loader = match Loader::connect(&self.info, self.connect_timeout).await {
            Ok(loader) => Some(loader),
            Err(error) => {
                tracing::debug!("no further session: {error}");
                return Ok(());
            }
        };
        while let (Some(session), Some(tables)) = (loader.take(), self.small_ones(plan, false)) {
            loader = self.load_small(session, &tables).await?;
        }
        if let Some(loader) = loader {
            loader.close().await;
        }
        Ok(())
    }

    /// Takes small tables off the queue: the largest of them when nothing but small ones is left (`all_else`), otherwise
    /// from its end, where the smallest are, or none.
    fn small_ones<'p>(&self, plan: &'p Plan, all_else: bool) -> Option<Vec<&'p Wanted>> {
        let mut queue = locked(&plan.queue);
        let small = |unit: &Unit| {
            let wanted = plan.tables.get(unit.table).filter(|_| unit.piece.is_none());
            wanted.filter(|wanted| self.is_small(wanted))
        };
        if all_else && queue.front().is_none_or(|unit| small(unit).is_none()) {
            return None;
        }
        let together = Self::together(plan.small, plan.sessions.load(Ordering::Relaxed));
        let mut tables = Vec::with_capacity(together);
        while tables.len() < together
            && let Some(wanted) = if all_else { queue.front() } else { queue.back() }.and_then(small)
        {
            if all_else {
                queue.pop_front()
            } else {
                queue.pop_back()
            };
            tables.push(wanted);
        }
        (!tables.is_empty()).then_some(tables)
    }

    /// Loads small tables together, those that cannot be by themselves; returns the session while it is of use.
    async fn load_small(&self, session: Loader, tables: &[&Wanted]) -> Result<Option<Loader>> {
        let (loaded, alone) = self.several(&session, tables).await?;
        let mut loader = if loaded { Some(session) } else { None };
        for wanted in alone {
            let session = match loader.take() {
                Some(session) => session,
                None => self.session().await?,
            };
            if self.try_whole(&session, wanted).await? == Tried::Loaded {
                loader = Some(session);
            }
        }
        Ok(loader)
    }

    pub(crate) async fn session(&self) -> Result<Loader> {
        let mut tries = 0;
        loop {
            match Loader::connect(&self.info, self.connect_timeout).await {
                Ok(loader) => return Ok(loader),
                Err(error) if tries >= CONNECTS || !error.is_sqlstate("53300") => return Err(error),
                Err(_too_many) => tokio::time::sleep(Duration::from_millis(250)).await,
            }
            tries += 1;
        }
    }

    /// One session after the other works until nothing is left.
    async fn work(&self, plan: &Plan) -> Result<()> {
        let mut loader: Option<Loader> = None;
        let mut open: Option<usize> = None;
        loop {
            if open.is_none()
                && let Some(tables) = self.small_ones(plan, true)
            {
                let session = match loader.take() {
                    Some(session) => session,
                    None => self.session().await?,
                };
                loader = self.load_small(session, &tables).await?;
                continue;
            }
            let unit = locked(&plan.queue).pop_front();
            let goes_on = unit.is_some_and(|unit| unit.piece.is_some() && Some(unit.table) == open);
            if !goes_on
                && let Some(table) = open.take()
                && let Some(done) = loader.take()
            {
                self.park(plan, table, done).await?;
            }
            let Some(unit) = unit else { break };
            let wanted = plan.tables.get(unit.table).ok_or_else(|| Error::failed("a table of the plan is missing"))?;
            let session = match loader.take() {
                Some(session) => session,
                None => self.session().await?,
            };
            match (unit.piece, plan.large.get(unit.table).and_then(Option::as_ref)) {
                (Some(piece), Some(large)) => {
                    if open.is_none() {
                        locked(&large.state).active += 1;
                        session.execute("BEGIN", "begin to load").await?;
                        open = Some(unit.table);
                    }
                    match self.piece(&session, wanted, large, piece).await {
                        Ok(fingerprint) => {
                            if let Some(slot) = locked(&large.state).fingerprints.get_mut(piece) {
                                *slot = Some(fingerprint);
                            }
                        }
                        Err(error) => {
                            // Dropped with its transaction; those of others that loaded pieces go the same way.
                            drop(session);
                            open = None;
                            self.give_up(plan, unit.table, large, wanted, error)?;
                            continue;
                        }
                    }
                }
                _ => {
                    if self.try_whole(&session, wanted).await? == Tried::Refused {
                        continue;
                    }
                }
            }
            loader = Some(session);
        }
        if let Some(loader) = loader {
            loader.close().await;
        }
        Ok(())
    }

    /// Loads all rows of a table in one transaction, and keeps a refusal where the restore goes on.
    async fn try_whole(&self, loader: &Loader, wanted: &Wanted) -> Result<Tried> {
        match self.whole(loader, wanted).await {
            Ok(()) => Ok(Tried::Loaded),
            Err(error) => self.keep(wanted, error).map(|()| Tried::Refused),
        }
    }

    /// Keeps the refusal of a table's rows; any other error is returned.
    fn keep(&self, wanted: &Wanted, error: Error) -> Result<()> {
        if !self.goes_on || error.kind() == Kind::Damage || !is_refusal(&error) {
            return Err(error);
        }
        locked(&self.refused).push(Refused { wanted: wanted.clone(), why: error });
        Ok(())
    }

    /// Takes a large table of which one piece was refused off the queue, with all its transactions.
    fn give_up(&self, plan: &Plan, table: usize, large: &Large, wanted: &Wanted, error: Error) -> Result<()> {
        locked(&plan.queue).retain(|unit| unit.table != table);
        let parked = {
            let mut state = locked(&large.state);
            state.active -= 1;
            let first = !std::mem::replace(&mut state.refused, true);
            if first {
                self.keep(wanted, error)?;
            }
            std::mem::take(&mut state.parked)
        };
        drop(parked);
        Ok(())
    }

    /// Refuses to replace the rows of some, not all, of the partitions of a table whose rows come in through the
    /// topmost one, which `pg_dump` does where a hash may be another one here: they may belong into the others, whose
    /// rows stay.
    async fn refuse_scattered(&self, tables: &[Wanted]) -> Result<()> {
        let loader = self.session().await?;
        let leaves = load::hash_partitions(&loader).await?;
        loader.close().await;
        let wanted = |schema: &str, name: &str| tables.iter().find(|w| w.schema == schema && w.table.name == name);
        for (schema, name, root) in &leaves {
            let Some(one) = wanted(schema, name).filter(|w| w.table.rows > 0) else { continue };
            let others = leaves.iter().filter(|(_, _, of)| of == root);
            let left: Vec<String> =
                others.filter(|(s, n, _)| wanted(s, n).is_none()).map(|(s, n, _)| format!("{s}.{n}")).collect();
            if left.is_empty() {
                continue;
            }
            let (head, flow) = self.run.file(&one.table.file);
            let through = matches!(head.await, Ok(head) if !into_itself(&head.copy, one));
            drop(flow);
            if through {
                return Err(Error::usage(format!(
                    "{schema}.{name} cannot be replaced without the other partitions of {root}: its rows may belong into them"
                ))
                .hint(format!("add {}", left.iter().map(|leaf| format!("--table {leaf}")).collect::<Vec<_>>().join(" ")))
                .hint("nothing was changed"));
            }
        }
        Ok(())
    }

    /// Removes what is in these tables, in the session's open transaction, and nothing else: without the `replica` role
    /// foreign keys act and triggers fire, so what they would change elsewhere is refused.
    pub(crate) async fn empty(&self, loader: &Loader, tables: &[Wanted], replica: bool) -> Result<()> {
        let doing = "empty the tables";
        // Of some tables of extensions only some rows are saved: the others are the extension's own.
        let (partly, wholly): (Vec<&Wanted>, Vec<&Wanted>) = tables.iter().partition(|w| w.table.filter.is_some());
        let names: Vec<String> = wholly.iter().map(|wanted| wanted.name()).collect();
        let saved: Vec<String> = partly.iter().map(|wanted| wanted.name()).collect();
        if !replica {
            refuse_actions(loader, &names, &saved).await?;
            emptying::refuse_fires(loader.session(), &names, Emptied::Truncated, replica).await?;
        }
        emptying::refuse_fires(loader.session(), &saved, Emptied::Deleted, replica).await?;
        loader.execute("SAVEPOINT before", doing).await?;
        let only: Vec<String> = names.iter().map(|name| format!("ONLY {name}")).collect();
        let together = format!("TRUNCATE {}", only.join(", "));
        if !names.is_empty()
            && let Err(error) = loader.execute(&together, doing).await
        {
            if !emptying::is_deletable(&error) {
                return Err(error);
            }
            tracing::debug!("{error}; emptying one table after the other");
            loader.execute("ROLLBACK TO before", doing).await?;
            for name in &names {
                let doing = format!("empty {name}");
                loader.execute("SAVEPOINT before", &doing).await?;
                if let Err(error) = loader.execute(&format!("TRUNCATE ONLY {name}"), &doing).await {
                    if !emptying::is_deletable(&error) {
                        return Err(error);
                    }
                    // Others refer to it, or the role may only delete: its rows can be replaced all the same.
                    loader.execute("ROLLBACK TO before", &doing).await?;
                    let one = std::slice::from_ref(name);
                    emptying::refuse_fires(loader.session(), one, Emptied::Deleted, replica).await?;
                    loader.execute(&format!("DELETE FROM ONLY {name}"), &doing).await?;
                }
                loader.execute("RELEASE before", &doing).await?;
            }
        }
        for wanted in partly {
            let (name, filter) = (wanted.name(), wanted.table.filter.as_deref().unwrap_or_default());
            let saved = format!("SELECT tableoid, ctid FROM {name} {filter}");
            let delete = format!("DELETE FROM {name} WHERE (tableoid, ctid) IN ({saved})");
            loader.execute(&delete, &format!("empty {name}")).await?;
        }
        Ok(())
    }

    /// Loads all rows of a table in one transaction.
    async fn whole(&self, loader: &Loader, wanted: &Wanted) -> Result<()> {
        let doing = format!("load {}", wanted.table_name());
        let (head, flow) = self.begin(wanted).await?;
        let frozen = self.begin_frozen(loader, wanted, &head.copy).await;
        if frozen.is_none() {
            loader.execute("BEGIN", &doing).await?;
        }
        self.rows_of(loader, wanted, &head, flow, frozen).await?;
        loader.execute("COMMIT", &doing).await
    }

    /// Loads all rows of a table in the session's open transaction.
    async fn load_open(&self, loader: &Loader, wanted: &Wanted, frozen: Option<String>) -> Result<()> {
        let (head, flow) = self.begin(wanted).await?;
        self.rows_of(loader, wanted, &head, flow, frozen).await
    }

    async fn begin(&self, wanted: &Wanted) -> Result<(Before, Flow)> {
        let (head, flow) = self.run.file(&wanted.table.file);
        let Ok(head) = head.await else {
            flow.finish().await?;
            return Err(Error::damage(format!("{}: has no COPY statement", wanted.table.file.key)));
        };
        Ok((head, flow))
    }

    async fn rows_of(
        &self,
        loader: &Loader,
        wanted: &Wanted,
        head: &Before,
        flow: Flow,
        frozen: Option<String>,
    ) -> Result<()> {
        let doing = format!("load {}", wanted.table_name());
        let preamble = head.preamble();
        if !preamble.is_empty() {
            loader.execute(preamble, &doing).await?;
        }
        let (fingerprint, counted) = self.copy(loader, frozen.as_ref().unwrap_or(&head.copy), flow, &doing).await?;
        compare(wanted, &fingerprint)?;
        // Triggers of an extension's own tables may change what is kept.
        if counted != fingerprint.rows && wanted.table.extension.is_none() {
            return Err(load::miscounted(&doing, fingerprint.rows, counted));
        }
        Ok(())
    }

    /// Begins a transaction in which the rows of a new table can be written frozen, which asks for its being emptied
    /// there; returns the statement that does. `None`, without a transaction, where that cannot be.
    async fn begin_frozen(&self, loader: &Loader, wanted: &Wanted, copy: &str) -> Option<String> {
        if self.tables != Tables::New || wanted.table.extension.is_some() || !into_itself(copy, wanted) {
            return None;
        }
        let statement = format!("{}FROM stdin WITH (FREEZE);", copy.trim_end().strip_suffix("FROM stdin;")?);
        let begin = format!("BEGIN; TRUNCATE ONLY {}", wanted.name());
        match loader.execute(&begin, "begin to load").await {
            Ok(()) => Some(statement),
            Err(refused) => {
                tracing::debug!("{refused}");
                loader.execute("ROLLBACK", "begin to load").await.ok().and(None)
            }
        }
    }

    /// Loads one piece in the session's open transaction.
    async fn piece(&self, loader: &Loader, wanted: &Wanted, large: &Large, number: usize) -> Result<Fingerprint> {
        let doing = format!("load {}.{}", wanted.schema, wanted.table.name);
        let piece = large.index.pieces.get(number).ok_or_else(|| Error::failed("a piece is missing"))?;
        let flow = self.run.piece(&wanted.table.file, piece, &large.head, number)?;
        let (fingerprint, counted) = self.copy(loader, &large.index.copy, flow, &doing).await?;
        if counted == fingerprint.rows {
            Ok(fingerprint)
        } else {
            Err(load::miscounted(&doing, fingerprint.rows, counted))
        }
    }

    /// Takes rows by a COPY statement; returns what was read and how many rows the server counted.
    pub(crate) async fn copy(
        &self,
        loader: &Loader,
        copy: &str,
        mut flow: Flow,
        doing: &str,
    ) -> Result<(Fingerprint, u64)> {
        let counted = loader.copy(copy, &mut flow.rows, doing).await;
        let read = flow.finish().await;
        match (counted, read) {
            (Ok(counted), Ok((fingerprint, _after))) => {
                self.progress.taken.fetch_add(fingerprint.bytes, Ordering::Relaxed);
                Ok((fingerprint, counted))
            }
            // Damage is the cause of a COPY that failed with it; otherwise the reader only saw the session end.
            (_, Err(damage)) if damage.kind() == crate::error::Kind::Damage => Err(damage),
            (Err(error), _) | (_, Err(error)) => Err(error),
        }
    }

    /// Keeps a session's transaction open until all pieces of its table are verified; the last one commits all.
    async fn park(&self, plan: &Plan, table: usize, loader: Loader) -> Result<()> {
        let (Some(wanted), Some(Some(large))) = (plan.tables.get(table), plan.large.get(table)) else {
            return Err(Error::failed(format!("table number {table} is not loaded in pieces")));
        };
        let (parked, fingerprint) = {
            let mut state = locked(&large.state);
            state.active -= 1;
            if state.refused {
                return Ok(());
            }
            state.parked.push(loader);
            let all: Option<Vec<Fingerprint>> = state.fingerprints.iter().copied().collect();
            match all {
                Some(fingerprints) if state.active == 0 => {
                    let mut whole = Fingerprint::default();
                    for fingerprint in &fingerprints {
                        whole.append(fingerprint);
                    }
                    (std::mem::take(&mut state.parked), whole)
                }
                _ => return Ok(()),
            }
        };
        compare(wanted, &fingerprint)?;
        let (info, timeout, name) = (self.info.clone(), self.connect_timeout, wanted.name());
        // Not to be cut between two commits: what is running is waited for even when the restore is asked to stop.
        let committing = self.commits.spawn(async move {
            let mut parked = parked.into_iter();
            let mut some = false;
            while let Some(loader) = parked.next() {
                if let Err(error) = loader.execute("COMMIT", &format!("load {name}")).await {
                    // The others roll back: they hold locks that emptying the table would wait for.
                    drop(loader);
                    parked.for_each(drop);
                    // A connection that broke may have committed.
                    if some || error.sqlstate().is_none() {
                        load::truncate(&info, timeout, &name).await?;
                    }
                    return Err(error);
                }
                some = true;
                loader.close().await;
            }
            Ok(())
        });
        committing.await.map_err(|error| Error::failed(format!("a commit broke: {error}")))?
    }
}

/// The foreign keys of these tables, each with the rows that refer to nothing before anything is changed: those are not
/// the fault of this restore. Those that it removes itself are not asked for.
async fn dangling(loader: &Loader, tables: &[Wanted], replace: bool) -> Result<Vec<(ForeignKey, Known)>> {
    let names: Vec<String> = tables.iter().map(Wanted::name).collect();
    let removed: HashSet<TableName> =
        tables.iter().filter(|w| replace && w.table.filter.is_none()).map(Wanted::table_name).collect();
    let mut keys = Vec::new();
    for key in foreign_keys::touching(loader.session(), &names).await? {
        let doing = format!("check the references of {}", key.from);
        let before = if removed.contains(&key.from) {
            Known::default()
        } else {
            foreign_keys::dangling(loader.session(), &key, &doing).await?
        };
        keys.push((key, before));
    }
    Ok(keys)
}

/// Refuses to commit rows that refer to rows which do not exist.
async fn refuse_dangling(loader: &Loader, keys: &[(ForeignKey, Known)]) -> Result<()> {
    let mut dangling = Vec::new();
    for (key, before) in keys {
        let doing = format!("check the references of {}", key.from);
        let rows = foreign_keys::new_dangling(loader.session(), key, before, &doing).await?;
        if rows > 0 {
            let (name, from, to) = (&key.name, &key.from, &key.to);
            dangling.push(format!("{rows} rows of {from} would refer to rows that {to} does not have ({name})"));
        }
    }
    if dangling.is_empty() {
        return Ok(());
    }
    Err(Error::failed(dangling.join("; "))
        .hint("restore the tables that they refer to as well, or first")
        .hint("nothing was changed"))
}

/// Refuses to empty tables whose rows take rows of other tables with them, or their values.
async fn refuse_actions(loader: &Loader, wholly: &[String], partly: &[String]) -> Result<()> {
    let acting = emptying::acting(loader.session(), wholly, partly).await?;
    let Some((to, _, _)) = acting.first() else { return Ok(()) };
    let tables: BTreeSet<&String> = acting.iter().map(|(_, from, _)| from).collect();
    let said: Vec<String> = acting.iter().map(|(to, from, action)| format!("{from} ({action}, to {to})")).collect();
    let words: Vec<String> = tables.iter().map(|table| format!("--table {table}")).collect();
    Err(Error::usage(format!(
        "empty {to}: the role may not set session_replication_role, so rows of other tables would change with it: {}",
        said.join(", ")
    ))
    .hint(format!("replace those as well: add {}", words.join(" ")))
    .hint("or let a role that may set session_replication_role restore, as a superuser may"))
}

/// True when a COPY statement names the table itself.
pub(super) fn into_itself(copy: &str, wanted: &Wanted) -> bool {
    let parsed = || {
        let (schema, rest) = statements::name(copy.strip_prefix("COPY ")?)?;
        let (table, _) = statements::name(rest.strip_prefix('.')?)?;
        Some(schema == wanted.schema && table == wanted.table.name)
    };
    parsed().unwrap_or(false)
}

/// All rows of a table must be those of the manifest.
pub(crate) fn compare(wanted: &Wanted, fingerprint: &Fingerprint) -> Result<()> {
    let table = &wanted.table;
    if fingerprint.rows == table.rows && fingerprint.digest() == table.digest && fingerprint.bytes == table.raw_bytes {
        return Ok(());
    }
    Err(Error::damage(format!(
        "{}: its rows are not those of the manifest ({} rows, the manifest says {})",
        table.file.key, fingerprint.rows, table.rows
    )))
}
