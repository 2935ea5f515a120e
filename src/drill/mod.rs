//! `pgstow drill`: a run is restored into a scratch database, every table is read back and compared with the manifest,
//! the definitions with the run's own, and the scratch is dropped whatever happens.
//!
//! Subscriptions are left out and cron jobs come back inactive. What the server cannot hold (an extension that is not
//! there) is left out with its tables and named: it is not proven, which is no difference.

pub(crate) mod sample;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Mutex;
use std::time::Instant;

use libpgdump::{Entry, ObjectType};
use serde::Serialize;
use tokio_util::task::TaskTracker;

use crate::archive::catalogue::{namespace, tag, with_dependents};
use crate::archive::compose;
use crate::cli::args::Global;
use crate::cli::drill::Drill;
use crate::cli::output;
use crate::cli::restore::Restore;
use crate::cli::run::Outcome;
use crate::drill::sample::Sample;
use crate::error::{Error, Kind, Result};
use crate::format::manifest::{Manifest, Table, Tool};
use crate::human;
use crate::postgres::connect::conninfo::ConnInfo;
use crate::postgres::connect::session::Session;
use crate::postgres::programs::pg_restore;
use crate::postgres::programs::pg_restore::PgRestore;
use crate::postgres::target;
use crate::postgres::target::load;
use crate::postgres::target::load::{Loader, Readable};
use crate::restore::flow::Source;
use crate::restore::{COMMITS, LeaveOut, Loaded, PrivateFile, database, major, restore_loaded};
use crate::runs::receipts;
use crate::seal::digest::Fingerprint;
use crate::shutdown::Shutdown;
use crate::sql::names::quote;
use crate::sql::statements::{copy_columns, names};
use crate::store::Store;

/// Lines of the definitions' difference that are told.
const LINES: usize = 20;

/// What a drill found; also the receipt it leaves in the store.
#[derive(Debug, Serialize)]
struct Receipt {
    kind: &'static str,
    run: String,
    at: String,
    ok: bool,
    tool: Tool,
    server_version: String,
    tables: u64,
    rows: u64,
    seconds: f64,
    restore_seconds: f64,
    differences: Vec<String>,
    not_proven: Vec<String>,
    notes: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sample: Option<Sample>,
}

/// Proves a run.
///
/// # Errors
/// What kept the drill from coming to a verdict. Damage of the store is a verdict.
pub(crate) async fn run(arguments: Drill, global: &Global, shutdown: &Shutdown) -> Result<Outcome> {
    let Begun { store, on, maintenance, loaded, scratch } = tokio::select! {
        begun = Box::pin(begin(&arguments, global)) => begun?,
        // Nothing is to be undone yet.
        error = shutdown.requested() => return Err(error),
    };
    let commits = TaskTracker::new();
    let result = tokio::select! {
        biased;
        error = shutdown.requested() => Err(error),
        result = Box::pin(drill(&arguments, global, &loaded, &maintenance, &scratch, commits.clone())) => result,
    };
    commits.close();
    if tokio::time::timeout(COMMITS, commits.wait()).await.is_err() {
        tracing::debug!("a commit into the scratch database was cut");
    }
    drop_scratch(&on, &arguments, &scratch).await?;
    let receipt = match result {
        Ok(receipt) => receipt,
        Err(error) if error.kind() == Kind::Damage => {
            let mut receipt = Receipt::new(&loaded.manifest, String::new());
            receipt.differences.push(error.message());
            receipt
        }
        Err(error) => return Err(error),
    };
    report(&store, &receipt, global.json).await
}

/// What a drill stands on.
struct Begun {
    store: Store,
    on: ConnInfo,
    maintenance: Session,
    loaded: Loaded,
    scratch: String,
}

/// Everything before the scratch database is made.
async fn begin(arguments: &Drill, global: &Global) -> Result<Begun> {
    let store = Store::open(&global.store).await?;
    let on = ConnInfo::resolve(Some(&arguments.on))?;
    let maintenance = Session::connect_unpooled(&on, arguments.connect_timeout, "drill").await?;
    let loaded = Loaded::read(store.clone(), &arguments.run, &arguments.identity).await?;
    let scratch = arguments.scratch_name.clone().unwrap_or_else(|| {
        format!("pgstow_drill_{}_{:06x}", loaded.manifest.run.to_lowercase(), rand::random::<u32>() & 0x00FF_FFFF)
    });
    let server = target::server(&maintenance).await?;
    if server.databases.contains(&scratch) {
        return Err(Error::usage(format!("database {scratch:?} exists; a drill drops its scratch database"))
            .hint("drop it, or choose another name with --scratch-name"));
    }
    Ok(Begun { store, on, maintenance, loaded, scratch })
}

/// The server waits until all its processes have let go of a database that is dropped; a process of an extension that
/// never does (seen with pglogical 2.4.2) would keep the drill for ever.
const DROP_LIMIT: &str = "SET statement_timeout = '5min'";

/// Drops the scratch database, with a connection of its own: the others may be what broke.
async fn drop_scratch(on: &ConnInfo, arguments: &Drill, scratch: &str) -> Result<()> {
    let session = Session::connect(on, arguments.connect_timeout, "drill").await?;
    let sql = format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", quote(scratch));
    let dropping = async {
        target::execute(&session, DROP_LIMIT, "drop the scratch database").await?;
        target::execute(&session, &sql, "drop the scratch database").await
    };
    dropping.await.map_err(|error| error.hint(format!("drop {scratch:?} by hand")))?;
    session.close().await;
    Ok(())
}

async fn drill(
    arguments: &Drill,
    global: &Global,
    loaded: &Loaded,
    maintenance: &Session,
    scratch: &str,
    commits: TaskTracker,
) -> Result<Receipt> {
    let started = Instant::now();
    let manifest = &loaded.manifest;
    let mut receipt = Receipt::new(manifest, version(maintenance.server_version_num()));
    let mut leave_out = leave_out(loaded, maintenance, scratch, &mut receipt).await?;
    if !arguments.tables.is_empty() {
        let (entries, store) = (&loaded.meta.entries, &loaded.source.store);
        let (sample, told) = sample::choose(&arguments.tables, manifest, entries, store, &mut leave_out).await?;
        tracing::info!("a sample of {} of {} tables: {}", sample.tables.len(), sample.of, sample.tables.join(", "));
        receipt.sample = Some(sample);
        receipt.notes.extend(told);
    }
    let info = maintenance.info().with_database(scratch);
    let restore = Restore {
        run: manifest.run.clone(),
        to: String::new(),
        profile: None,
        create: true,
        roles: arguments.roles,
        role_passwords: false,
        schema: Vec::new(),
        table: Vec::new(),
        data_only: false,
        schema_only: false,
        into_existing: false,
        truncate: false,
        allow_source: false,
        no_owner: false,
        no_analyze: true,
        full_analyze: false,
        jobs: arguments.jobs,
        pg_bin_dir: arguments.pg_bin_dir.clone(),
        connect_timeout: arguments.connect_timeout,
        identity: arguments.identity.clone(),
    };
    Box::pin(restore_loaded(&restore, global, loaded, info.clone(), &leave_out, commits.clone())).await?;
    receipt.restore_seconds = started.elapsed().as_secs_f64();
    rows(arguments, loaded, &leave_out, &info, &mut receipt).await?;
    let scratch = Scratch { info, maintenance, commits };
    Box::pin(definitions(&restore, loaded, &leave_out, &scratch, &mut receipt)).await?;
    receipt.ok = receipt.differences.is_empty();
    receipt.seconds = started.elapsed().as_secs_f64();
    Ok(receipt)
}

/// `15.20` of 150020.
fn version(number: u32) -> String {
    format!("{}.{}", number / 10_000, number % 10_000)
}

impl Receipt {
    fn new(manifest: &Manifest, server_version: String) -> Self {
        Self {
            kind: "drill",
            run: manifest.run.clone(),
            at: jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
            ok: false,
            tool: Tool { name: "pgstow".to_owned(), version: env!("CARGO_PKG_VERSION").to_owned() },
            server_version,
            tables: 0,
            rows: 0,
            seconds: 0.0,
            restore_seconds: 0.0,
            differences: Vec::new(),
            not_proven: Vec::new(),
            notes: Vec::new(),
            sample: None,
        }
    }
}

/// Subscriptions, and extensions the scratch database cannot have, with all that depends on them.
async fn leave_out(loaded: &Loaded, session: &Session, scratch: &str, receipt: &mut Receipt) -> Result<LeaveOut> {
    let entries = &loaded.meta.entries;
    let server = target::server(session).await?;
    let cron = target::cron_database(session).await?;
    let mut out = LeaveOut { quiet: true, ..LeaveOut::of_gaps(loaded) };
    receipt.not_proven.extend(
        crate::restore::gaps(entries, &out)
            .into_iter()
            .map(|lost| format!("{lost}: it needs what the run does not hold")),
    );
    let mut extensions: BTreeSet<&str> = BTreeSet::new();
    for entry in entries {
        let subscription = matches!(entry.desc, ObjectType::Subscription | ObjectType::SubscriptionTable)
            || (namespace(entry).is_empty() && tag(entry).starts_with("SUBSCRIPTION "));
        let mut without = subscription;
        if entry.desc == ObjectType::Extension {
            let why = if !server.extensions.contains(tag(entry)) {
                "is not on this server".to_owned()
            } else if tag(entry) == "pg_cron" && cron.as_deref() != Some(scratch) {
                let of = cron.as_deref().unwrap_or("none");
                format!("can only be in database {of:?} of this server: --scratch-name")
            } else {
                continue;
            };
            let tables = tables_of(&loaded.manifest, tag(entry));
            let told: Vec<String> = tables.iter().map(|(schema, table)| format!("{schema}.{table}")).collect();
            receipt.not_proven.push(format!("extension {} {why}; its tables: {}", tag(entry), told.join(", ")));
            out.tables.extend(tables);
            extensions.insert(tag(entry));
            without = true;
        }
        if without {
            out.entries.insert(entry.dump_id);
        }
    }
    if !extensions.is_empty() {
        follow(entries, &loaded.manifest, &extensions, &mut out.entries);
    }
    Ok(out)
}

fn tables_of(manifest: &Manifest, extension: &str) -> HashSet<(String, String)> {
    let all = manifest.schemas.iter().flat_map(|s| s.tables.iter().map(move |t| (s, t)));
    all.filter(|(_, t)| t.extension.as_deref() == Some(extension))
        .map(|(s, t)| (s.name.clone(), t.name.clone()))
        .collect()
}

/// Adds what depends on what is left out, and what is in schemas that hold nothing but tables of those extensions.
fn follow(entries: &[Entry], manifest: &Manifest, extensions: &BTreeSet<&str>, out: &mut HashSet<i32>) {
    let of = |t: &Table| t.extension.as_deref().is_some_and(|name| extensions.contains(name));
    let theirs: HashSet<&str> = manifest
        .schemas
        .iter()
        .filter(|s| s.tables.iter().any(of) && s.tables.iter().all(of))
        .map(|s| s.name.as_str())
        .collect();
    out.extend(entries.iter().filter(|e| theirs.contains(namespace(e))).map(|e| e.dump_id));
    with_dependents(entries, out);
}

/// A table that was read back.
struct Seen<'a> {
    schema: &'a str,
    table: &'a Table,
    root: String,
    print: Fingerprint,
    /// Its columns came back in another order.
    reordered: bool,
}

/// Reads every table back and compares it with the manifest.
async fn rows(
    arguments: &Drill,
    loaded: &Loaded,
    leave_out: &LeaveOut,
    info: &ConnInfo,
    receipt: &mut Receipt,
) -> Result<()> {
    let manifest = &loaded.manifest;
    let mut wanted: Vec<(&str, &Table)> = manifest
        .schemas
        .iter()
        .flat_map(|schema| schema.tables.iter().map(|table| (schema.name.as_str(), table)))
        .filter(|(schema, table)| crate::verify::holds_rows(manifest, schema, table))
        .filter(|(schema, table)| !leave_out.tables.contains(&((*schema).to_owned(), table.name.clone())))
        // That others are empty proves nothing of them.
        .filter(|(_, table)| receipt.sample.is_none() || table.rows > 0)
        .collect();
    wanted.sort_by_key(|(_, table)| table.raw_bytes);
    let queue = Mutex::new(wanted);
    let seen: Mutex<Vec<Seen<'_>>> = Mutex::new(Vec::new());
    let differences: Mutex<Vec<String>> = Mutex::new(Vec::new());
    let next = || queue.lock().unwrap_or_else(std::sync::PoisonError::into_inner).pop();
    let worker = || async {
        let session = Session::connect(info, arguments.connect_timeout, "drill").await?;
        let loader = Loader::connect(info, arguments.connect_timeout).await?;
        while let Some((schema, table)) = next() {
            let doing = format!("read {schema}.{} back", table.name);
            match load::readable(&session, schema, &table.name).await? {
                None => differences
                    .lock()
                    .unwrap_or_else(std::sync::PoisonError::into_inner)
                    .push(format!("table {schema}.{} is missing", table.name)),
                Some(readable) => {
                    let mut print = loader.fingerprint(&copy(schema, table, &readable), &doing).await?;
                    let differs = print.rows == table.rows && print.digest() != table.digest;
                    let saved = if differs { saved_order(&loaded.source, table, &readable).await } else { None };
                    if let Some(saved) = &saved {
                        print = loader.fingerprint(&copy(schema, table, saved), &doing).await?;
                    }
                    let (root, reordered) = (readable.root, saved.is_some());
                    let one = Seen { schema, table, root, print, reordered };
                    seen.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(one);
                }
            }
        }
        loader.close().await;
        session.close().await;
        Ok::<(), Error>(())
    };
    futures::future::try_join_all((0..arguments.jobs).map(|_| worker())).await?;
    receipt.differences.extend(differences.into_inner().unwrap_or_default());
    compare(&seen.into_inner().unwrap_or_default(), receipt);
    Ok(())
}

/// The columns in the order in which they were saved, where they came back in another one: those of a table that
/// inherits from one which got a column later. `pg_dump` makes the columns of parents first.
async fn saved_order(source: &Source, table: &Table, readable: &Readable) -> Option<Readable> {
    let (head, flow) = source.file(&table.file);
    let head = head.await;
    drop(flow);
    let head = head.ok()?;
    let saved = copy_columns(&head.copy)?.strip_prefix('(')?.strip_suffix(')')?;
    let sorted = |list| {
        let mut names = names(list);
        names.sort();
        names
    };
    let other = saved != readable.columns && sorted(saved) == sorted(&readable.columns);
    other.then(|| Readable { columns: saved.to_owned(), root: readable.root.clone() })
}

/// What a backup reads of the table.
fn copy(schema: &str, table: &Table, readable: &Readable) -> String {
    let name = format!("{}.{}", quote(schema), quote(&table.name));
    match &table.filter {
        Some(filter) => format!("COPY (SELECT {} FROM {name} {filter}) TO STDOUT", readable.columns),
        None if readable.columns.is_empty() => format!("COPY {name} TO STDOUT"),
        None => format!("COPY {name} ({}) TO STDOUT", readable.columns),
    }
}

fn sum(digest: &str) -> u128 {
    digest.rsplit(':').next().and_then(|hex| u128::from_str_radix(hex, 16).ok()).unwrap_or(0)
}

/// Tables one by one; those that differ and are partitions, together with the others of their root: rows of hash
/// partitions by an enumeration move when they are loaded again.
fn compare(seen: &[Seen<'_>], receipt: &mut Receipt) {
    let mut roots: BTreeMap<&str, (i128, u128)> = BTreeMap::new();
    let (mut differing, mut moved) = (Vec::new(), BTreeSet::new());
    for one in seen {
        receipt.tables += 1;
        receipt.rows += one.print.rows;
        let root = roots.entry(&one.root).or_default();
        root.0 += i128::from(one.print.rows) - i128::from(one.table.rows);
        root.1 = root.1.wrapping_add(sum(&one.print.digest())).wrapping_sub(sum(&one.table.digest));
        if one.print.rows != one.table.rows || one.print.digest() != one.table.digest {
            differing.push(one);
        } else if one.reordered {
            receipt.notes.push(format!(
                "{}.{}: its columns are in another order than they were, as pg_dump makes those of parents first",
                one.schema, one.table.name
            ));
        }
    }
    for one in differing {
        let name = format!("{}.{}", one.schema, one.table.name);
        if roots.get(one.root.as_str()) == Some(&(0, 0)) {
            moved.insert(one.root.clone());
        } else if one.table.extension.is_some() && one.print.rows == one.table.rows {
            receipt.notes.push(format!(
                "{name}: compared by count; its extension's triggers, or the drill (cron jobs are inactive), change rows as they are loaded"
            ));
        } else {
            receipt.differences.push(format!(
                "{name}: {} rows restored, {} saved{}",
                one.print.rows,
                one.table.rows,
                if one.print.rows == one.table.rows { ", with another content" } else { "" }
            ));
        }
    }
    receipt.notes.extend(
        moved.into_iter().map(|root| format!("{root}: rows moved between its hash partitions; compared as a whole")),
    );
}

/// The scratch database, and how it is made.
struct Scratch<'a> {
    info: ConnInfo,
    maintenance: &'a Session,
    commits: TaskTracker,
}

impl Scratch<'_> {
    /// Makes it again, empty.
    async fn anew(&self, loaded: &Loaded, timeout: std::time::Duration) -> Result<()> {
        let name = self.info.database();
        let drop = format!("DROP DATABASE {} WITH (FORCE)", quote(name));
        let create = database::create(&loaded.meta.entries, name, self.maintenance.server_version_num());
        let session = Session::connect(self.maintenance.info(), timeout, "drill").await?;
        // Not to be cut: the server would go on without us, and make it after we have dropped it.
        let making = self.commits.spawn(async move {
            target::execute(&session, DROP_LIMIT, "drop the scratch database").await?;
            target::execute(&session, &drop, "drop the scratch database").await?;
            target::execute(&session, &create, "make the scratch database again").await?;
            session.close().await;
            Ok::<_, Error>(())
        });
        making.await.map_err(|error| Error::failed(format!("make the scratch database again: {error}")))?
    }
}

/// Compares the definitions with the run's own.
///
/// PostgreSQL prints some expressions in other words once they were restored: `s IN ('a', 'b')` of a `varchar` is the best
/// known. So where the texts differ, `pg_restore` alone makes the definitions of the same archive, in a database made
/// anew, and what that prints is compared.
async fn definitions(
    restore: &Restore,
    loaded: &Loaded,
    leave_out: &LeaveOut,
    scratch: &Scratch<'_>,
    receipt: &mut Receipt,
) -> Result<()> {
    let tools = loaded.tools(restore)?;
    let server = scratch.maintenance.server_version_num();
    let saved = major(&loaded.manifest.source.server_version);
    if server / 10_000 != saved || tools.major != major(&loaded.manifest.source.pg_dump_version) {
        receipt.notes.push(format!(
            "definitions were not compared: saved from PostgreSQL {saved}, restored into {} with programs of {}",
            server / 10_000,
            tools.major
        ));
        return Ok(());
    }
    // Entries of our own for what `pg_dump` leaves out: it will leave them out again.
    // A refresh is no definition.
    let own = |e: &Entry| {
        e.desc == ObjectType::MaterializedViewData
            || e.defn.as_deref().is_some_and(|defn| defn.starts_with("DO $pgstow"))
    };
    let kept = loaded.meta.entries.iter().filter(|e| !own(e) && !leave_out.entries.contains(&e.dump_id));
    let archive = PrivateFile::new(&compose::head(&loaded.meta, kept.cloned().collect())?)?;
    let (saved, restored) = tokio::try_join!(
        pg_restore::definitions_of_archive(&tools, &archive.path),
        pg_restore::definitions_of_database(&tools, &scratch.info)
    )?;
    if differences(&saved, &restored, DIFFER).is_empty() {
        return Ok(());
    }
    scratch.anew(loaded, restore.connect_timeout).await?;
    let by_pg_restore = async {
        let (tools, info) = (tools.clone(), scratch.info.clone());
        let stock = PgRestore { tools, info, server_version_num: server, no_event_triggers: false };
        for section in ["--section=pre-data", "--section=post-data"] {
            stock.file("restore definitions by pg_restore alone", &[section], &archive.path).await?;
        }
        pg_restore::definitions_of_database(&stock.tools, &scratch.info).await
    };
    match by_pg_restore.await.map(|stock| differences(&stock, &restored, DIFFER)) {
        Ok(left) if left.is_empty() => {
            receipt.notes.push("definitions: PostgreSQL prints some in other words once they were restored".to_owned());
            receipt.notes.extend(differences(&saved, &restored, REWORDED));
        }
        Ok(left) => receipt.differences.extend(left),
        Err(error) => {
            receipt.notes.push(format!("definitions: pg_restore alone could not make them: {error}"));
            receipt.differences.extend(differences(&saved, &restored, DIFFER));
        }
    }
    Ok(())
}

/// How lines of definitions that differ are told: those of the saved text, and those of the restored one.
const DIFFER: [&str; 2] = ["definition saved, not restored", "definition restored, not saved"];
const REWORDED: [&str; 2] = ["  saved as", "  printed after any restore as"];

/// What one text of definitions has and the other has not, in some lines, each behind these words.
fn differences(saved: &str, restored: &str, words: [&str; 2]) -> Vec<String> {
    let (saved, restored) = (comparable(saved), comparable(restored));
    if saved == restored {
        return Vec::new();
    }
    let (one, other): (HashSet<&str>, HashSet<&str>) =
        (saved.iter().copied().collect(), restored.iter().copied().collect());
    let [before, after] = words;
    let lost = saved.iter().filter(|line| !other.contains(*line)).map(|line| format!("{before}: {}", line.trim()));
    let new = restored.iter().filter(|line| !one.contains(*line)).map(|line| format!("{after}: {}", line.trim()));
    let mut told: Vec<String> = lost.chain(new).take(LINES).collect();
    if told.is_empty() {
        told.push("definitions are in another order".to_owned());
    }
    told
}

/// The lines without what differs by design: keys of `\restrict`, versions in the head.
fn comparable(text: &str) -> Vec<&str> {
    // The encoding is that of the text, which is UTF8 for every database but those in SQL_ASCII.
    let by_design =
        ["\\restrict ", "\\unrestrict ", "-- Dumped ", "-- Started on ", "-- Completed on ", "SET client_encoding = "];
    text.lines().filter(|line| !line.is_empty() && !by_design.iter().any(|words| line.starts_with(words))).collect()
}

async fn report(store: &Store, receipt: &Receipt, json: bool) -> Result<Outcome> {
    receipts::leave(store, &receipt.run, receipt.kind, receipt).await;
    if json {
        output::print_json(receipt)?;
    } else {
        output::print(&text(receipt))?;
    }
    Ok(if !receipt.ok {
        Outcome::Damage
    } else if receipt.not_proven.is_empty() {
        Outcome::Done
    } else {
        Outcome::Partial
    })
}

fn text(receipt: &Receipt) -> String {
    let verdict = match (receipt.ok, receipt.not_proven.is_empty()) {
        (true, true) => "PROVEN",
        (true, false) => "proven but for what this server cannot hold",
        (false, _) => "NOT what was saved",
    };
    let sampled = match &receipt.sample {
        Some(sample) => format!(" in a sample of {} of {} tables", sample.tables.len(), sample.of),
        None => String::new(),
    };
    let mut text = format!(
        "run {} restored into PostgreSQL {}: {verdict}{sampled}; {} tables, {} rows, {:.1} s of which restore {:.1} s\n",
        receipt.run,
        receipt.server_version,
        human::count(receipt.tables),
        human::count(receipt.rows),
        receipt.seconds,
        receipt.restore_seconds
    );
    if let Some(sample) = receipt.sample.as_ref().filter(|_| receipt.ok) {
        text.push_str(&format!("  proven: {}\n", human::plain(&sample.tables.join(", "))));
    }
    for (title, lines) in
        [("difference", &receipt.differences), ("not proven", &receipt.not_proven), ("note", &receipt.notes)]
    {
        for line in lines {
            text.push_str(&format!("  {title}: {}\n", human::plain(line)));
        }
    }
    text
}
