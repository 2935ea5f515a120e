//! The one transaction that writes: parents before children, triggers as asked for, sequences never back, and a last
//! look at what became of it. It commits all, or nothing was changed.

use crate::archive::order::referred_first;
use crate::error::{Error, Result, SqlState};
use crate::postgres::target::live::Trigger;
use crate::postgres::target::load::Loader;
use crate::postgres::target::staging::{self, Staging};
use crate::rescue::begin::Begun;
use crate::rescue::options::{Apply, Options, Triggers};
use crate::sql::names::TableName;

/// The rows that were written.
#[derive(Debug, Default)]
pub(crate) struct Applied {
    /// Rows inserted, by table, in the order of writing.
    pub(crate) inserted: Vec<(TableName, u64)>,
    pub(crate) updated: u64,
    /// Sequences that were brought forward.
    pub(crate) sequences: Vec<String>,
    /// Triggers that did not fire.
    pub(crate) triggers_off: u64,
    /// Chosen rows whose content still differs: a trigger or a default changed them.
    pub(crate) still_different: u64,
    /// Everything was rolled back, as asked for.
    pub(crate) rolled_back: bool,
}

/// Writes in the transaction that is open, and ends it.
///
/// # Errors
/// What the server refuses, or what did not come as it was counted; nothing was changed then.
pub(crate) async fn apply(begun: Begun, staged: Vec<Staging>, what: Apply, options: &Options) -> Result<Applied> {
    let loader = begun.loader;
    let written = write(&loader, &staged, what, options).await.map_err(explained)?;
    let end = if options.rehearse { "ROLLBACK" } else { "COMMIT" };
    // A deferred constraint speaks here.
    loader.execute(end, "commit what was rescued").await.map_err(explained)?;
    loader.close().await;
    Ok(written)
}

async fn write(loader: &Loader, staged: &[Staging], what: Apply, options: &Options) -> Result<Applied> {
    let mut applied = Applied { rolled_back: options.rehearse, ..Applied::default() };
    loader.execute("SET LOCAL synchronous_commit = on; SET CONSTRAINTS ALL DEFERRED", "begin to write").await?;
    let first = staged.first().ok_or_else(|| Error::failed("the table of the rescue is missing"))?;
    if let Some(rule) = staged.iter().flat_map(|one| &one.live.rules).next() {
        return Err(Error::usage(format!(
            "rule {rule} of {} turns what is written into something else",
            first.live.name
        )));
    }
    let mut off = Vec::new();
    if options.triggers == Triggers::Off {
        for one in staged {
            off.extend(one.live.triggers(loader.session()).await?);
        }
        applied.triggers_off = off.len() as u64;
        switch(loader, &off, |_| "DISABLE TRIGGER").await?;
    }
    if what.missing() {
        for one in in_order(loader, staged).await? {
            let wanted =
                staging::count(loader, &one.missing(), &format!("count the rows of {}", one.live.name)).await?;
            let done = one.insert(loader).await?;
            if done != wanted {
                return Err(Error::failed(format!(
                    "insert into {}: {wanted} rows were sent, a trigger or a rule let {done} in",
                    one.live.name
                ))
                .hint("--triggers off keeps the table's triggers out of it"));
            }
            applied.inserted.push((one.live.name.clone(), done));
        }
    }
    if what.changed() {
        refuse_unsettable(loader, first).await?;
        applied.updated = first.update(loader).await?;
    }
    applied.still_different = left(loader, first, what).await?;
    switch(loader, &off, |trigger| &trigger.enable).await?;
    if !options.rehearse && what.missing() {
        // A sequence does not roll back, so it is moved last.
        for one in staged {
            applied.sequences.extend(one.advance_sequences(loader).await?);
        }
    }
    Ok(applied)
}

/// The tables in the order of their foreign keys, what is referred to first.
async fn in_order<'a>(loader: &Loader, staged: &'a [Staging]) -> Result<Vec<&'a Staging>> {
    let mut refers = Vec::new();
    for one in staged {
        for reference in one.live.references(loader.session()).await? {
            refers.push((one.live.name.clone(), reference.to));
        }
    }
    Ok(referred_first(staged.iter().collect(), |one| one.live.name.clone(), &refers))
}

/// Turns triggers off or on again. In the transaction: nobody else ever sees them off.
async fn switch(loader: &Loader, triggers: &[Trigger], word: impl Fn(&Trigger) -> &str) -> Result<()> {
    for trigger in triggers {
        let sql = format!("ALTER TABLE ONLY {} {} {}", trigger.table, word(trigger), trigger.name);
        loader.execute(&sql, &format!("{sql} for this transaction")).await?;
    }
    Ok(())
}

/// Refuses to half write a row: what is `GENERATED ALWAYS AS IDENTITY` cannot be set by an UPDATE.
async fn refuse_unsettable(loader: &Loader, staging: &Staging) -> Result<()> {
    for column in staging.compared().into_iter().filter(|column| column.identity_always) {
        let (run, live) = (Staging::run_column(&column.name), Staging::live_column(&column.name));
        let rows = format!("{} AND {run} IS DISTINCT FROM {live}", staging.changed());
        let doing = format!("look at {} of {}", column.name, staging.live.name);
        if staging::count(loader, &rows, &doing).await? > 0 {
            return Err(Error::usage(format!(
                "changed rows of {} differ in {}, which is GENERATED ALWAYS AS IDENTITY: an UPDATE cannot set it",
                staging.live.name, column.name
            )));
        }
    }
    Ok(())
}

/// Chosen rows that are not as in the run although they were written.
async fn left(loader: &Loader, staging: &Staging, what: Apply) -> Result<u64> {
    let doing = format!("compare {} again", staging.live.name);
    let changed = staging::count(loader, &staging.changed(), &doing).await?;
    // Those that were not asked for are no news.
    Ok(if what.changed() { changed } else { 0 })
}

/// Adds what a person can do about a refusal.
fn explained(error: Error) -> Error {
    let state = error.sqlstate();
    let hint = match state.as_ref().map(SqlState::as_str) {
        Some("23503") => Some("--with-referenced brings the rows as well that are referred to and missing"),
        Some("23505") => Some("another live row holds a value that must be unique: choose the rows with --where"),
        Some("40001" | "40P01") => Some("the live table changed meanwhile: run the same command again"),
        Some("42501") => Some("the role must be the table's owner, or hold INSERT and UPDATE on it"),
        Some(state) if state.starts_with("P0") => Some("--triggers off keeps the table's triggers out of it"),
        _ => None,
    };
    let error = error.hint("nothing was changed");
    match hint {
        Some(hint) => error.hint(hint),
        None => error,
    }
}
