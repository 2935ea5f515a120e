//! Foreign keys of large tables in two steps: made as not valid, which takes an instant, then validated. Making one locks
//! both tables against another one, so keys that refer to the same table would be checked one after the other while
//! other sessions have nothing to do; validating locks the referring table alone.
//!
//! Only between ordinary tables, since partitioned ones do not take such keys on every server. A key that the rows break
//! is taken away again, and made in one step with whatever else was refused: what is reported does not differ.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use libpgdump::{Entry, ObjectType};

use crate::archive::foreign_keys;
use crate::error::{Error, Result};
use crate::postgres::connect::session::Session;
use crate::postgres::target::project;
use crate::restore::entry::is_refusal;
use crate::restore::findings;
use crate::sql::names::{TableName, quote};

/// A foreign key that is validated after it was made.
pub(crate) struct Validation<'a> {
    entry: &'a Entry,
    /// The table that refers.
    table: TableName,
    name: String,
    /// Bytes of that table's rows.
    bytes: u64,
}

/// The statement that makes a foreign key as not valid; `None` for a definition that is not of an ordinary table, or says
/// something of the kind itself.
pub(crate) fn not_valid(defn: &str) -> Option<String> {
    let defn = defn.trim().strip_suffix(';')?;
    let fits =
        defn.starts_with("ALTER TABLE ONLY ") && !(defn.ends_with(" NOT VALID") || defn.ends_with(" NOT ENFORCED"));
    fits.then(|| format!("{defn} NOT VALID;"))
}

impl Validation<'_> {
    pub(crate) const fn id(&self) -> i32 {
        self.entry.dump_id
    }

    /// Validates it; a key that is refused is taken away, and the reason returned.
    async fn validate(&self, session: &Session) -> Result<Option<Error>> {
        let (table, name) = (self.table.sql(), quote(&self.name));
        let doing = format!("restore {} {}", findings::kind(self.entry), findings::name(self.entry));
        let sql = format!("ALTER TABLE ONLY {table} VALIDATE CONSTRAINT {name}");
        match project::transaction(session, &sql, &doing).await {
            Err(error) if is_refusal(&error) => {
                let sql = format!("ALTER TABLE ONLY {table} DROP CONSTRAINT {name}");
                project::transaction(session, &sql, &doing).await.map(|()| Some(error))
            }
            done => done.map(|()| None),
        }
    }
}

/// The foreign keys among these entries that are worth two steps: of a table with more than so many bytes of rows, both
/// tables ordinary ones. `bytes` knows the ordinary ones.
pub(crate) fn in_two_steps<'a>(
    entries: &[&'a Entry],
    bytes: impl Fn(&TableName) -> Option<u64>,
    from_bytes: u64,
) -> Vec<Validation<'a>> {
    let validation = |entry: &&'a Entry| {
        let defn = entry.defn.as_deref().filter(|_| entry.desc == ObjectType::FkConstraint)?;
        not_valid(defn)?;
        let (key, name) = foreign_keys::read(defn)?;
        let bytes = bytes(&key.to).and(bytes(&key.from)).filter(|bytes| *bytes > from_bytes)?;
        Some(Validation { entry, table: key.from, name, bytes })
    };
    entries.iter().filter_map(validation).collect()
}

/// Validates foreign keys by several sessions, each table's by one. A key that the rows break is taken away again;
/// returns these, with the reason.
///
/// # Errors
/// A lost connection.
pub(crate) async fn validate<'a>(
    sessions: &[Session],
    all: impl IntoIterator<Item = Validation<'a>>,
) -> Result<Vec<(&'a Entry, Error)>> {
    let mut by_table: HashMap<TableName, Vec<Validation<'a>>> = HashMap::new();
    for one in all {
        by_table.entry(one.table.clone()).or_default().push(one);
    }
    let mut queue: Vec<Vec<Validation<'a>>> = by_table.into_values().collect();
    // The longest come first, from the end.
    queue.sort_by_key(|of_table| of_table.first().map(|one| one.bytes));
    let (queue, refused) = (Mutex::new(queue), Mutex::new(Vec::new()));
    let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).pop();
    let worker = |session| {
        let (next, refused) = (&next, &refused);
        async move {
            while let Some(of_table) = next() {
                for one in of_table {
                    if let Some(why) = one.validate(session).await? {
                        refused.lock().unwrap_or_else(PoisonError::into_inner).push((one.entry, why));
                    }
                }
            }
            Ok::<(), Error>(())
        }
    };
    futures::future::try_join_all(sessions.iter().map(worker)).await?;
    Ok(refused.into_inner().unwrap_or_else(PoisonError::into_inner))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_plain_key_is_made_as_not_valid() {
        let key = "ALTER TABLE ONLY a.b\n    ADD CONSTRAINT c FOREIGN KEY (d) REFERENCES a.e(f) DEFERRABLE";
        assert_eq!(not_valid(&format!("{key};\n")).unwrap(), format!("{key} NOT VALID;"));
        for other in [format!("{key} NOT VALID;\n"), format!("{key} NOT ENFORCED;\n"), key.replace("ONLY ", "") + ";"] {
            assert_eq!(not_valid(&other), None, "{other}");
        }
    }
}
