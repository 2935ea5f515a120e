//! The letters of the database's encoding, as the server converts them: asked for where definitions hold bytes that
//! UTF-8 has no equivalent of, so that everything else in them is read as text.

use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use crate::error::Result;
use crate::postgres::error::failure;
use crate::sql::letters::Letters;

/// The step where a name cannot be said in UTF-8: every session reads names so.
pub(crate) const ODD_NAME: &str = "names of schemas, tables, columns and roles cannot be saved with bytes that have no \
    equivalent in UTF-8: rename it (ALTER ... RENAME) in a session whose client_encoding is the database's own; pg_dump \
    alone can save it meanwhile";

/// The letters of one question: one without an equivalent makes the server refuse all of them.
const AT_ONCE: usize = 512;

/// Learns these letters, each in the bytes of the database's encoding.
pub(crate) async fn learn(client: &Client, letters: &mut Letters, bytes: &[Vec<u8>]) -> Result<()> {
    let sql =
        "SELECT pg_catalog.convert_to(pg_catalog.convert_from(b, $2), 'UTF8') FROM unnest($1::pg_catalog.bytea[]) b";
    let encoding = letters.encoding().to_owned();
    let mut left: Vec<&[Vec<u8>]> = bytes.chunks(AT_ONCE).collect();
    while let Some(some) = left.pop() {
        match client.query(sql, &[&some, &encoding]).await {
            Ok(rows) => {
                for (bytes, row) in some.iter().zip(rows) {
                    let text = String::from_utf8(row.get(0)).unwrap_or_default();
                    let mut one = text.chars();
                    // Two code points together do not come back as one letter.
                    let letter = one.next().filter(|_| one.next().is_none());
                    letters.know(bytes.clone(), letter);
                }
            }
            Err(error) if error.code().is_some_and(has_no_equivalent) => match some {
                [one] => letters.know(one.clone(), None),
                more => left.extend(<[&[Vec<u8>]; 2]>::from(more.split_at(more.len() / 2))),
            },
            Err(error) => return Err(failure(&error).context(format!("ask for the letters of {encoding}"))),
        }
    }
    Ok(())
}

fn has_no_equivalent(state: &SqlState) -> bool {
    [SqlState::UNTRANSLATABLE_CHARACTER, SqlState::CHARACTER_NOT_IN_REPERTOIRE].contains(state)
}

/// The bytes of these names in the database's encoding.
pub(crate) async fn bytes_of(client: &Client, encoding: &str, names: &[&str]) -> Result<Vec<u8>> {
    let sql = "SELECT pg_catalog.convert_to(t, $2) FROM unnest($1::pg_catalog.text[]) t";
    let rows = client.query(sql, &[&names, &encoding]).await;
    let rows = rows.map_err(|error| failure(&error).context(format!("read names in {encoding}")))?;
    Ok(rows.iter().flat_map(|row| row.get::<_, Vec<u8>>(0)).collect())
}
