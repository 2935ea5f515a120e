//! The columns of a large table whose smallest and largest values are worth knowing piece by piece: those by which rows
//! are looked for. Chosen from pg_dump's definitions; the order of a type must be certain without a server.

use libpgdump::{Entry, ObjectType};

use crate::archive::catalogue::{namespace, tag};
use crate::archive::columns::definition;
use crate::pipeline::extremes::{Field, Order};
use crate::sql::statements::{name, names};

/// Points in time, at most: with more of them the cost comes near 3 % of a backup's CPU (see
/// [`crate::pipeline::extremes`]).
const MORE: usize = 2;

/// Fields of a row that are looked at, at most: each costs time for every row of the table.
const FARTHEST: usize = 16;

/// A column that is watched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KeyColumn {
    pub(crate) name: String,
    /// Its type as pg_dump wrote it.
    pub(crate) kind: String,
    pub(crate) field: Field,
}

/// The order of the values of a type; `None` where it depends on a collation, a scale or an extension.
#[must_use]
pub(crate) fn order(kind: &str) -> Option<Order> {
    match kind {
        "smallint" | "integer" | "bigint" => Some(Order::Number),
        "uuid" | "date" => Some(Order::Bytes),
        _ if kind.starts_with("timestamp") && !kind.ends_with(']') => Some(Order::Bytes),
        _ => None,
    }
}

/// The watched columns of a table, in the order of its `COPY` statement: the primary key's and points in time. Other columns
/// are seldom in the order of the rows on disk, and tell nothing then. `columns` are the names in that statement.
#[must_use]
pub(crate) fn of(entries: &[Entry], schema: &str, table: &str, columns: &[String]) -> Vec<KeyColumn> {
    let is_own = |e: &&Entry| e.desc == ObjectType::Table && namespace(e) == schema && tag(e) == table;
    let Some(own) = entries.iter().find(is_own) else { return Vec::new() };
    let types = definition(own.defn.as_deref().unwrap_or_default()).types;
    let of_table = entries.iter().filter(|e| e.desc == ObjectType::Constraint && e.dependencies.contains(&own.dump_id));
    let primary = of_table.filter_map(|e| primary_key(e.defn.as_deref()?, schema, table)).flatten();
    let primary: Vec<String> = primary.collect();
    let candidates: Vec<KeyColumn> = columns
        .iter()
        .enumerate()
        .take(FARTHEST)
        .filter_map(|(at, name)| {
            let kind = types.get(name)?;
            Some(KeyColumn { name: name.clone(), kind: kind.clone(), field: Field { at, order: order(kind)? } })
        })
        .collect();
    let is_time = |column: &KeyColumn| column.kind.starts_with("timestamp") || column.kind == "date";
    let mut more = 0;
    let chosen = candidates.into_iter().filter(|column| {
        if primary.contains(&column.name) {
            return true;
        }
        let is_wanted = is_time(column) && more < MORE;
        more += usize::from(is_wanted);
        is_wanted
    });
    chosen.collect()
}

/// The columns of the primary key that this constraint of the table is.
fn primary_key(defn: &str, schema: &str, table: &str) -> Option<Vec<String>> {
    let rest = defn.trim_start().strip_prefix("ALTER TABLE ")?;
    let rest = rest.strip_prefix("ONLY ").unwrap_or(rest);
    let (own_schema, rest) = name(rest)?;
    let (own_table, rest) = name(rest.strip_prefix('.')?)?;
    if own_schema != schema || own_table != table {
        return None;
    }
    let (_constraint, rest) = name(rest.trim_start().strip_prefix("ADD CONSTRAINT ")?)?;
    Some(names(rest.strip_prefix(" PRIMARY KEY (")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_columns_of_a_key_are_listed_whatever_its_name_is() {
        let primary = "ALTER TABLE ONLY s.\"a PRIMARY KEY (x)\"\n    ADD CONSTRAINT \"p PRIMARY KEY (y)\" PRIMARY KEY (id, \"b c\");\n";
        let found = primary_key(primary, "s", "a PRIMARY KEY (x)");
        assert_eq!(found, Some(vec!["id".to_owned(), "b c".to_owned()]));
        assert_eq!(primary_key(primary, "s", "a"), None);
        assert_eq!(order("timestamp(3) with time zone"), Some(Order::Bytes));
        assert_eq!((order("timestamp without time zone[]"), order("text"), order("numeric")), (None, None, None));
    }
}
