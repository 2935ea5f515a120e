//! A refused entry made without those of its statements that the server does not take: a table stands with its rows, and
//! only the compression, storage or parameter that this server does not know is missing. Owns which statements may be
//! missing; an object that would be open to more people, or do other things, is not made at all.

use libpgdump::{Entry, ObjectType};

use crate::archive::catalogue::{namespace, tag};
use crate::error::{Error, Result};
use crate::postgres::connect::session::Session;
use crate::postgres::target;
use crate::restore::attempt::attempt;
use crate::restore::entry::is_refusal;
use crate::sql::names::quote;
use crate::sql::statements::statements;

/// Statements with the reason why the server refused each.
pub(crate) type Lost = Vec<(String, Error)>;

/// The statements of an entry, tried in this order: as they are, and those of a table with its parameters apart.
pub(crate) fn ways(entry: &Entry, sql: &str) -> Vec<Vec<String>> {
    let whole: Vec<String> = statements(sql).into_iter().map(str::to_owned).collect();
    let mut ways = vec![whole.clone()];
    if entry.desc == ObjectType::Table {
        let apart: Vec<String> = whole.iter().flat_map(|statement| with_parameters_apart(entry, statement)).collect();
        if apart.len() > whole.len() {
            ways.push(apart);
        }
    }
    ways
}

/// `CREATE TABLE ... WITH (a='1', b='2')` as one statement without them and one for each; any other as it is.
fn with_parameters_apart(entry: &Entry, statement: &str) -> Vec<String> {
    let parts = || {
        let (before, with) = statement.rsplit_once("\nWITH (")?;
        let parameters = with.strip_suffix(')').filter(|_| is_create_table(before))?;
        Some((before, parameters))
    };
    let Some((before, parameters)) = parts() else { return vec![statement.to_owned()] };
    let table = format!("{}.{}", quote(namespace(entry)), quote(tag(entry)));
    let each = parameters.split("', ").map(|one| {
        let one = if one.ends_with('\'') || !one.contains("='") { one.to_owned() } else { format!("{one}'") };
        format!("ALTER TABLE {table} SET ({one})")
    });
    std::iter::once(before.to_owned()).chain(each).collect()
}

fn is_create_table(statement: &str) -> bool {
    statement.starts_with("CREATE TABLE ") || statement.starts_with("CREATE UNLOGGED TABLE ")
}

/// True for a statement whose want changes how an object is stored or used, not who sees it or what it does.
fn may_be_missing(statement: &str) -> bool {
    // `FORCE ROW LEVEL SECURITY` hides rows, a trigger that is not disabled fires, a view sees what its owner sees.
    let matters = [" ROW LEVEL SECURITY", " DISABLE", " OWNER TO "];
    statement.starts_with("ALTER ") && !matters.iter().any(|words| statement.contains(words))
}

/// Runs these statements in one transaction, without those that may be missing and that the server refuses; returns them.
/// `None` where nothing was made: another one was refused, or none may be missing.
///
/// # Errors
/// A connection that broke.
pub(crate) async fn make(session: &Session, all: &[String], what: &(String, String)) -> Result<Option<Lost>> {
    // The first one makes the object.
    let first = all.iter().position(|statement| !statement.starts_with("SET LOCAL ")).unwrap_or_default();
    let optional = |(at, statement): (usize, &String)| at > first && may_be_missing(statement);
    if !all.iter().enumerate().any(optional) {
        return Ok(None);
    }
    let doing = format!("restore {} {} in pieces", what.0, what.1);
    target::execute(session, "BEGIN", &doing).await?;
    let mut lost = Vec::new();
    let mut made = true;
    for (at, statement) in all.iter().enumerate() {
        if optional((at, statement)) {
            lost.extend(attempt(session, statement, &doing).await?.map(|error| (statement.clone(), error)));
            continue;
        }
        match target::execute(session, statement, &doing).await {
            Err(error) if is_refusal(&error) => {
                made = false;
                break;
            }
            other => other?,
        }
    }
    let end = target::execute(session, if made { "COMMIT" } else { "ROLLBACK" }, &doing).await;
    match end {
        Err(error) if is_refusal(&error) => Ok(None),
        other => other.map(|()| made.then_some(lost)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_protects_rows_is_never_missing() {
        for (statement, may) in [
            ("ALTER TABLE ONLY public.t ALTER COLUMN b SET COMPRESSION lz4", true),
            ("ALTER TABLE public.t CLUSTER ON i", true),
            ("ALTER TABLE ONLY public.t FORCE ROW LEVEL SECURITY", false),
            ("ALTER TABLE public.t DISABLE TRIGGER x", false),
            ("ALTER VIEW public.v OWNER TO a", false),
            ("CREATE TABLE public.t (a integer)", false),
            ("DO $pgstow_acl$ x $pgstow_acl$", false),
        ] {
            assert_eq!(may_be_missing(statement), may, "{statement}");
        }
    }
}
