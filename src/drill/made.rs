//! The objects of the scratch database, counted against the table of contents of the run: everything that `pg_dump`
//! described exists, whatever versions of servers and programs make the texts of definitions incomparable.

use std::collections::BTreeSet;

use libpgdump::{Entry, ObjectType};

use crate::archive::catalogue::{namespace, tag};
use crate::error::Result;
use crate::postgres::connect::session::Session;
use crate::postgres::target;
use crate::restore::findings;
use crate::restore::source::LeaveOut;

/// The objects that should exist and do not, in words.
pub(crate) async fn missing(session: &Session, entries: &[Entry], leave_out: &LeaveOut) -> Result<Vec<String>> {
    let known = target::known(session).await?;
    let wanted = entries.iter().filter(|e| !leave_out.entries.contains(&e.dump_id));
    let gone = wanted.filter(|e| is_missing(&known, e));
    Ok(gone.map(|e| format!("{} {} is missing", findings::kind(e), findings::name(e))).collect())
}

fn is_missing(known: &BTreeSet<(String, String, String)>, entry: &Entry) -> bool {
    let (kind, schema) = match entry.desc {
        ObjectType::Schema => ("schema", ""),
        ObjectType::Extension => ("extension", ""),
        ObjectType::Table
        | ObjectType::ForeignTable
        | ObjectType::View
        | ObjectType::MaterializedView
        | ObjectType::Sequence
        | ObjectType::Index => ("relation", namespace(entry)),
        ObjectType::Type | ObjectType::Domain => ("type", namespace(entry)),
        _ => return false,
    };
    !known.contains(&(kind.to_owned(), schema.to_owned(), tag(entry).to_owned()))
}
