//! Rows of the forget list in a rescue: they, and what hangs on them, are taken out of the temporary tables before
//! anything is compared, so that they never count as missing.
//!
//! A row may hang on an erased one over tables that are not rescued. Those between are read from the run as well; a listed
//! table is not where its keys are what the foreign key refers to. The foreign keys are those of the live database.

use std::collections::HashSet;

use crate::archive::foreign_keys::ForeignKey;
use crate::error::{Error, Kind, Result};
use crate::postgres::target::foreign_keys::declared;
use crate::postgres::target::ground::{Ground, Table};
use crate::postgres::target::live::Live;
use crate::postgres::target::staging::Staging;
use crate::rescue::begin::Begun;
use crate::restore::forget::keys::Keys;
use crate::restore::forget::list::List;
use crate::restore::forget::{Forget, Forgotten};
use crate::sql::names::TableName;

/// Takes the rows out. Tables that had to be read for it are added to `staged`.
///
/// # Errors
/// Kind `Usage` for a list that cannot be applied as a whole: nothing is written without it.
pub(crate) async fn forget(begun: &mut Begun, staged: &mut Vec<Staging>, list: &List) -> Result<Forgotten> {
    let foreign = declared(begun.loader.session()).await?;
    let forget = Forget::new(list, &begun.source.manifest, &[]).with_foreign(foreign.clone());
    let every = begun.source.manifest.schemas.iter();
    let every: HashSet<TableName> =
        every.flat_map(|schema| schema.tables.iter().map(|table| TableName::new(&schema.name, &table.name))).collect();
    let names = Ground::of_database(begun.loader.session(), &every).await?;
    let more = between(&names, &foreign, forget.keys(), &staged.iter().map(|one| one.live.name.clone()).collect());
    for (table, referred) in more {
        let live = Live::find(begun.loader.session(), &table).await?;
        let key = if live.key.is_empty() { referred } else { Vec::new() };
        tracing::info!("reading {table} as well, for rows that hang on erased ones");
        let number = staged.len();
        staged.push(begun.stage_other(&table, number, key).await?);
    }
    let mut ground = Ground::default();
    for one in staged.iter() {
        let columns = one.live.columns.iter().filter(|column| one.columns.contains(&column.name));
        let table = Table { from: one.table().to_owned(), columns: columns.cloned().collect() };
        ground.add(begun.loader.session(), &one.live.name, table).await?;
    }
    begun.loader.execute("BEGIN", "erase the rows of the forget list").await?;
    forget
        .erase_in(begun.loader.session(), &foreign, ground)
        .await
        .map_err(|error| error.hint("nothing was changed"))?;
    begun.loader.execute("COMMIT", "erase the rows of the forget list").await?;
    let done = forget.take().ok_or_else(|| Error::failed("the account of the forget list is missing"))?;
    if done.not_applied.is_empty() {
        return Ok(done);
    }
    Err(done
        .not_applied
        .iter()
        .skip(1)
        .fold(Error::new(Kind::Usage, done.not_applied.first().cloned().unwrap_or_default()), |error, more| {
            error.hint(more.clone())
        })
        .context("the forget list cannot be applied as a whole")
        .hint("mend the list, or rescue with one that holds the lines of these tables only; nothing was changed"))
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
