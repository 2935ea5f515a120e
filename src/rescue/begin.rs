//! The begin of a rescue: the run, a session of its own, and rows of the run in a temporary table.

use libpgdump::Entry;

use crate::error::{Error, Result};
use crate::format::manifest::{Table, TableKind};
use crate::human;
use crate::objects::flow::Flow;
use crate::objects::lines::{Chosen, Part};
use crate::objects::stored_run::StoredRun;
use crate::objects::{index, key_columns};
use crate::postgres::connect::session::Session;
use crate::postgres::source::detect;
use crate::postgres::target::live::Live;
use crate::postgres::target::load::{self, Loader};
use crate::postgres::target::staging::{self, Staging};
use crate::rescue::options::Options;
use crate::rescue::pushdown;
use crate::restore::rows::compare;
use crate::restore::wanted::Wanted;
use crate::runs::{find, holders, select};
use crate::sql::names::TableName;
use crate::store::Store;

/// Room for temporary tables in the memory of the server's process, before they go to its disk.
const BUFFERS: &str = "SET temp_buffers = '64MB'";

/// A rescue that has begun.
pub(crate) struct Begun {
    pub(crate) source: StoredRun,
    pub(crate) loader: Loader,
    /// The place of the table in the manifest.
    at: (usize, usize),
    key: Vec<String>,
    condition: Option<String>,
    with_referenced: bool,
    /// The database's definitions, once they were needed.
    entries: Option<Vec<Entry>>,
    /// Stored bytes of the objects that were read for rows.
    pub(crate) read_bytes: u64,
    /// Rows of the table that is rescued.
    pub(crate) rows: u64,
    /// The pieces that are read, in words, where not all of them are.
    pub(crate) plan: Option<String>,
    /// Every row of the run that a live row could be was read.
    pub(crate) extra_is_known: bool,
}

impl Begun {
    /// Finds the run and connects.
    ///
    /// # Errors
    /// Kind `Usage` for what is not there, a pooler that shares its sessions, a standby.
    pub(crate) async fn new(store: Store, options: &Options) -> Result<Self> {
        let found = find::trusted(&store, &options.run, &options.keys.trust).await?;
        let source = StoredRun::new(store, found.manifest, &options.keys.identities)?;
        let manifest = &source.manifest;
        let at = select::table(manifest, &options.table)?;
        let target = options.target.with_own_money(manifest.source.lc_monetary.is_none());
        let session = Session::connect_unpooled(&target, options.connect_timeout, "rescue").await?;
        let server = detect::server(&session.client).await?;
        if server.in_recovery {
            return Err(Error::usage(format!("{} is a standby: it cannot be written to", session.info())));
        }
        if server.identity != manifest.source.identity {
            tracing::info!("{} is not the database that run {} was made of", session.info(), manifest.run);
        }
        let loader = Loader::of(session);
        let waits = options.lock_timeout.as_millis();
        loader.execute(&format!("{BUFFERS}; SET lock_timeout = {waits}"), "set up the session").await?;
        Ok(Self {
            source,
            loader,
            at,
            key: options.key.clone(),
            condition: options.condition.clone(),
            with_referenced: options.with_referenced,
            entries: None,
            read_bytes: 0,
            rows: 0,
            plan: None,
            extra_is_known: true,
        })
    }

    /// The table that is rescued, and the objects that hold its rows.
    ///
    /// # Errors
    /// Kind `Usage` for a table whose rows the run does not contain.
    pub(crate) async fn found(&mut self) -> Result<(TableName, Table, Vec<(TableName, Table)>)> {
        let holders = self.holders(self.at).await?;
        let schema = self.source.manifest.schemas.get(self.at.0);
        let found = schema.and_then(|schema| Some((schema, schema.tables.get(self.at.1)?)));
        let (schema, table) = found.ok_or_else(|| Error::failed("a table of the manifest is missing"))?;
        let name = TableName::new(&schema.name, &table.name);
        self.rows = holders.iter().map(|(_, table)| table.rows).sum();
        Ok((name, table.clone(), holders))
    }

    /// Brings the rows of the table into a temporary table.
    ///
    /// # Errors
    /// Kind `Usage` for a table without a key, or a key that it does not have.
    pub(crate) async fn stage_table(&mut self) -> Result<Staging> {
        let schema = self.source.manifest.schemas.get(self.at.0);
        let table = schema.and_then(|schema| Some((schema, schema.tables.get(self.at.1)?)));
        let (schema, table) = table.ok_or_else(|| Error::failed("a table of the manifest is missing"))?;
        let name = TableName::new(&schema.name, &table.name);
        if table.filter.is_some() {
            return Err(Error::usage(format!("{name} belongs to an extension, which makes some of its rows"))
                .hint("`pgstow peek` shows the rows that the run contains"));
        }
        let (key, all) = (self.key.clone(), self.condition.is_none());
        let staging = self.stage(&name, self.at, 0, key, all).await?;
        self.rows = staging.1;
        Ok(staging.0)
    }

    /// Brings the rows of another table into a temporary table; none of them is chosen.
    ///
    /// # Errors
    /// Kind `Usage` for a table that the run does not have.
    pub(crate) async fn stage_other(&mut self, name: &TableName, number: usize, key: Vec<String>) -> Result<Staging> {
        let schemas = self.source.manifest.schemas.iter().enumerate();
        let mut tables = schemas.flat_map(|(at, schema)| {
            schema.tables.iter().enumerate().map(move |(number, table)| (at, number, schema, table))
        });
        let found = tables.find(|(_, _, schema, table)| schema.name == name.schema && table.name == name.table);
        let at = found.map(|(at, number, _, _)| (at, number)).ok_or_else(|| {
            Error::usage(format!("run {} has no table {name}, which missing rows refer to", self.source.manifest.run))
        })?;
        let (staging, _) = self.stage(name, at, number, key, false).await?;
        staging.choose(&self.loader, None).await?;
        staging.check_key(&self.loader).await?;
        Ok(staging)
    }

    async fn stage(
        &mut self,
        name: &TableName,
        at: (usize, usize),
        number: usize,
        key: Vec<String>,
        all: bool,
    ) -> Result<(Staging, u64)> {
        let live = Live::find(self.loader.session(), name).await?;
        let key = if key.is_empty() { live.key.clone() } else { key };
        if key.is_empty() {
            return Err(Error::usage(format!("{name} has no primary key, and no unique index without NULL"))
                .hint("--key names the columns by which its rows are told apart"));
        }
        let wanted = if number == 0 { self.wanted(&live).await? } else { Vec::new() };
        let holders = self.holders(at).await?;
        let rows = holders.iter().map(|(_, table)| table.rows).sum();
        let chosen = Chosen::new(&self.source, holders, &wanted).await?;
        let plan = chosen.plan().unwrap_or_else(|| format!("{} objects", chosen.parts.len()));
        tracing::info!("reading {name}: {plan}, {}", human::size(chosen.bytes));
        self.read_bytes += chosen.bytes;
        self.extra_is_known &= chosen.pieces == chosen.of || wanted.iter().all(|wanted| key.contains(&wanted.column));
        self.plan = chosen.plan().or(self.plan.take());
        let mut live = Some(live);
        let mut staging = None;
        for part in chosen.parts {
            let (columns, flow) = part.open(&self.source).await?;
            if let Some(live) = live.take() {
                check_key(&live, &columns, &key)?;
                staging = Some(Staging::create(&self.loader, live, columns.clone(), key.clone(), number, all).await?);
            }
            if let Some(staging) = &staging {
                self.load(staging, part, &columns, flow).await?;
            }
        }
        let staging =
            staging.ok_or_else(|| Error::usage(format!("{name} has no rows in run {}", self.source.manifest.run)))?;
        Ok((staging, rows))
    }

    /// Brings the rows of one part into the temporary table.
    async fn load(&self, staging: &Staging, part: Part, columns: &[String], mut flow: Flow) -> Result<()> {
        let doing = format!("read the rows of {}", part.name);
        let counted = self.loader.copy(&staging.copy(columns), &mut flow.rows, &doing).await;
        let (fingerprint, _) = flow.finish().await?;
        let counted = counted.map_err(|error| {
            error.hint("a type of the live table does not take what the run holds: `pgstow peek` shows the rows")
        })?;
        if part.is_whole() {
            compare(&Wanted { schema: part.name.schema, table: part.table }, &fingerprint)?;
        }
        if counted != fingerprint.rows {
            return Err(load::miscounted(&doing, fingerprint.rows, counted));
        }
        Ok(())
    }

    /// The bounds of columns whose order is certain, with constants as PostgreSQL writes them. A constant
    /// that it does not take excludes nothing here: the condition itself will be refused.
    async fn wanted(&self, live: &Live) -> Result<Vec<index::Wanted>> {
        let condition = self.condition.as_deref().unwrap_or_default();
        let mut found = Vec::new();
        let into_itself = live.references(self.loader.session()).await?.iter().any(|one| one.to == live.name);
        if self.with_referenced && into_itself {
            // A row that is referred to may stand in any piece.
            return Ok(found);
        }
        for mut wanted in pushdown::restrictions(condition, &live.name.table) {
            let Some(column) = live.column(&wanted.column) else { continue };
            if key_columns::order(&column.kind).is_none() {
                continue;
            }
            let mut certain = true;
            for end in wanted.spans.iter_mut().flat_map(|(from, to)| [from, to]) {
                let Some(text) = end else { continue };
                match staging::as_written(&self.loader, text, &column.kind).await {
                    Some(written) => *text = written,
                    None => certain = false,
                }
            }
            if certain {
                found.push(wanted);
            }
        }
        Ok(found)
    }

    /// The objects that hold the rows of a table.
    async fn holders(&mut self, at: (usize, usize)) -> Result<Vec<(TableName, Table)>> {
        let table = self.source.manifest.schemas.get(at.0).and_then(|schema| schema.tables.get(at.1));
        if table.is_some_and(|table| table.kind == TableKind::PartitionedTable) && self.entries.is_none() {
            self.entries = Some(self.source.table_of_contents(&self.source.manifest.database.object).await?.entries);
        }
        holders::of(&self.source.manifest, at, self.entries.as_deref().unwrap_or_default())
    }
}

/// Refuses a key that one of both sides does not have.
fn check_key(live: &Live, columns: &[String], key: &[String]) -> Result<()> {
    for name in key {
        let known: Vec<&str> = columns.iter().map(String::as_str).collect();
        let place = match live.column(name) {
            None => "the live table",
            Some(_) if !columns.contains(name) => "the run",
            Some(_) => continue,
        };
        let error = Error::usage(format!("column {name:?} of the key of {} is not in {place}", live.name));
        let near = select::nearest(name, &known).join(" or ");
        return Err(if near.is_empty() || known.contains(&name.as_str()) {
            error.hint("--key names columns that both have")
        } else {
            error.hint(format!("did you mean {near}?"))
        });
    }
    Ok(())
}
