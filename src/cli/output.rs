//! What commands print on stdout: results only, as text or as one JSON document.

use std::fmt::Write as _;
use std::io::{ErrorKind, Write as _};

use serde::Serialize;

use crate::error::{Context as _, Error, Result};

/// Prints on stdout. A reader that went away (`| head`) is no error.
pub(crate) fn print(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error).context("write to stdout"),
        _ => Ok(()),
    }
}

/// Prints one JSON document.
pub(crate) fn print_json<T: Serialize>(value: &T) -> Result<()> {
    let text = serde_json::to_string_pretty(value).map_err(|error| Error::failed(format!("write JSON: {error}")))?;
    print(&format!("{text}\n"))
}

/// A size for people: `812 B`, `3.4 MiB`.
pub(crate) fn size(bytes: u64) -> String {
    indicatif::HumanBytes(bytes).to_string()
}

/// A number for people: `1,234,567`.
pub(crate) fn count(number: u64) -> String {
    indicatif::HumanCount(number).to_string()
}

/// Things with a kind, a name and a reason: one line for those that have kind and reason in common, in the order of the
/// first of them. At most `shown` names in each line.
pub(crate) fn grouped<'a>(things: impl Iterator<Item = (&'a str, String, &'a str)>, shown: usize) -> Vec<String> {
    let mut groups: Vec<(&str, &str, Vec<String>)> = Vec::new();
    for (kind, name, reason) in things {
        match groups.iter_mut().find(|group| (group.0, group.1) == (kind, reason)) {
            Some(group) => group.2.push(name),
            None => groups.push((kind, reason, vec![name])),
        }
    }
    let line = |(kind, reason, names): (&str, &str, Vec<String>)| {
        let more = names.len().saturating_sub(shown);
        let names = names.into_iter().take(shown).map(|name| plain(&name)).collect::<Vec<_>>().join(", ");
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        format!("{kind} {names}{more}: {}", plain(reason))
    };
    groups.into_iter().map(line).collect()
}

/// Rows under a head, columns as wide as their longest cell; those listed in `right` are numbers.
pub(crate) fn table(head: &[&str], right: &[usize], rows: &[Vec<String>]) -> String {
    let widths: Vec<usize> = head
        .iter()
        .enumerate()
        .map(|(at, title)| {
            let cells = rows.iter().filter_map(|row| row.get(at)).map(|cell| cell.chars().count());
            cells.chain([title.len()]).max().unwrap_or_default()
        })
        .collect();
    let mut text = String::new();
    let head: Vec<String> = head.iter().map(|&title| title.to_owned()).collect();
    for row in std::iter::once(&head).chain(rows) {
        let mut line = String::new();
        for (at, (cell, width)) in row.iter().zip(&widths).enumerate() {
            let gap = if at == 0 { "" } else { "  " };
            let written = if right.contains(&at) {
                write!(line, "{gap}{cell:>width$}")
            } else {
                write!(line, "{gap}{cell:<width$}")
            };
            debug_assert!(written.is_ok(), "writing to a String does not fail");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// A name of the database as one line of text: control characters cannot touch the terminal.
pub(crate) fn plain(name: &str) -> String {
    name.chars().flat_map(|c| if c.is_control() { c.escape_default().collect::<Vec<_>>() } else { vec![c] }).collect()
}

#[cfg(test)]
mod tests {
    use super::grouped;

    #[test]
    fn what_has_a_reason_in_common_is_one_line() {
        let things =
            [("table", "a", "x"), ("view", "v", "x"), ("table", "b", "x"), ("table", "c", "x"), ("table", "d", "y")];
        let things = || things.into_iter().map(|(kind, name, reason)| (kind, name.to_owned(), reason));
        assert_eq!(grouped(things(), 2), ["table a, b and 1 more: x", "view v: x", "table d: y"]);
        assert_eq!(grouped(things(), 3), ["table a, b, c: x", "view v: x", "table d: y"]);
    }
}
