//! Rows of a table on stdout: as a table for people, as JSON, as CSV like PostgreSQL's.

use std::fmt::Write as _;

use crate::archive::copy_text::Value;
use crate::error::{Error, Result};
use crate::human;

/// Characters of a cell that the table shows; JSON and CSV hold the whole value.
const CELL: usize = 60;

/// A value as one cell of a table.
pub(crate) fn cell(value: &Value) -> String {
    let Some(text) = value else { return "NULL".to_owned() };
    let text = String::from_utf8_lossy(text);
    let mut shown = human::plain(&text.chars().take(CELL + 1).collect::<String>());
    if shown.chars().count() > CELL {
        shown = shown.chars().take(CELL - 1).collect();
        shown.push('…');
    }
    shown
}

/// A value as JSON: booleans, numbers and documents as what they are, as PostgreSQL's `to_json` writes them; all else as
/// the text that PostgreSQL writes.
pub(crate) fn json(value: &Value, kind: Option<&str>) -> Result<String> {
    let Some(bytes) = value else { return Ok("null".to_owned()) };
    let text = String::from_utf8_lossy(bytes);
    let base = kind.map(|kind| kind.split('(').next().unwrap_or(kind)).unwrap_or_default();
    let is_number = text.starts_with(|c: char| c.is_ascii_digit() || c == '-') && !text.contains('I');
    match base {
        "boolean" if text == "t" => return Ok("true".to_owned()),
        "boolean" if text == "f" => return Ok("false".to_owned()),
        "smallint" | "integer" | "bigint" | "real" | "double precision" | "numeric" if is_number => {
            return Ok(text.into_owned());
        }
        "json" | "jsonb" if kind == Some(base) => return Ok(human::escaped_json(&text)),
        _ => {}
    }
    string(&text)
}

/// A text as a JSON string that cannot touch a terminal.
pub(crate) fn string(text: &str) -> Result<String> {
    let json = serde_json::to_string(text).map_err(|error| Error::failed(format!("write JSON: {error}")))?;
    Ok(human::escaped_json(&json))
}

/// A row as a JSON object: names and values in their order. A table cannot have two columns of one name.
pub(crate) fn json_row<'a>(fields: impl Iterator<Item = (&'a str, Option<&'a str>, &'a Value)>) -> Result<String> {
    let mut text = String::from("{");
    for (at, (name, kind, value)) in fields.enumerate() {
        let comma = if at == 0 { "" } else { ", " };
        let written = write!(text, "{comma}{}: {}", string(name)?, json(value, kind)?);
        debug_assert!(written.is_ok(), "writing to a String does not fail");
    }
    text.push('}');
    Ok(text)
}

/// A line of CSV, quoted where PostgreSQL's `COPY ... (FORMAT csv)` quotes (`CopyAttributeOutCSV` in copyto.c). NULL is
/// nothing, an empty text is `""`.
pub(crate) fn csv<'a>(values: impl ExactSizeIterator<Item = Option<&'a [u8]>>) -> Vec<u8> {
    let single = values.len() == 1;
    let mut line = Vec::new();
    for (at, value) in values.enumerate() {
        if at > 0 {
            line.push(b',');
        }
        let Some(value) = value else { continue };
        let quoted = value.is_empty()
            || (single && value == br"\.")
            || value.iter().any(|byte| matches!(byte, b',' | b'"' | b'\n' | b'\r'));
        if !quoted {
            line.extend_from_slice(value);
            continue;
        }
        line.push(b'"');
        for byte in value {
            if *byte == b'"' {
                line.push(b'"');
            }
            line.push(*byte);
        }
        line.push(b'"');
    }
    line.push(b'\n');
    line
}
