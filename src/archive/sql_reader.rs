//! Reads a table's SQL file as psql would: finds its one `COPY ... FROM stdin`, its rows and its end.
//!
//! Text inside literals, quoted names, dollar quotes, comments and psql commands is never taken for a statement.
//! Fed in pieces of any size, so a caller can look at the state between two pieces. Memory: one COPY statement
//! (at most 1 MiB); rows and other statements are not held. `standard_conforming_strings` is on, as the file sets it.

use crate::archive::rows::Rows;
use crate::error::{Error, Result};
use crate::seal::digest::Fingerprint;
use crate::sql::letters::Letters;
use crate::sql::statements::without_encoding;

/// The beginning of every SQL file's last line; without it the file was cut off.
pub(crate) const END: &str = "-- pgstow: end";

/// 1,600 columns with names of 63 bytes, all of them quotes, make 208 KB.
const LONGEST_COPY: usize = 1 << 20;

/// Longest comment line kept for comparison with [`END`]; a name of 63 bytes may be escaped.
const LONGEST_END: usize = 1024;

/// The contents of a SQL file.
#[derive(Debug, Clone)]
pub(crate) struct Sql {
    /// Its `COPY ... FROM stdin;` statement, where it has one.
    pub(crate) copy: Option<String>,
    /// Its rows.
    pub(crate) rows: Fingerprint,
    /// Its last line.
    pub(crate) end: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    Plain,
    Literal { escapes: bool, escaped: bool },
    LiteralEnd { escapes: bool },
    Quoted,
    LineComment { text: Vec<u8>, first_column: bool },
    BlockComment { depth: u32, before: u8 },
    DollarTag { tag: Vec<u8> },
    Dollar { delimiter: Vec<u8>, matched: usize },
    Command,
    CopyLineEnd,
    Rows,
}

/// A reader of one SQL file, fed in order.
#[derive(Debug)]
pub(crate) struct SqlReader {
    state: State,
    /// The last two bytes of plain text, newest first; 0 where something else stood.
    before: [u8; 2],
    /// A `-` or `/` that may begin a comment.
    pending: Option<u8>,
    column: u64,
    statement: Statement,
    copy: Option<String>,
    rows: Rows,
    end: Option<String>,
    letters: Letters,
}

/// The statement being read, kept only as long as it may be a COPY.
#[derive(Debug, Default)]
struct Statement {
    open: bool,
    other: bool,
    text: Vec<u8>,
}

impl Statement {
    fn push(&mut self, byte: u8) -> Result<()> {
        if !self.open && byte.is_ascii_whitespace() {
            return Ok(());
        }
        self.open = true;
        if self.other {
            return Ok(());
        }
        let expected = b"COPY ".get(self.text.len());
        if expected.is_some_and(|expected| !expected.eq_ignore_ascii_case(&byte)) {
            self.other = true;
            self.text = Vec::new();
            return Ok(());
        }
        if self.text.len() >= LONGEST_COPY {
            return Err(Error::damage("a COPY statement of more than 1 MiB"));
        }
        self.text.push(byte);
        Ok(())
    }
}

impl Default for SqlReader {
    fn default() -> Self {
        Self {
            state: State::Plain,
            before: [0; 2],
            pending: None,
            column: 0,
            statement: Statement::default(),
            copy: None,
            rows: Rows::default(),
            end: None,
            letters: Letters::default(),
        }
    }
}

const fn in_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$') || byte >= 0x80
}

impl SqlReader {
    /// Takes the next bytes of the file.
    ///
    /// # Errors
    /// Kind `Damage`: a second COPY, text behind a COPY statement on its line, a statement too long to be one.
    pub(crate) fn feed(&mut self, text: &[u8]) -> Result<()> {
        let mut rest = text;
        loop {
            if self.state == State::Rows {
                let (_, after) = rest.split_at(self.rows.feed(rest));
                rest = after;
                if self.rows.ended() {
                    self.state = State::Plain;
                    self.column = 0;
                }
            }
            let Some((byte, after)) = rest.split_first() else { return Ok(()) };
            self.step(*byte)?;
            self.column = if *byte == b'\n' { 0 } else { self.column + 1 };
            rest = after;
        }
    }

    /// Rows read so far where the reader stands between two rows (also before the first and after the last),
    /// `None` anywhere else.
    #[must_use]
    pub(crate) fn between_rows(&self) -> Option<u64> {
        (self.state == State::Rows && self.rows.between_rows()).then_some(self.rows.fingerprint().rows)
    }

    /// The `COPY ... FROM stdin;` statement, once it was read.
    #[must_use]
    pub(crate) fn copy(&self) -> Option<&str> {
        self.copy.as_deref()
    }

    /// The letters of the file's encoding, as far as it has said them.
    pub(crate) const fn letters(&self) -> &Letters {
        &self.letters
    }

    /// The file ends here.
    ///
    /// # Errors
    /// Kind `Damage` when it ends inside a statement, a literal or the rows, or without its last line.
    pub(crate) fn finish(mut self) -> Result<Sql> {
        match &self.state {
            State::Rows => return Err(Error::damage(r"ends inside the rows, without \.")),
            State::Plain | State::LiteralEnd { .. } | State::Command => {}
            State::LineComment { .. } => self.step(b'\n')?,
            State::CopyLineEnd => return Err(Error::damage("ends right after COPY")),
            _ => return Err(Error::damage("ends inside a literal, a quoted name or a comment")),
        }
        if let Some(pending) = self.pending.take() {
            self.plain(pending)?;
        }
        if self.statement.open {
            return Err(Error::damage("ends inside a statement"));
        }
        let end = self.end.ok_or_else(|| Error::damage("its last line is missing: cut off or added to"))?;
        Ok(Sql { copy: self.copy, rows: *self.rows.fingerprint(), end })
    }

    fn step(&mut self, byte: u8) -> Result<()> {
        match &mut self.state {
            State::Plain => return self.plain(byte),
            State::Rows => {}
            State::Literal { .. } | State::LiteralEnd { .. } => return self.literal(byte),
            State::Quoted => {
                if byte == b'"' {
                    self.state = State::Plain;
                }
                self.statement.push(byte)?;
            }
            State::LineComment { text, first_column } => {
                if byte != b'\n' {
                    if text.len() < LONGEST_END {
                        text.push(byte);
                    }
                    return Ok(());
                }
                if *first_column {
                    self.letters.learn(text);
                }
                self.end = (*first_column && text.starts_with(END.as_bytes()))
                    .then(|| String::from_utf8_lossy(text).into_owned());
                self.state = State::Plain;
            }
            State::BlockComment { depth, before } => {
                match (*before, byte) {
                    (b'/', b'*') => (*depth, *before) = (*depth + 1, 0),
                    (b'*', b'/') => (*depth, *before) = (*depth - 1, 0),
                    _ => *before = byte,
                }
                if *depth == 0 {
                    self.state = State::Plain;
                }
            }
            State::DollarTag { .. } | State::Dollar { .. } => return self.dollar(byte),
            State::Command => {
                if byte == b'\n' {
                    self.state = State::Plain;
                }
            }
            State::CopyLineEnd => {
                if byte != b'\n' {
                    return Err(Error::damage("text behind the COPY statement on its line"));
                }
                self.state = State::Rows;
            }
        }
        Ok(())
    }

    fn literal(&mut self, byte: u8) -> Result<()> {
        match &mut self.state {
            State::Literal { escapes, escaped } => {
                if *escaped {
                    *escaped = false;
                } else if *escapes && byte == b'\\' {
                    *escaped = true;
                } else if byte == b'\'' {
                    self.state = State::LiteralEnd { escapes: *escapes };
                }
                self.statement.push(byte)?;
            }
            State::LiteralEnd { escapes } => {
                if byte != b'\'' {
                    self.state = State::Plain;
                    return self.plain(byte);
                }
                self.state = State::Literal { escapes: *escapes, escaped: false };
                self.statement.push(byte)?;
            }
            _ => {}
        }
        Ok(())
    }

    fn dollar(&mut self, byte: u8) -> Result<()> {
        match &mut self.state {
            State::DollarTag { tag } => {
                if byte == b'$' {
                    let mut delimiter = std::mem::take(tag);
                    delimiter.insert(0, b'$');
                    delimiter.push(b'$');
                    self.state = State::Dollar { delimiter, matched: 0 };
                } else if in_name(byte) && !(tag.is_empty() && byte.is_ascii_digit()) {
                    tag.push(byte);
                } else {
                    self.state = State::Plain;
                    return self.plain(byte);
                }
            }
            State::Dollar { delimiter, matched } => {
                // A tag has no `$`, so a failed match can only begin again at this very byte.
                *matched = match delimiter.get(*matched) {
                    Some(expected) if *expected == byte => *matched + 1,
                    _ => usize::from(byte == b'$'),
                };
                if *matched == delimiter.len() {
                    self.state = State::Plain;
                }
            }
            _ => {}
        }
        self.statement.push(byte)
    }

    fn plain(&mut self, byte: u8) -> Result<()> {
        if let Some(pending) = self.pending.take() {
            let comment = match (pending, byte) {
                (b'-', b'-') => State::LineComment { text: b"--".to_vec(), first_column: self.column == 1 },
                (b'/', b'*') => State::BlockComment { depth: 1, before: 0 },
                _ => State::Plain,
            };
            if comment != State::Plain {
                self.state = comment;
                self.end = None;
                self.before = [0; 2];
                return Ok(());
            }
            self.take(pending)?;
        }
        let [before, earlier] = self.before;
        match byte {
            b'-' | b'/' => {
                self.pending = Some(byte);
                return Ok(());
            }
            b'\'' => {
                let escapes = before.eq_ignore_ascii_case(&b'e') && !in_name(earlier);
                self.state = State::Literal { escapes, escaped: false };
            }
            b'"' => self.state = State::Quoted,
            b'$' if !in_name(before) => self.state = State::DollarTag { tag: Vec::new() },
            b'\\' => {
                self.state = State::Command;
                self.end = None;
                return Ok(());
            }
            b';' => {
                self.take(byte)?;
                return self.statement_end();
            }
            _ => {}
        }
        self.take(byte)?;
        if self.state != State::Plain {
            self.before = [0; 2];
        }
        Ok(())
    }

    fn take(&mut self, byte: u8) -> Result<()> {
        if !byte.is_ascii_whitespace() {
            self.end = None;
        }
        let [before, _] = self.before;
        self.before = [byte, before];
        self.statement.push(byte)
    }

    fn statement_end(&mut self) -> Result<()> {
        let statement = std::mem::take(&mut self.statement);
        if statement.other || !ends_in_from_stdin(&statement.text) {
            return Ok(());
        }
        if self.copy.is_some() {
            return Err(Error::damage("a second COPY statement"));
        }
        self.copy = Some(self.letters.decode(&statement.text));
        self.state = State::CopyLineEnd;
        Ok(())
    }
}

/// True for `COPY ... FROM stdin;`, with or without the encoding of its rows.
fn ends_in_from_stdin(text: &[u8]) -> bool {
    let tail = b"FROM STDIN";
    let text = Letters::default().decode(text);
    let text = without_encoding(&text).as_bytes();
    let end = text.len().checked_sub(tail.len()).and_then(|start| text.get(start..));
    end.is_some_and(|end| end.eq_ignore_ascii_case(tail))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = r#"-- "s"."t"
SET a = 'COPY x FROM stdin;';
\restrict it's
/* COPY a FROM stdin; /* nested */ '
COPY b FROM stdin;
*/
CREATE TABLE "s"."a""; COPY z FROM stdin;
" (a text DEFAULT E'it\'s '' \'; COPY c FROM stdin;' , b int DEFAULT 1 - -1 /* c */);
DO $x$ COPY d FROM stdin;
$y$ $x $$ $x$;
-- COPY e FROM stdin;
COPY "s"."t; -- ""q" (a, "b""
\.
'") FROM stdin;
1	x
'
-- pgstow: end of nothing

\.

ALTER TABLE x ADD CHECK (a$b$c <> $1);
-- pgstow: end of s.t
"#;

    fn read(text: &[u8], pieces: usize) -> Result<Sql> {
        let mut reader = SqlReader::default();
        for piece in text.chunks(pieces) {
            reader.feed(piece)?;
        }
        reader.finish()
    }

    #[test]
    fn the_copy_statement_is_found_among_texts_that_look_like_one() {
        for pieces in 1..40 {
            let sql = read(FILE.as_bytes(), pieces).unwrap();
            assert_eq!(sql.copy.as_deref(), Some("COPY \"s\".\"t; -- \"\"q\" (a, \"b\"\"\n\\.\n'\") FROM stdin;"));
            assert_eq!(sql.rows.rows, 4);
            assert_eq!(sql.rows.bytes, 4 + 2 + 26 + 1);
            assert_eq!(sql.end, "-- pgstow: end of s.t");
        }
    }

    #[test]
    fn a_file_cut_anywhere_or_added_to_is_refused() {
        let end = FILE.find("-- pgstow: end of s.t").unwrap() + END.len();
        for cut in 0..end {
            assert!(read(&FILE.as_bytes()[..cut], 7).is_err(), "cut at {cut}");
        }
        for more in ["x", "-- x", "/* */", "SELECT 1;\n", "COPY a FROM stdin;\n\\.\n"] {
            assert!(read(format!("{FILE}{more}").as_bytes(), 1 << 20).is_err(), "{more}");
        }
        let twice = FILE.replace("ALTER TABLE", "COPY a FROM stdin;\n\\.\nALTER TABLE");
        assert!(read(twice.as_bytes(), 1 << 20).is_err());
    }
}
