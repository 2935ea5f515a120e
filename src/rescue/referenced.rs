//! Rows of other tables that missing rows refer to, and that are missing too: a row whose parent is gone cannot come
//! back alone. Their tables are read from the run as well, and only such rows are chosen in them.

use crate::error::{Error, Result};
use crate::postgres::target::live::{Live, Reference};
use crate::postgres::target::load::Loader;
use crate::postgres::target::staging::{self, Staging};
use crate::rescue::begin::Begun;
use crate::rescue::options::{Apply, Options};
use crate::sql::names::TableName;

/// Missing rows of another table.
#[derive(Debug, Clone)]
pub(crate) struct Needed {
    pub(crate) table: TableName,
    /// The number of rows missing there, or how many rows refer to missing ones where these are not brought.
    pub(crate) rows: u64,
    /// They are written before the rows that refer to them.
    pub(crate) brought: bool,
}

/// The tables and keys that are needed, as far as it is known before the comparison.
#[derive(Debug, Default)]
pub(crate) struct Needs {
    /// Tables whose rows are not brought, with the number of rows that refer to them.
    left: Vec<Needed>,
}

impl Needs {
    /// Counts the rows that are brought, in the caller's snapshot.
    ///
    /// # Errors
    /// The server's.
    pub(crate) async fn count(self, loader: &Loader, staged: &[Staging]) -> Result<Vec<Needed>> {
        let mut needed = self.left;
        for other in staged.iter().skip(1) {
            let doing = format!("look for missing rows of {}", other.live.name);
            let rows = staging::count(loader, &other.missing(), &doing).await?;
            needed.push(Needed { table: other.live.name.clone(), rows, brought: true });
        }
        Ok(needed)
    }
}

/// Follows foreign keys until nothing more is missing. Adds the tables to `staged`.
///
/// # Errors
/// Kind `Usage` where the run lacks a table; the server's.
pub(crate) async fn follow(
    begun: &mut Begun,
    staged: &mut Vec<Staging>,
    options: &Options,
) -> Result<(Needs, Vec<String>)> {
    let (mut needs, mut notes) = (Needs::default(), Vec::new());
    let only_missing = !options.apply.is_some_and(Apply::changed);
    loop {
        let (mut more, mut at) = (0, 0);
        while let Some(own) = staged.get(at) {
            for reference in own.live.references(begun.loader.session()).await? {
                let other = match staged.iter().position(|one| one.live.name == reference.to) {
                    Some(place) => Some(place),
                    None => stage(begun, staged, at, &reference, only_missing || at > 0, options, &mut needs).await?,
                };
                let (Some(own), Some(other)) = (staged.get(at), other.and_then(|place| staged.get(place))) else {
                    continue;
                };
                if !options.with_referenced {
                    continue;
                }
                if let Some(dangling) = own.dangling(&reference, &other.live, only_missing || at > 0) {
                    more += own.choose_referred(&begun.loader, &reference, other, &dangling).await?;
                }
            }
            at += 1;
        }
        if more == 0 || !options.with_referenced {
            break;
        }
    }
    if options.with_referenced && staged.len() > 1 {
        let names: Vec<String> = staged.iter().skip(1).map(|one| one.live.name.to_string()).collect();
        notes.push(format!("read as well, for rows that are referred to: {}", names.join(", ")));
    }
    Ok((needs, notes))
}

/// Stages a table that is referred to, where rows that are missing in it are needed. Without `--with-referenced` it is
/// only noted. Returns the place of the table.
async fn stage(
    begun: &mut Begun,
    staged: &mut Vec<Staging>,
    at: usize,
    reference: &Reference,
    only_missing: bool,
    options: &Options,
    needs: &mut Needs,
) -> Result<Option<usize>> {
    let own = staged.get(at).ok_or_else(|| Error::failed("a table of the rescue is missing"))?;
    let other = Live::find(begun.loader.session(), &reference.to).await?;
    let Some(dangling) = own.dangling(reference, &other, only_missing) else { return Ok(None) };
    let doing = format!("look for the rows that {} refers to", own.live.name);
    let rows = staging::count(&begun.loader, &dangling, &doing).await?;
    if rows == 0 {
        return Ok(None);
    }
    if !options.with_referenced {
        needs.left.push(Needed { table: reference.to.clone(), rows, brought: false });
        return Ok(None);
    }
    let key =
        if other.key.is_empty() { reference.columns.iter().map(|(_, _, to)| to.clone()).collect() } else { Vec::new() };
    let number = staged.len();
    let more = begun.stage_other(&reference.to, number, key).await?;
    staged.push(more);
    Ok(Some(number))
}
