//! The forget list: keys of rows that had to be erased, one JSON document a line, as an application appends them. Owns
//! what a line may hold; a line that is not understood is refused with its number, before anything is changed: a key that is
//! left out by mistake brings somebody's data back.
//!
//! Nothing here shows a value: error messages name the line and the column.

use std::collections::{HashMap, HashSet};

use serde::Deserialize;
use serde::de::{Deserializer, Error as _, MapAccess, Visitor};
use serde_json::Value;

use crate::error::{Error, Result};
use crate::seal::hash;

/// Largest list. Half a million keys are well below it.
pub(crate) const LARGEST: u64 = 64 << 20;

/// A list that was read.
#[derive(Debug, Default)]
pub(crate) struct List {
    /// The name of the list in messages.
    pub(crate) from: String,
    /// Keys of the same table and columns stand together, in the order of the first of each.
    pub(crate) groups: Vec<Group>,
    /// Lines that hold a key.
    pub(crate) lines: u64,
    /// Lines that say what an earlier one says.
    pub(crate) duplicates: u64,
    /// SHA-256 of the text.
    pub(crate) sha256: String,
}

/// Keys of one table, of the same columns.
#[derive(Debug)]
pub(crate) struct Group {
    /// The table as it was written.
    pub(crate) table: String,
    pub(crate) columns: Vec<String>,
    /// The number of the line of each key.
    pub(crate) lines: Vec<i64>,
    /// The values as text: of each column, those of all keys.
    pub(crate) values: Vec<Vec<String>>,
}

#[derive(Deserialize)]
struct Line {
    table: String,
    key: Key,
}

/// Columns and values. A column that stands twice is refused: one of both would be lost.
struct Key(Vec<(String, Value)>);

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Pairs;
        impl<'de> Visitor<'de> for Pairs {
            type Value = Key;

            fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                formatter.write_str("an object of columns and values")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Key, A::Error> {
                let mut pairs: Vec<(String, Value)> = Vec::new();
                while let Some((name, value)) = map.next_entry::<String, Value>()? {
                    if pairs.iter().any(|(known, _)| *known == name) {
                        return Err(A::Error::custom(format_args!("column {name:?} stands twice")));
                    }
                    pairs.push((name, value));
                }
                Ok(Key(pairs))
            }
        }
        deserializer.deserialize_map(Pairs)
    }
}

impl List {
    /// Reads the text of a list; `from` names it in messages.
    ///
    /// # Errors
    /// Kind `Usage`, with the number of the line.
    pub(crate) fn parse(text: &[u8], from: &str) -> Result<Self> {
        let mut list = Self { from: from.to_owned(), sha256: hash::sha256(text), ..Self::default() };
        let mut places: HashMap<(String, Vec<String>), usize> = HashMap::new();
        let mut seen: Vec<HashSet<Vec<String>>> = Vec::new();
        for (at, line) in text.split(|byte| *byte == b'\n').enumerate() {
            if line.trim_ascii().is_empty() {
                continue;
            }
            let number = at + 1;
            let (table, pairs) = read(line).map_err(|why| refused(from, number, &why))?;
            list.lines += 1;
            let (columns, values): (Vec<String>, Vec<String>) = pairs.into_iter().unzip();
            let place = *places.entry((table.clone(), columns.clone())).or_insert_with(|| {
                seen.push(HashSet::new());
                let values = vec![Vec::new(); columns.len()];
                list.groups.push(Group { table, columns, lines: Vec::new(), values });
                list.groups.len() - 1
            });
            let (Some(group), Some(seen)) = (list.groups.get_mut(place), seen.get_mut(place)) else { continue };
            if !seen.insert(values.clone()) {
                list.duplicates += 1;
                continue;
            }
            group.lines.push(i64::try_from(number).unwrap_or(i64::MAX));
            for (all, value) in group.values.iter_mut().zip(values) {
                all.push(value);
            }
        }
        Ok(list)
    }
}

/// The error of one line.
pub(crate) fn refused(from: &str, line: usize, why: &str) -> Error {
    Error::usage(format!("line {line} of the forget list {from}: {why}"))
        .hint(r#"a line is {"table":"public.users","key":{"id":"4711"}}"#)
        .hint("nothing was changed")
}

/// The table and the key of a line, its columns in the order of their names.
fn read(line: &[u8]) -> std::result::Result<(String, Vec<(String, String)>), String> {
    // The words of the parser show names and places, and where a value is of another kind than asked for, the value.
    let line: Line = serde_json::from_slice(line).map_err(|error| match error.classify() {
        serde_json::error::Category::Data => "no \"table\" (a text) and \"key\" (columns and values)".to_owned(),
        _ => format!("no JSON document (column {})", error.column()),
    })?;
    let Key(pairs) = line.key;
    if pairs.is_empty() {
        return Err("its key has no column".to_owned());
    }
    let mut key = Vec::with_capacity(pairs.len());
    for (column, value) in pairs {
        let text = match value {
            Value::String(text) if text.contains('\0') => return Err(format!("{column:?} holds a zero byte")),
            Value::String(text) => text,
            Value::Bool(is) => is.to_string(),
            // A double would lose digits.
            Value::Number(number) if !number.is_f64() => number.to_string(),
            Value::Number(_) => {
                return Err(format!("{column:?} is a number with a fraction, or a large one: write it as a text"));
            }
            Value::Null => return Err(format!("{column:?} is null, which equals nothing")),
            Value::Array(_) | Value::Object(_) => {
                return Err(format!("{column:?} is no single value: write it as a text"));
            }
        };
        key.push((column, text));
    }
    key.sort();
    Ok((line.table, key))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_grouped_and_what_stands_twice_is_counted() {
        let text = br#"{"table":"public.users","key":{"id":4711}}

            {"table":"public.users","key":{"id":"4711"},"at":"2026-01-01"}
            {"key":{"b":"x","a":true},"table":"s.t"}
            {"table":"s.t","key":{"a":"true","b":"x"}}
            {"table":"public.users","key":{"id":-5}}"#;
        let list = List::parse(text, "x").unwrap();
        assert_eq!((list.lines, list.duplicates, list.groups.len()), (5, 2, 2));
        let users = &list.groups[0];
        assert_eq!((&users.lines[..], &users.values[0][..]), (&[1, 6][..], &["4711".to_owned(), "-5".to_owned()][..]));
        assert_eq!(list.groups[1].columns, ["a", "b"]);
        assert_eq!(List::parse(b"", "x").unwrap().lines, 0);
    }

    #[test]
    fn a_line_that_is_not_understood_is_refused_by_its_number_without_its_values() {
        for line in [
            "{",
            "[]",
            "secret",
            r#"{"table":"a.b"}"#,
            r#"{"table":"a.b","key":{}}"#,
            r#"{"table":"a.b","key":{"id":null}}"#,
            r#"{"table":"a.b","key":{"id":1.5}}"#,
            r#"{"table":"a.b","key":{"id":123456789012345678901234567890}}"#,
            r#"{"table":"a.b","key":{"id":["secret"]}}"#,
            r#"{"table":"a.b","key":{"id":"secret","id":"other"}}"#,
            r#"{"table":7,"key":{"id":"secret"}}"#,
            r#"{"table":"a.b","key":"secret"}"#,
            "{\"table\":\"a.b\",\"key\":{\"id\":\"secret\\u0000\"}}",
            "{\"table\":\"a.b\",\"key\":{\"id\":\"secret\"}} x",
        ] {
            let text = format!("{{\"table\":\"a.b\",\"key\":{{\"id\":1}}}}\n\n{line}\n");
            let error = List::parse(text.as_bytes(), "list").unwrap_err();
            assert!(error.message().contains("line 3") && !error.message().contains("secret"), "{}", error.message());
        }
    }
}
