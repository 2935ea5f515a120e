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
