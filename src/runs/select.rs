//! From the name of a schema or table as a person typed it to the one in a manifest, and the error for a name that is
//! not there, with those that look like it.

use crate::error::{Error, Result};
use crate::format::manifest::Manifest;

/// Edits between a name and one that is offered for it, at most.
const NEAR: usize = 3;

/// Finds a schema; returns its place in the manifest.
///
/// # Errors
/// Kind `Usage` where the run has none of that name.
pub(crate) fn schema(manifest: &Manifest, wanted: &str) -> Result<usize> {
    let found = manifest.schemas.iter().position(|schema| schema.name == wanted);
    found.ok_or_else(|| {
        let known: Vec<&str> = manifest.schemas.iter().map(|schema| schema.name.as_str()).collect();
        unknown("schema", wanted, &known)
    })
}

/// Finds `schema.table`; either name may be in double quotes, and an unquoted dot may stand anywhere. Returns the
/// places of both.
///
/// # Errors
/// Kind `Usage` where no table or several match.
pub(crate) fn table(manifest: &Manifest, wanted: &str) -> Result<(usize, usize)> {
    let mut matching = Vec::new();
    let mut unqualified = Vec::new();
    for (at, schema) in manifest.schemas.iter().enumerate() {
        for (number, table) in schema.tables.iter().enumerate() {
            let name = || format!("{}.{}", quoted(&schema.name), quoted(&table.name));
            if spellings(wanted).any(|(s, t)| s == schema.name && t == table.name) {
                matching.push((at, number, name()));
            } else if unquoted(wanted).is_some_and(|wanted| wanted == table.name) {
                unqualified.push(name());
            }
        }
    }
    match matching.as_slice() {
        [(at, number, _)] => Ok((*at, *number)),
        [] if !unqualified.is_empty() => Err(Error::usage(format!("{wanted:?} names no schema"))
            .hint(format!("did you mean {}?", unqualified.join(" or ")))),
        [] => {
            let known: Vec<String> = manifest
                .schemas
                .iter()
                .flat_map(|schema| schema.tables.iter().map(move |table| format!("{}.{}", schema.name, table.name)))
                .collect();
            let known: Vec<&str> = known.iter().map(String::as_str).collect();
            Err(unknown("table", wanted, &known))
        }
        several => {
            let names: Vec<&str> = several.iter().map(|(_, _, name)| name.as_str()).collect();
            Err(Error::usage(format!("{wanted:?} can be several tables")).hint(format!("write {}", names.join(" or "))))
        }
    }
}

/// An error for a name that the run does not have, with the names that look like it.
pub(crate) fn unknown(what: &str, wanted: &str, known: &[&str]) -> Error {
    let error = Error::usage(format!("no {what} {wanted:?} in this run"));
    match nearest(wanted, known).as_slice() {
        [] => error.hint("`pgstow show` prints what the run contains"),
        near => error.hint(format!("did you mean {}?", near.join(" or "))),
    }
}

/// Up to three names that look like this one, the nearest first, each in quotes.
pub(crate) fn nearest(wanted: &str, known: &[&str]) -> Vec<String> {
    let mut near: Vec<(usize, &str)> = known.iter().map(|name| (distance(wanted, name), *name)).collect();
    near.sort_unstable();
    near.iter().take_while(|(far, _)| *far <= NEAR).take(3).map(|(_, name)| format!("{name:?}")).collect()
}

/// Edit distance (Levenshtein), upper and lower case alike.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.to_lowercase().chars().collect();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for (row, from) in a.to_lowercase().chars().enumerate() {
        let mut left = row + 1;
        let mut next = vec![left];
        for (to, above) in b.iter().zip(last.windows(2)) {
            let &[diagonal, above] = above else { continue };
            left = (diagonal + usize::from(from != *to)).min(above + 1).min(left + 1);
            next.push(left);
        }
        last = next;
    }
    last.last().copied().unwrap_or_default()
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Every way to read `wanted` as schema and table.
fn spellings(wanted: &str) -> impl Iterator<Item = (String, String)> {
    wanted.match_indices('.').filter_map(|(at, _)| {
        let (schema, table) = wanted.split_at(at);
        Some((unquoted(schema)?, unquoted(table.strip_prefix('.')?)?))
    })
}

/// A name with its quotes taken off; `None` where quotes stand so that it is no name.
fn unquoted(name: &str) -> Option<String> {
    let Some(rest) = name.strip_prefix('"') else {
        return (!name.is_empty() && !name.contains('"')).then(|| name.to_owned());
    };
    let inner = rest.strip_suffix('"')?;
    let plain = inner.replace("\"\"", "\0");
    (!plain.is_empty() && !plain.contains('"')).then(|| plain.replace('\0', "\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_found_however_its_name_is_quoted() {
        let all = |text: &str| spellings(text).collect::<Vec<_>>();
        let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        assert_eq!(all("a.b"), [pair("a", "b")]);
        assert_eq!(all("a.b.c"), [pair("a", "b.c"), pair("a.b", "c")]);
        assert_eq!(all("\"a.b\".c"), [pair("a.b", "c")]);
        assert_eq!(all("a.\"b.\"\"c\"\"\""), [pair("a", "b.\"c\"")]);
        assert_eq!(all("nothing"), []);
    }
}
