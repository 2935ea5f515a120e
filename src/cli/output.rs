//! The output of commands on stdout: results only, as text or as one JSON document.

use std::fmt::Write as _;
use std::io::{ErrorKind, IsTerminal as _, Write as _};
use std::sync::atomic::{AtomicBool, Ordering};

use serde::Serialize;

use crate::error::{Context as _, Error, Result};
use crate::human;

/// True once something is on stdout: `--json` promises one document.
static PRINTED: AtomicBool = AtomicBool::new(false);

/// Prints on stdout. A reader that went away (`| head`) is no error.
pub(crate) fn print(text: &str) -> Result<()> {
    PRINTED.store(true, Ordering::Relaxed);
    let mut out = std::io::stdout().lock();
    match out.write_all(human::harmless(text).as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error).context("write to stdout"),
        _ => Ok(()),
    }
}

/// Prints bytes as they are, but on a terminal, where nothing in them can touch it. False when the reader went away.
pub(crate) fn print_bytes(bytes: &[u8]) -> Result<bool> {
    PRINTED.store(true, Ordering::Relaxed);
    let out = std::io::stdout();
    let shown;
    let bytes = if out.is_terminal() {
        shown = human::harmless(&String::from_utf8_lossy(bytes)).into_owned();
        shown.as_bytes()
    } else {
        bytes
    };
    let mut out = out.lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
        other => other.context("write to stdout").map(|()| true),
    }
}

/// Prints one JSON document.
pub(crate) fn print_json<T: Serialize>(value: &T) -> Result<()> {
    let text = serde_json::to_string_pretty(value).map_err(|error| Error::failed(format!("write JSON: {error}")))?;
    // In JSON the only place for such a character is a string, where it can be written as its number.
    print(&human::escaped_json(&format!("{text}\n")))
}

/// The JSON document of an error.
#[derive(Serialize)]
struct Failure<'a> {
    error: String,
    hints: &'a [String],
    exit_code: u8,
}

/// Prints an error as a JSON document on stdout, where `--json` is asked for and no document is there yet.
pub fn print_error(error: &Error) {
    let asked = std::env::args_os().any(|arg| arg == "--json" || arg == "--json=true")
        || std::env::var("PGSTOW_JSON").is_ok_and(|value| matches!(value.as_str(), "1" | "true" | "yes" | "on"));
    if asked && !PRINTED.load(Ordering::Relaxed) {
        let failure = Failure { error: error.message(), hints: error.hints(), exit_code: error.kind().exit_code() };
        // The error itself goes to stderr; nothing better can be done for a stdout that is gone.
        let _unwritable = print_json(&failure);
    }
}

/// A text of any origin as one line that cannot touch the terminal.
#[must_use]
pub fn one_line(text: &str) -> String {
    human::plain(&text.replace(['\n', '\r', '\t'], " "))
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
