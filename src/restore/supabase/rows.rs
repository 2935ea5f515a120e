//! Rows of tables that are there already: the platform's, and those of extensions.
//!
//! An empty table whose columns are those of the run takes the rows as they are, in one transaction, compared with the
//! manifest. Any other goes through a temporary table: columns are matched by name, and what is inserted is what has
//! no row with the same key there; rows that are there are never changed. `--truncate` empties the tables first.
//! Triggers and foreign keys are off where the role may turn them off; the foreign keys are counted afterwards, so a row
//! that refers to nothing is reported. Where it may not, tables are loaded one by one in the order of their foreign keys.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use crate::error::{Error, Kind, Result};
use crate::objects::flow::Flow;
use crate::postgres::error::is_rejection;
use crate::postgres::target::foreign_keys::ForeignKey;
use crate::postgres::target::load::Loader;
use crate::postgres::target::project::{Project, Table};
use crate::postgres::target::{foreign_keys, project};
use crate::restore::findings::Ledger;
use crate::restore::rows;
use crate::restore::rows::{Refused, Rows};
use crate::restore::supabase::platform;
use crate::restore::supabase::platform::Rows as Way;
use crate::restore::wanted::{Wanted, referred_first};
use crate::restore::work::Work;
use crate::seal::digest::Fingerprint;
use crate::sql::names::{TableName, quote};
use crate::sql::statements::name;

/// Name of the temporary table.
const STAGE: &str = "pg_temp.pgstow_rows";

/// Loads rows of tables that are there.
pub(crate) struct Managed<'a> {
    /// The restore.
    pub(crate) work: &'a Work<'a>,
    /// The target.
    pub(crate) project: &'a Project,
    /// Takes what is refused.
    pub(crate) ledger: &'a Ledger,
    /// Reads and compares rows.
    pub(crate) rows: Arc<Rows>,
    /// Empty the tables first.
    pub(crate) replace: bool,
}

/// The tables that were loaded.
#[derive(Default)]
struct Done {
    /// All rows of the run are in the table.
    whole: BTreeSet<TableName>,
    /// Some may be missing.
    partly: BTreeSet<TableName>,
}

impl Managed<'_> {
    /// Loads what can be loaded; returns the tables of `pg_cron`'s jobs.
    ///
    /// # Errors
    /// Damage of the store and lost connections; everything else is noted.
    pub(crate) async fn load(&self, tables: Vec<Wanted>) -> Result<Vec<Wanted>> {
        let mut jobs = Vec::new();
        let mut wanted = Vec::new();
        for table in tables.into_iter().filter(|wanted| wanted.table.rows > 0) {
            match platform::rows(&table.schema, &table.table.name) {
                Way::Jobs => jobs.push(table),
                Way::Leave(why) => self.ledger.left("rows of", &shown(&table), why),
                Way::Cannot(why, step) => {
                    self.ledger.lost("rows of", &shown(&table), &format!("{} rows: {why}", table.table.rows), step);
                }
                Way::Load => match self.project.tables.get(&table.table_name()) {
                    Some(there) if there.fillable => wanted.push(table),
                    Some(_) => {
                        let why = format!("{} rows; role {} may not insert any", table.table.rows, self.project.role);
                        let step = format!(
                            "GRANT INSERT ON {} TO {} and restore again with --schema {}",
                            table.name(),
                            quote(&self.project.role),
                            table.schema
                        );
                        self.ledger.lost("rows of", &shown(&table), &why, &step);
                    }
                    None => self.missing(&table),
                },
            }
        }
        if wanted.is_empty() {
            return Ok(jobs);
        }
        let loader = self.connect().await?;
        let replica = loader.replica_role().await;
        if self.replace {
            let may =
                |wanted: &&Wanted| self.project.tables.get(&wanted.table_name()).is_some_and(|table| table.emptyable);
            let emptied: Vec<Wanted> = wanted.iter().filter(may).cloned().collect();
            loader.execute("BEGIN", "empty the tables").await?;
            self.rows.empty(&loader, &emptied, replica).await?;
            loader.execute("COMMIT", "empty the tables").await?;
        }
        let keys = foreign_keys::all(loader.session()).await?;
        let done = Mutex::new(Done::default());
        if replica {
            loader.close().await;
            wanted.sort_by_key(|wanted| wanted.table.raw_bytes);
            self.at_once(wanted, &done).await?;
        } else {
            self.ledger.note(
                "the role may not set session_replication_role: the platform's triggers fired as its tables were loaded, \
                 one by one in the order of their foreign keys"
                    .to_owned(),
            );
            let mut loader = loader;
            let roots = foreign_keys::roots(loader.session()).await?;
            for table in referred_first(wanted, &keys, &roots) {
                loader = self.one(loader, &table, false, &done).await?;
            }
            loader.close().await;
        }
        self.count_orphans(&keys, &done.into_inner().unwrap_or_else(PoisonError::into_inner)).await?;
        Ok(jobs)
    }

    async fn connect(&self) -> Result<Loader> {
        Loader::connect(&self.work.info, self.work.options.connect_timeout).await
    }

    fn missing(&self, wanted: &Wanted) {
        let rows = wanted.table.rows;
        if platform::passes_by(&wanted.schema, &wanted.table.name) {
            let why = format!("{rows} rows; the platform makes and drops these partitions day by day");
            return self.ledger.left("rows of", &shown(wanted), &why);
        }
        let step = wanted.table.extension.as_ref().map_or_else(
            || {
                let whence = format!("pgstow download --table {} has its definition and rows", shown(wanted));
                if platform::makes_schema(&wanted.schema) {
                    format!(
                        "turn on the feature it belongs to, then restore again with --schema {}; {whence}",
                        wanted.schema
                    )
                } else {
                    format!("make what the table needs, then the table: {whence}")
                }
            },
            |extension| format!("enable the extension {extension}, then restore again with --schema {}", wanted.schema),
        );
        self.ledger.lost(
            "rows of",
            &shown(wanted),
            &format!("{rows} rows; this project does not have the table"),
            &step,
        );
    }

    async fn at_once(&self, wanted: Vec<Wanted>, done: &Mutex<Done>) -> Result<()> {
        let workers = wanted.len().min(usize::from(self.work.options.jobs));
        let queue = Mutex::new(wanted);
        let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let worker = || async {
            let mut loader = self.connect().await?;
            loader.replica_role().await;
            while let Some(table) = next() {
                loader = self.one(loader, &table, true, done).await?;
            }
            loader.close().await;
            Ok::<(), Error>(())
        };
        futures::future::try_join_all((0..workers).map(|_| worker())).await.map(drop)
    }

    /// Loads one table in one transaction. What the server refuses is noted and leaves the table as it was; the session
    /// is then another one, since a COPY that was refused leaves answers behind that nobody waits for.
    async fn one(&self, loader: Loader, wanted: &Wanted, replica: bool, done: &Mutex<Done>) -> Result<Loader> {
        let (loader, whole) = match self.in_transaction(&loader, wanted, replica).await {
            Ok(whole) => (loader, whole),
            Err(error) if error.kind() != Kind::Damage && is_rejection(&error) => {
                let step = "give the role what it lacks, or load `pgstow download --table` of it by hand";
                let why = format!("{} rows: {}", wanted.table.rows, error.cause());
                self.ledger.lost("rows of", &shown(wanted), &why, step);
                drop(loader);
                let fresh = self.connect().await?;
                if replica {
                    fresh.replica_role().await;
                }
                (fresh, false)
            }
            Err(error) => return Err(error),
        };
        let mut done = done.lock().unwrap_or_else(PoisonError::into_inner);
        let tables = if whole { &mut done.whole } else { &mut done.partly };
        tables.insert(wanted.table_name());
        Ok(loader)
    }

    async fn in_transaction(&self, loader: &Loader, wanted: &Wanted, replica: bool) -> Result<bool> {
        let doing = format!("load {}", shown(wanted));
        let (head, flow) = self.rows.run.file(&wanted.table.file);
        let Ok(head) = head.await else {
            flow.finish().await?;
            return Err(Error::damage(format!("{}: has no COPY statement", wanted.table.file.key)));
        };
        let Some(table) = self.project.tables.get(&wanted.table_name()) else { return Ok(false) };
        let columns = Columns::new(&head.copy, table);
        self.note_extra(wanted, &columns);
        loader.execute("BEGIN", &doing).await?;
        let empty = !crate::postgres::target::has_rows(loader.session(), &wanted.name()).await?;
        if !(empty && columns.missing.is_empty()) {
            let whole = self.merge(loader, wanted, &columns, flow, replica).await?;
            loader.execute("COMMIT", &doing).await?;
            return Ok(whole);
        }
        let copy = format!("COPY {}{} FROM stdin", wanted.name(), columns.listed());
        let (fingerprint, counted) = self.rows.copy(loader, &copy, flow, &doing).await?;
        rows::compare(wanted, &fingerprint)?;
        let mut whole = counted == fingerprint.rows;
        if whole && !replica {
            let back = format!("COPY {}{} TO STDOUT", wanted.name(), columns.listed());
            whole = loader.fingerprint(&back, &doing).await?.digest() == wanted.table.digest;
        }
        loader.execute("COMMIT", &doing).await?;
        if !whole {
            let why = format!(
                "{} rows were sent, {counted} taken, some changed by triggers of the platform",
                fingerprint.rows
            );
            self.ledger.lost("rows of", &shown(wanted), &why, "compare with `pgstow download --table` of it");
        }
        self.count(wanted, counted, fingerprint.bytes);
        Ok(whole)
    }

    fn count(&self, wanted: &Wanted, rows: u64, bytes: u64) {
        tracing::debug!(table = shown(wanted), rows, "loaded");
        self.work.note(|report| {
            report.tables += 1;
            report.rows += rows;
            report.raw_bytes += bytes;
        });
    }

    fn note_extra(&self, wanted: &Wanted, columns: &Columns) {
        if !columns.extra.is_empty() {
            self.ledger.note(format!(
                "{}: columns that the run does not have take their defaults: {}",
                shown(wanted),
                columns.extra.join(", ")
            ));
        }
    }

    /// Copies the rows into a temporary table and inserts those that are missing; true when all of them are in the table.
    async fn merge(
        &self,
        loader: &Loader,
        wanted: &Wanted,
        columns: &Columns,
        flow: Flow,
        replica: bool,
    ) -> Result<bool> {
        let doing = &format!("load {}", shown(wanted));
        let (table, session) = (wanted.name(), loader.session());
        let saved = self.stage(loader, wanted, columns, flow).await?;
        let common = columns.common();
        let unique = format!(
            "SELECT count(*) FROM pg_catalog.pg_index WHERE indisunique AND indrelid = {}::pg_catalog.regclass",
            crate::sql::names::literal(&table)
        );
        let had = project::count(session, &format!("SELECT count(*) FROM {table}"), doing).await?;
        let keyed = project::count(session, &unique, doing).await? > 0;
        let mut added = 0;
        if keyed || had == 0 {
            let insert = format!(
                "INSERT INTO {table} ({common}) OVERRIDING SYSTEM VALUE SELECT {common} FROM {STAGE} ON CONFLICT DO NOTHING"
            );
            added = project::run(session, &insert, doing).await?;
        }
        let mut lacking = 0;
        if added != saved.rows || !replica {
            let row = format!("ROW({common})::pg_catalog.text");
            let sql =
                format!("SELECT count(*) FROM (SELECT {row} FROM {STAGE} EXCEPT ALL SELECT {row} FROM {table}) x");
            lacking = project::count(session, &sql, doing).await?;
        }
        if lacking != 0 {
            let why = match (had, keyed) {
                (0, _) => "rows were changed by triggers of the platform as they were loaded",
                (_, true) => "rows: other rows with the same keys are there, and were kept",
                (_, false) => "rows: the table is not empty and has no key to compare them by",
            };
            let why = format!("{lacking} of {} {why}", saved.rows);
            self.ledger.lost("rows of", &shown(wanted), &why, "--truncate replaces what is there");
        }
        if had > 0 {
            let name = shown(wanted);
            self.ledger.note(format!("{name}: {had} rows were there; {added} of the run's {} were added", saved.rows));
        }
        self.count(wanted, added, saved.bytes);
        Ok(lacking == 0)
    }

    /// Copies the rows into a temporary table, compared with the manifest; reports values of columns that the table does
    /// not take.
    async fn stage(&self, loader: &Loader, wanted: &Wanted, columns: &Columns, flow: Flow) -> Result<Fingerprint> {
        let doing = &format!("load {}", shown(wanted));
        let select = |column: &String| match quote(column) {
            name if columns.missing.contains(column) => format!("NULL::pg_catalog.text AS {name}"),
            name => name,
        };
        let selected: Vec<String> = columns.all.iter().map(select).collect();
        let stage = format!(
            "CREATE TEMPORARY TABLE pgstow_rows ON COMMIT DROP AS SELECT {} FROM {} WITH NO DATA",
            selected.join(", "),
            wanted.name()
        );
        loader.execute(&stage, doing).await?;
        let copy = format!("COPY {STAGE}{} FROM stdin", columns.listed());
        let (fingerprint, _) = self.rows.copy(loader, &copy, flow, doing).await?;
        rows::compare(wanted, &fingerprint)?;
        for missing in &columns.missing {
            let sql = format!("SELECT count(*) FROM {STAGE} WHERE {} IS NOT NULL", quote(missing));
            self.note_missing(wanted, missing, project::count(loader.session(), &sql, doing).await?, columns);
        }
        Ok(fingerprint)
    }

    fn note_missing(&self, wanted: &Wanted, column: &str, values: i64, columns: &Columns) {
        let name = format!("{}.{column}", shown(wanted));
        if columns.computed.contains(column) {
            return self.ledger.note(format!("{name}: this project computes the column itself"));
        }
        if values == 0 {
            return self.ledger.left("column", &name, "this project does not have it; the run has no value in it");
        }
        let why = format!("{values} values; this project's table does not have the column");
        let step = format!(
            "add the column (the platform's: bring the project up to date) and load its values from pgstow download --table {}",
            shown(wanted)
        );
        self.ledger.lost("column", &name, &why, &step);
    }

    /// Reports rows that refer to missing rows: possible where triggers were off and something was not loaded.
    async fn count_orphans(&self, keys: &[ForeignKey], done: &Done) -> Result<()> {
        let loaded = |table: &TableName| done.whole.contains(table) || done.partly.contains(table);
        for key in keys.iter().filter(|k| k.is_validated && loaded(&k.from) && !done.whole.contains(&k.to)) {
            let doing = format!("count rows of {} that refer to nothing", key.from);
            let orphans = match project::count(&self.work.control, &key.count(), &doing).await {
                Ok(orphans) => orphans,
                Err(error) if is_rejection(&error) => {
                    self.ledger.note(format!("not checked: {}", error.message()));
                    continue;
                }
                Err(error) => return Err(error),
            };
            if orphans > 0 {
                let (name, from, to) = (&key.name, &key.from, &key.to);
                let why = format!("{orphans} rows of {from} refer to rows that {to} does not have");
                let step = format!("load what is missing in {to}, or delete them; found by: {}", key.count());
                self.ledger.lost("references of", &format!("{from} ({name})"), &why, &step);
            }
        }
        Ok(())
    }
}

/// Lists rows of a new table that the server refused.
pub(crate) fn lost(ledger: &Ledger, refused: &Refused) {
    let Refused { wanted, why } = refused;
    let step = format!("when the table can take them: load `pgstow download --table {}`", shown(wanted));
    ledger.lost("rows of", &shown(wanted), &format!("{} rows: {}", wanted.table.rows, why.cause()), &step);
}

/// The name of a table as the ledger shows it.
fn shown(wanted: &Wanted) -> String {
    wanted.table_name().to_string()
}

/// Columns of the run's rows beside those of the table that is there.
struct Columns {
    /// Of the run, in order.
    all: Vec<String>,
    /// Of the run, which the table does not take.
    missing: Vec<String>,
    /// Those of the missing ones that the table computes.
    computed: BTreeSet<String>,
    /// Of the table, which the run does not have.
    extra: Vec<String>,
}

impl Columns {
    fn new(copy: &str, table: &Table) -> Self {
        let all = copied(copy);
        let find = |name: &String| table.columns.iter().find(|column| column.name == *name);
        let missing = all.iter().filter(|name| find(name).is_none_or(|c| c.generated)).cloned().collect();
        let computed = all.iter().filter(|name| find(name).is_some_and(|c| c.generated)).cloned().collect();
        let extra = table.columns.iter().filter(|c| !c.generated && !all.contains(&c.name)).map(|c| c.name.clone());
        Self { missing, computed, extra: extra.collect(), all }
    }

    /// All columns of the run in brackets, as `COPY` wants them.
    fn listed(&self) -> String {
        if self.all.is_empty() {
            return String::new();
        }
        let names: Vec<String> = self.all.iter().map(|c| quote(c)).collect();
        format!(" ({})", names.join(", "))
    }

    /// The columns that both have.
    fn common(&self) -> String {
        let names: Vec<String> = self.all.iter().filter(|c| !self.missing.contains(c)).map(|c| quote(c)).collect();
        names.join(", ")
    }
}

/// The columns that a `COPY` statement of `pg_dump` names.
pub(crate) fn copied(copy: &str) -> Vec<String> {
    let inner = || {
        let (_, rest) = name(copy.strip_prefix("COPY ")?)?;
        let (_, rest) = name(rest.strip_prefix('.')?)?;
        rest.strip_prefix(" (")
    };
    let mut columns = Vec::new();
    let mut rest = inner();
    while let Some((column, more)) = rest.and_then(name) {
        columns.push(column);
        rest = more.strip_prefix(", ");
    }
    columns
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_of_a_copy_are_found_whatever_their_names() {
        assert_eq!(copied("COPY a.b (x, \"y, (z\", \"q\"\"r\") FROM stdin;"), ["x", "y, (z", "q\"r"]);
        assert_eq!(copied("COPY pg_temp.staged (x) FROM stdin;"), ["x"]);
        assert!(copied("COPY public.zero_columns  FROM stdin;").is_empty());
    }
}
