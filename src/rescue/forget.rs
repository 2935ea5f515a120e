//! Rows of the forget list in a rescue: they, and what hangs on them, are taken out of the temporary tables before
//! anything is compared, so that they never count as missing.
//!
//! A row may hang on an erased one over tables that are not rescued. Those between are read from the run as well; a listed
//! table is not where its keys are what the foreign key refers to. The foreign keys are those of the live database.

use std::collections::HashSet;

use crate::archive::foreign_keys::ForeignKey;
use crate::error::{Error, Kind, Result};
use crate::postgres::connect::session::Session;
use crate::postgres::target::foreign_keys::declared;
use crate::postgres::target::ground::{Ground, Table};
use crate::postgres::target::live::Live;
use crate::postgres::target::staging::Staging;
use crate::rescue::begin::Begun;
use crate::restore::forget::keys::Keys;
use crate::restore::forget::list::List;
use crate::restore::forget::{Forget, Forgotten};
use crate::sql::names::TableName;

/// A list that was read, with the tables that it needs.
pub(crate) struct Ready {
    forget: Forget,
    foreign: Vec<ForeignKey>,
}

/// Takes the rows out. Tables that had to be read for it are added to `staged`.
///
/// # Errors
/// Kind `Usage` for a list that cannot be applied as a whole: nothing is written without it.
pub(crate) async fn forget(begun: &mut Begun, staged: &mut Vec<Staging>, list: &List) -> Result<Forgotten> {
    let own: Vec<TableName> = staged.iter().map(|one| one.live.name.clone()).collect();
    let ready = read(begun, staged, &own, 0, list).await?;
    let ground = ground(begun, staged).await?;
    begun.loader.execute("BEGIN", "erase the rows of the forget list").await?;
    let done = ready.erase(begun.loader.session(), ground).await.map_err(|error| error.hint("nothing was changed"))?;
    begun.loader.execute("COMMIT", "erase the rows of the forget list").await?;
    Ok(done)
}

/// Reads what is needed to say which rows of these tables hang on erased ones; temporary tables are numbered from `first`.
///
/// # Errors
/// As [`forget`].
pub(crate) async fn read(
    begun: &mut Begun,
    staged: &mut Vec<Staging>,
    own: &[TableName],
    first: usize,
    list: &List,
) -> Result<Ready> {
    let foreign = declared(begun.loader.session()).await?;
    let forget = Forget::new(list, &begun.source.manifest, &[]).with_foreign(foreign.clone());
    let every = begun.source.manifest.schemas.iter();
    let every: HashSet<TableName> =
        every.flat_map(|schema| schema.tables.iter().map(|table| TableName::new(&schema.name, &table.name))).collect();
    let names = Ground::of_database(begun.loader.session(), &every).await?;
    for (table, referred) in between(&names, &foreign, forget.keys(), &own.iter().cloned().collect()) {
        let live = Live::find(begun.loader.session(), &table).await?;
        let key = if live.key.is_empty() { referred } else { Vec::new() };
        tracing::info!("reading {table} as well, for rows that hang on erased ones");
        let number = staged.len() + first;
        staged.push(begun.stage_other(&table, number, key).await?);
    }
    Ok(Ready { forget, foreign })
}

/// The temporary tables, as rows are erased in them.
///
/// # Errors
/// The server's.
pub(crate) async fn ground(begun: &Begun, staged: &[Staging]) -> Result<Ground> {
    let mut ground = Ground::default();
    for one in staged {
        let columns = one.live.columns.iter().filter(|column| one.columns.contains(&column.name));
        let table = Table { from: one.table().to_owned(), columns: columns.cloned().collect() };
        ground.add(begun.loader.session(), &one.live.name, table).await?;
    }
    Ok(ground)
}

impl Ready {
    /// Erases in these tables, in the session's open transaction.
    ///
    /// # Errors
    /// As [`forget`].
    pub(crate) async fn erase(&self, session: &Session, ground: Ground) -> Result<Forgotten> {
        self.forget.erase_in(session, &self.foreign, ground).await?;
        let done = self.forget.take().ok_or_else(|| Error::failed("the account of the forget list is missing"))?;
        if done.not_applied.is_empty() {
            return Ok(done);
        }
        let first = Error::new(Kind::Usage, done.not_applied.first().cloned().unwrap_or_default());
        let error = done.not_applied.iter().skip(1).fold(first, |error, more| error.hint(more.clone()));
        Err(error
            .context("the forget list cannot be applied as a whole")
            .hint("mend the list, or rescue with one that holds the lines of these tables only"))
    }
}

/// The tables to read beside those that are staged, each with columns that a foreign key refers to.
fn between(
    names: &Ground,
    foreign: &[ForeignKey],
    keys: &[Keys],
    staged: &HashSet<TableName>,
) -> Vec<(TableName, Vec<String>)> {
    let root = |name: &TableName| names.root(name).clone();
    let mut hot: HashSet<TableName> = HashSet::new();
    for group in keys {
        hot.insert(root(&group.table));
        hot.extend(names.with_heirs(&group.table).iter().map(root));
    }
    let listed = hot.clone();
    while foreign.iter().any(|key| hot.contains(&root(&key.to)) && hot.insert(root(&key.from))) {}
    // Its keys are all that is to be known: it hangs on nothing, and they are what is referred to.
    let known = |key: &ForeignKey| {
        let of = keys.iter().filter(|group| root(&group.table) == root(&key.to));
        let mut groups = of.clone();
        let listed = listed.contains(&root(&key.to)) && of.count() > 0;
        let covered = groups.all(|group| key.columns.iter().all(|(_, to)| group.columns.contains(to)));
        let hangs = foreign.iter().any(|other| root(&other.from) == root(&key.to) && hot.contains(&root(&other.to)));
        listed && covered && !hangs && !key.period
    };
    let mut seen: HashSet<TableName> = staged.iter().map(root).collect();
    let mut open: Vec<TableName> = seen.iter().cloned().collect();
    let mut more = Vec::new();
    while let Some(table) = open.pop() {
        for key in foreign.iter().filter(|key| root(&key.from) == table && hot.contains(&root(&key.to))) {
            if !known(key) && seen.insert(root(&key.to)) {
                more.push((root(&key.to), key.columns.iter().map(|(_, to)| to.clone()).collect()));
                open.push(root(&key.to));
            }
        }
    }
    more
}
