//! Foreign keys, read out of the definitions that pg_dump wrote: at the moment when rows were loaded and constraints were
//! not made yet, no catalogue has them.

use libpgdump::{Entry, ObjectType};

use crate::sql::names::TableName;
use crate::sql::statements::name;

/// A foreign key.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct ForeignKey {
    /// The table that refers.
    pub(crate) from: TableName,
    /// The table that is referred to.
    pub(crate) to: TableName,
    /// Pairs: the column that refers, the column that is referred to.
    pub(crate) columns: Vec<(String, String)>,
    /// The last pair are periods: they need not be equal, only to overlap.
    pub(crate) period: bool,
    /// The columns that become NULL when the row that is referred to goes; empty for any other action.
    pub(crate) set_null: Vec<String>,
}

/// The foreign keys among these entries, and the names of those that could not be read.
pub(crate) fn all<'a>(entries: impl IntoIterator<Item = &'a Entry>) -> (Vec<ForeignKey>, Vec<String>) {
    let (mut keys, mut unread) = (Vec::new(), Vec::new());
    for entry in entries.into_iter().filter(|entry| entry.desc == ObjectType::FkConstraint) {
        match read(entry.defn.as_deref().unwrap_or_default()) {
            Some((key, _name)) => keys.push(key),
            None => unread.push(entry.tag.clone().unwrap_or_default()),
        }
    }
    (keys, unread)
}

/// Reads `ALTER TABLE [ONLY] a.b ADD CONSTRAINT c FOREIGN KEY (...) REFERENCES d.e(...) ...`: the key and its name.
pub(crate) fn read(definition: &str) -> Option<(ForeignKey, String)> {
    let rest = definition.trim_start().strip_prefix("ALTER TABLE ")?;
    let (from, rest) = qualified(rest.strip_prefix("ONLY ").unwrap_or(rest))?;
    let (constraint, rest) = name(rest.trim_start().strip_prefix("ADD CONSTRAINT ")?)?;
    let (own, own_period, rest) = columns(rest.trim_start().strip_prefix("FOREIGN KEY ")?)?;
    let (to, rest) = qualified(rest.trim_start().strip_prefix("REFERENCES ")?)?;
    let (other, other_period, rest) = columns(rest)?;
    if own.len() != other.len() || own_period != other_period {
        return None;
    }
    let set_null = match rest.split_once("ON DELETE SET NULL") {
        None => Vec::new(),
        Some((_, list)) if list.trim_start().starts_with('(') => columns(list)?.0,
        Some(_) => own.clone(),
    };
    let columns = own.into_iter().zip(other).collect();
    Some((ForeignKey { from, to, columns, period: own_period, set_null }, constraint))
}

/// A name with its schema, and what follows it.
fn qualified(text: &str) -> Option<(TableName, &str)> {
    let (schema, rest) = name(text)?;
    let (table, rest) = name(rest.strip_prefix('.')?)?;
    Some((TableName::new(schema, table), rest))
}

/// The names of a list in parentheses; true where the last one is a period.
fn columns(text: &str) -> Option<(Vec<String>, bool, &str)> {
    let mut rest = text.trim_start().strip_prefix('(')?;
    let (mut found, mut period) = (Vec::new(), false);
    loop {
        rest = rest.trim_start();
        if let Some(after) = rest.strip_prefix("PERIOD ") {
            (rest, period) = (after, true);
        }
        let (column, after) = name(rest)?;
        found.push(column);
        rest = after.trim_start();
        match rest.strip_prefix(',') {
            Some(more) => rest = more,
            None => return Some((found, period, rest.strip_prefix(')')?)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_keys_are_read_whatever_their_names_are() {
        let key = |text: &str| read(text).unwrap().0;
        let plain = key(
            "ALTER TABLE ONLY a.\"b c\"\n    ADD CONSTRAINT \"x REFERENCES y(z)\" FOREIGN KEY (id, \"q\"\"r\") REFERENCES \"D\".e(id, f) \
             MATCH FULL ON UPDATE CASCADE ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED NOT VALID;\n",
        );
        assert_eq!((plain.from, plain.to), (TableName::new("a", "b c"), TableName::new("D", "e")));
        let pair = |one: &str, other: &str| (one.to_owned(), other.to_owned());
        assert_eq!(plain.columns, [pair("id", "id"), pair("q\"r", "f")]);
        assert!(plain.set_null.is_empty() && !plain.period);
        let null = |action: &str| {
            key(&format!("ALTER TABLE a.b ADD CONSTRAINT c FOREIGN KEY (x, y) REFERENCES d.e(x, y) {action};")).set_null
        };
        assert_eq!(null("ON UPDATE SET NULL ON DELETE SET NULL"), ["x", "y"]);
        assert_eq!(null("ON DELETE SET NULL (y) NOT VALID"), ["y"]);
        assert!(null("ON UPDATE SET NULL ON DELETE SET DEFAULT").is_empty());
        let period = key(
            "ALTER TABLE ONLY a.b ADD CONSTRAINT c FOREIGN KEY (id, PERIOD valid) REFERENCES d.e(id, PERIOD \"Valid\");",
        );
        assert!(period.period && period.columns.last() == Some(&pair("valid", "Valid")));
        assert_eq!(read("ALTER TABLE ONLY a.b ADD CONSTRAINT c CHECK ((x > 0));"), None);
        assert_eq!(read("ALTER TABLE a.b ADD CONSTRAINT \"c d\" FOREIGN KEY (x) REFERENCES d.e(x);").unwrap().1, "c d");
    }
}
