//! Definitions in the encoding of the database, where UTF-8 cannot say all of them. The rows' side is in `read`.

use std::collections::BTreeSet;

use libpgdump::format::ArchiveMetadata;

use crate::archive::catalogue::{namespace, tag};
use crate::archive::head;
use crate::backup::run::Run;
use crate::error::{Error, Result};
use crate::format::manifest::Omitted;
use crate::postgres::connect::session::Session;
use crate::postgres::source::leader::Leader;
use crate::postgres::source::letters::{ODD_NAME, bytes_of, learn};
use crate::sql::letters::{Letters, has_raw, letters_in};
use crate::sql::names::{TableName, literal};

/// Reads definitions that came in the database's own encoding as text, as far as they are.
pub(crate) async fn definitions(
    leader: &Leader,
    checker: &Session,
    mut meta: ArchiveMetadata,
) -> Result<ArchiveMetadata> {
    let encoding = &leader.detection.server.encoding;
    let mut letters = Letters::new(encoding);
    let mut used = head::unknown_letters(&mut meta, encoding);
    // What our own entries name is among these.
    let relations = &leader.detection.relations;
    let names = relations.iter().flat_map(|relation| [relation.schema.as_str(), relation.name.as_str()]);
    let names: Vec<&str> = names.filter(|name| !name.is_ascii()).collect();
    let names = bytes_of(&checker.client, encoding, &names).await?;
    used.extend(letters_in(encoding, &names).into_iter().map(<[u8]>::to_vec));
    learn_all(checker, &mut letters, used).await?;
    head::with_letters(&mut meta, &letters);
    let odd = meta.entries.iter().find(|e| e.copy_stmt.as_deref().is_some_and(has_raw));
    if let Some(table) = odd.map(|entry| TableName::new(namespace(entry), tag(entry))) {
        let error = Error::failed(format!("the name of a column of {table} has bytes without an equivalent in UTF-8"));
        return Err(error.hint(ODD_NAME));
    }
    if head::letters(&meta.entries).is_some() {
        tracing::warn!(
            "definitions hold bytes without an equivalent in UTF8; definitions and rows are saved in {encoding}"
        );
    }
    Ok(meta)
}

/// Names the definitions of a database in UTF-8 that are not UTF-8: PostgreSQL takes them from itself, and from nobody
/// else. It makes such a name itself, for the multirange of a range whose name it cuts within a letter.
pub(crate) fn name_odd(leader: &mut Leader, meta: &mut ArchiveMetadata) {
    for (kind, name) in head::odd(meta) {
        let kind = kind.as_str().to_lowercase();
        let step = if kind == "type" {
            format!(
                "; the name of its multirange ends within a letter, give it another one: DO $$BEGIN EXECUTE (SELECT \
                 pg_catalog.format('ALTER TYPE %s RENAME TO %I', rngmultitypid::pg_catalog.regtype, 'a_multirange') FROM \
                 pg_catalog.pg_range r JOIN pg_catalog.pg_type t ON t.oid = r.rngtypid WHERE t.typname = {}); END$$",
                literal(&name.table)
            )
        } else {
            String::new()
        };
        let reason = format!("saved as it is, but no database takes it back: its definition is not UTF-8{step}");
        tracing::warn!("{kind} {name}: {reason}");
        leader.detection.omitted.push(Omitted { kind, name: name.to_string(), reason });
    }
}

/// The script of the roles, with the letters of its encoding where that is not UTF-8.
pub(crate) async fn with_letters(run: &Run, script: Vec<u8>) -> Result<Vec<u8>> {
    let Some((line, mut letters)) = Letters::of_script(&script) else { return Ok(script) };
    let used = letters_in(letters.encoding(), &script).into_iter().map(<[u8]>::to_vec).collect();
    let session = run.short_session("letters").await?;
    learn_all(&session, &mut letters, used).await?;
    session.close().await;
    tracing::warn!("roles have comments without an equivalent in UTF8; they are saved in {}", letters.encoding());
    let (before, rest) = script.split_at(line.start);
    let after = rest.get(line.len()..).unwrap_or_default();
    Ok([before, letters.definition().trim_end().as_bytes(), after].concat())
}

/// Learns these letters; all there are where each is one byte, since texts of our own may name others.
async fn learn_all(session: &Session, letters: &mut Letters, mut used: BTreeSet<Vec<u8>>) -> Result<()> {
    if letters.encoding() == "SQL_ASCII" {
        return Ok(());
    }
    if used.iter().all(|letter| letter.len() == 1) {
        used.extend((0x80..=0xff).map(|byte| vec![byte]));
    }
    let used: Vec<Vec<u8>> = used.into_iter().collect();
    learn(&session.client, letters, &used).await
}
