//! The types of a table's columns, read out of the definition that pg_dump wrote: no server is asked. A column that the
//! definition does not spell out (inherited, or of a typed table) is looked up in what the definition names.

use std::collections::HashMap;

use libpgdump::{Entry, ObjectType};

use crate::archive::catalogue::{namespace, tag};
use crate::sql::names::TableName;
use crate::sql::statements::{self, statements};

/// Definitions above a table that are followed at most: a chain of inheritance has no circle, a forged archive may.
const DEEPEST: usize = 64;

/// The columns as the definition of a table has them.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Definition {
    /// The types of those columns that it spells out, by name.
    pub(crate) types: HashMap<String, String>,
    /// The tables or the type that it takes the others from.
    pub(crate) from: Vec<TableName>,
}

/// Reads the definition of a table out of a script; nothing where the script has none.
#[must_use]
pub(crate) fn definition(script: &str) -> Definition {
    statements(script).into_iter().find_map(read).unwrap_or_default()
}

/// Adds what other entries say of the columns that a definition takes from them.
pub(crate) fn complete(definition: &mut Definition, entries: &[Entry]) {
    let mut known: HashMap<TableName, &str> = HashMap::new();
    for entry in entries.iter().filter(|e| matches!(e.desc, ObjectType::Table | ObjectType::Type)) {
        let name = TableName::new(namespace(entry), tag(entry));
        known.insert(name, entry.defn.as_deref().unwrap_or_default());
    }
    let mut open = std::mem::take(&mut definition.from);
    for _level in 0..DEEPEST {
        let above: Vec<Definition> =
            open.iter().filter_map(|name| known.get(name)).map(|defn| self::definition(defn)).collect();
        open.clear();
        for one in above {
            for (column, kind) in one.types {
                definition.types.entry(column).or_insert(kind);
            }
            open.extend(one.from);
        }
        if open.is_empty() {
            return;
        }
    }
}

/// The columns of a table's primary key, where this statement makes it.
pub(crate) fn primary_key(definition: &str, of: &TableName) -> Option<Vec<String>> {
    let rest = definition.trim_start().strip_prefix("ALTER TABLE ")?;
    let (table, rest) = qualified(rest.strip_prefix("ONLY ").unwrap_or(rest))?;
    let (_, rest) = statements::name(rest.trim_start().strip_prefix("ADD CONSTRAINT ")?)?;
    let list = rest.trim_start().strip_prefix("PRIMARY KEY (").filter(|_| table == *of)?;
    Some(items(list).0.into_iter().filter_map(|column| statements::name(column).map(|(name, _)| name)).collect())
}

/// The name of a domain and the type that it is made of, where this statement makes one.
#[cfg_attr(not(feature = "export"), allow(dead_code, reason = "only the export asks for domains"))]
pub(crate) fn domain(definition: &str) -> Option<(TableName, String)> {
    let (name, rest) = qualified(definition.trim_start().strip_prefix("CREATE DOMAIN ")?)?;
    let base = kind(rest.trim_start().strip_prefix("AS ")?.trim_end().trim_end_matches(';'))?;
    Some((name, base.to_owned()))
}

/// Reads one statement, where it makes a table or a composite type.
fn read(statement: &str) -> Option<Definition> {
    let heads = ["CREATE TABLE ", "CREATE UNLOGGED TABLE ", "CREATE FOREIGN TABLE ", "CREATE TYPE "];
    let rest = heads.iter().find_map(|head| statement.strip_prefix(head))?;
    let (_own, mut rest) = qualified(rest)?;
    let mut definition = Definition::default();
    if let Some(of) = rest.trim_start().strip_prefix("OF ") {
        let (name, after) = qualified(of)?;
        definition.from.push(name);
        rest = after;
    }
    let list = rest.trim_start();
    let list = list.strip_prefix("AS ").unwrap_or(list);
    let Some(list) = list.strip_prefix('(') else { return Some(definition) };
    let (items, after) = items(list);
    for item in items {
        let Some((name, kind)) = column(item) else { continue };
        definition.types.insert(name, kind);
    }
    if let Some(parents) = after.trim_start().strip_prefix("INHERITS (") {
        definition
            .from
            .extend(self::items(parents).0.into_iter().filter_map(|one| qualified(one).map(|(name, _)| name)));
    }
    Some(definition)
}

/// A name with its schema, and what follows it.
fn qualified(text: &str) -> Option<(TableName, &str)> {
    let (schema, rest) = statements::name(text)?;
    let (table, rest) = statements::name(rest.strip_prefix('.')?)?;
    Some((TableName::new(schema, table), rest))
}

/// The items of a list up to its closing parenthesis, and what follows it.
fn items(list: &str) -> (Vec<&str>, &str) {
    let (mut found, mut depth, mut start, mut at) = (Vec::new(), 0_u32, 0, 0);
    while let Some(byte) = list.as_bytes().get(at) {
        let length = statements::token(list.as_bytes(), at);
        match byte {
            b'(' | b'[' => depth += 1,
            b')' if depth == 0 => {
                found.extend(list.get(start..at).map(str::trim).filter(|item| !item.is_empty()));
                return (found, list.get(at + 1..).unwrap_or_default());
            }
            b')' | b']' => depth = depth.saturating_sub(1),
            b',' if depth == 0 => {
                found.extend(list.get(start..at).map(str::trim));
                start = at + 1;
            }
            _ => {}
        }
        at += length;
    }
    (found, "")
}

/// Name and type of a column. An item that begins with a word in capitals is a constraint.
fn column(item: &str) -> Option<(String, String)> {
    if is_word(item) {
        return None;
    }
    let (name, rest) = statements::name(item)?;
    kind(rest).map(|kind| (name, kind.to_owned()))
}

/// The type that a text begins with. pg_dump writes its own words in capitals, types and names in small letters or quoted: so
/// the type ends before the first word in capitals.
fn kind(text: &str) -> Option<&str> {
    let text = text.trim_start();
    let (mut end, mut depth) = (0, 0_u32);
    while let Some(byte) = text.as_bytes().get(end) {
        match byte {
            b'(' => depth += 1,
            b')' => depth = depth.saturating_sub(1),
            b' ' | b'\n' | b'\t' if depth == 0 && text.get(end..).is_some_and(|rest| is_word(rest.trim_start())) => {
                break;
            }
            _ => {}
        }
        end += statements::token(text.as_bytes(), end);
    }
    let kind = text.get(..end)?.trim();
    (!kind.is_empty() && !is_word(kind)).then_some(kind)
}

/// True for a text that begins with a word in capitals.
fn is_word(text: &str) -> bool {
    let word = text.split(|c: char| !c.is_ascii_alphabetic()).next().unwrap_or_default();
    word.len() > 1 && word.bytes().all(|byte| byte.is_ascii_uppercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_base_of_a_domain_ends_before_its_constraints() {
        for (text, base) in [
            (
                "CREATE DOMAIN s.\"d.\" AS numeric(5,2) NOT NULL DEFAULT 0\n\tCONSTRAINT c CHECK ((VALUE > 0));\n",
                "numeric(5,2)",
            ),
            (
                "CREATE DOMAIN s.\"d.\" AS character varying(20)\n\tCONSTRAINT \"C\" CHECK (true);",
                "character varying(20)",
            ),
            ("CREATE DOMAIN s.\"d.\" AS o.other[];\n", "o.other[]"),
        ] {
            assert_eq!(domain(text), Some((TableName::new("s", "d."), base.to_owned())));
        }
        assert_eq!(domain("CREATE TYPE s.d AS (a integer);"), None);
    }

    #[test]
    fn the_types_of_columns_are_read_whatever_names_and_defaults_hold() {
        let script = "SET x = 1;\nCREATE UNLOGGED TABLE s.\"t (,\" (\n    id bigint NOT NULL,\n    \"b, \"\"(\" character varying(20) \
            COLLATE \"C\" DEFAULT 'x, y)'::character varying,\n    at timestamp(3) with time zone,\n    n numeric(10,2)[] DEFAULT ARRAY[1, 2],\n    \
            k kinds.\"evil\n type, NOT\",\n    g integer GENERATED ALWAYS AS ((id * 2)) STORED,\n    CONSTRAINT c CHECK ((id > 0))\n)\n\
            INHERITS (s.parent, \"o.dd\".\"p\"\"\")\nWITH (fillfactor='70');";
        let read = definition(script);
        let kind = |name: &str| read.types.get(name).map(String::as_str);
        assert_eq!(kind("id"), Some("bigint"));
        assert_eq!(kind("b, \"("), Some("character varying(20)"));
        assert_eq!(kind("at"), Some("timestamp(3) with time zone"));
        assert_eq!(kind("n"), Some("numeric(10,2)[]"));
        assert_eq!(kind("k"), Some("kinds.\"evil\n type, NOT\""));
        assert_eq!(kind("g"), Some("integer"));
        assert_eq!(read.types.len(), 6);
        assert_eq!(read.from, [TableName::new("s", "parent"), TableName::new("o.dd", "p\"")]);
        let typed = definition("CREATE TABLE s.t OF s.pair (\n    a WITH OPTIONS NOT NULL\n);");
        assert_eq!((typed.types.len(), typed.from), (0, vec![TableName::new("s", "pair")]));
        let pair = definition("CREATE TYPE s.pair AS (\n\ta integer,\n\t\"b c\" text COLLATE \"C\"\n);");
        assert_eq!(pair.types.get("b c").map(String::as_str), Some("text"));
    }
}
